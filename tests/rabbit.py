"""A RabbitMQ of one's own: started in a directory on loopback, restarted, killed, and gone at the end."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.processes import free_port

if TYPE_CHECKING:
    from types import TracebackType

PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""Debian's; what it puts on the path would change to a user of its own."""
START_S = 90.0


def find_program() -> Path | None:
    """Where RabbitMQ is, or None."""
    found = shutil.which("rabbitmq-server")
    return PROGRAM if PROGRAM.exists() else Path(found) if found else None


class Rabbit:
    """One broker with its own ports and data.

    Args:
        folder: Where its data and logs are.
        consumer_timeout_ms: How long a consumer may hold a message; None: as RabbitMQ has it, 30 minutes.
    """

    def __init__(self, folder: Path, *, consumer_timeout_ms: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.port, self._node_port, self._names_port = free_port(), free_port(), free_port()
        lines = [
            f"listeners.tcp.local = 127.0.0.1:{self.port}",
            "loopback_users.guest = true",
            "vm_memory_high_watermark.relative = 0.6",
        ]
        lines += ["disk_free_limit.absolute = 1MB"]
        lines += [f"consumer_timeout = {consumer_timeout_ms}"] if consumer_timeout_ms else []
        (folder / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (folder / "plugins").write_text("[].\n")
        (folder / "advanced.config").write_text("[{rabbit, [{channel_tick_interval, 1000}]}].\n")  # else 60 s
        self._process: subprocess.Popen[bytes] | None = None
        self._names: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        if self._names is not None:
            self._names.kill()
            self._names.wait(10)

    def start(self) -> None:
        """Start it and wait until it answers."""
        program = find_program()
        assert program is not None, "no rabbitmq-server: apt-get install rabbitmq-server"
        if self._names is None:  # Erlang would start one that outlives everything
            names = ["epmd", "-port", str(self._names_port), "-address", "127.0.0.1"]
            self._names = subprocess.Popen(names, stdin=subprocess.DEVNULL, start_new_session=True)
        own = {
            "HOME": str(self._folder),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._names_port),
            "RABBITMQ_NODENAME": f"t{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._node_port),
            "RABBITMQ_MNESIA_BASE": str(self._folder / "data"),
            "RABBITMQ_LOG_BASE": str(self._folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(self._folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self._folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": str(self._folder / "none"),
            "RABBITMQ_PID_FILE": str(self._folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none -kernel inet_dist_use_interface {127,0,0,1}",
        }
        with (self._folder / "out.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(program)],
                env=os.environ | own,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until = time.monotonic() + START_S
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "out.log").read_text()[-3000:]
            assert time.monotonic() < until, "RabbitMQ did not start"
            time.sleep(0.1)

    def _answers(self) -> bool:
        """Whether it speaks the protocol; the port alone is open earlier."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                probe.settimeout(2)
                probe.sendall(b"AMQP\x00\x00\x09\x01")
                return bool(probe.recv(8))
        except OSError:
            return False

    def kill(self) -> None:
        """End it at once; its data stays."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)

    def restart(self) -> None:
        """Kill it and start it anew, on the same port and data."""
        self.kill()
        self.start()
