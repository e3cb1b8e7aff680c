"""Harness for the real thing: worker processes, one way to wait, a ledger, and what must hold afterwards."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

import redis

from tests.warm import STACKS, start_python

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import ModuleType

Value = TypeVar("Value")
ROOT = Path(__file__).parent.parent
URL_VARIABLE = "TEST_REDIS_URL"
_alive: WeakSet[WorkerProcess] = WeakSet()
LOG_SHOWN = 40_000
_servers: dict[str, str] = {}  # where each program is that was loaded


def wait_until(condition: Callable[[], Value], what: str, *, timeout: float = 30.0) -> Value:
    """Poll until the condition is true and return its value; fails with `what` when time is up."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout} s"
        time.sleep(0.02)
    return value


class Ledger:
    """The outside world of the nodes under test: a list in a database of its own that no flow's state touches."""

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url.rsplit("/", 1)[0] + "/9", decode_responses=True)

    def note(self, event: str, name: str) -> None:
        """Write one line: event, name, Redis's time in seconds, process id."""
        seconds, micros = self.client.time()
        self.client.rpush("ledger", json.dumps([event, name, seconds + micros / 1e6, os.getpid()]))

    def lines(self, first: int = 0) -> list[tuple[str, str, float, int]]:
        return [tuple(json.loads(line)) for line in self.client.lrange("ledger", first, -1)]

    def names(self, event: str) -> list[str]:
        return [name for kind, name, _, _ in self.lines() if kind == event]

    def times(self, event: str, name: str) -> list[float]:
        return [at for kind, other, at, _ in self.lines() if (kind, other) == (event, name)]

    def count(self, name: str) -> int:
        """Count a call and return which one it is, from 1."""
        return self.client.hincrby("counts", name, 1)

    def wait_for(self, event: str, name: str, *, timeout: float = 30.0) -> None:
        wait_until(lambda: name in self.names(event), f"{event} {name}", timeout=timeout)

    def clear(self) -> None:
        self.client.flushdb()


class WorkerProcess:
    """One `celery worker` process in a process group of its own."""

    def __init__(
        self,
        module: str,
        name: str,
        log: Path,
        *,
        environment: Mapping[str, str],
        options: list[str],
        folder: Path = ROOT,
    ) -> None:
        self.name = name
        self.log = log
        self._log_begins = log.stat().st_size if log.exists() else 0  # behind what a worker of this name wrote before
        # Mingling waits a second for other workers, to learn which tasks they revoked.
        own = ["-l", "info", "-n", f"{name}@%h", "--without-mingle"]
        command = ["-m", "celery", "-A", module, "worker", *own, *options]
        _alive.add(self)
        self._is_told = False
        self.process = start_python(command, folder=folder, environment=environment, log=log)

    @property
    def pid(self) -> int:
        return self.process.pid

    def is_up(self) -> bool:
        assert self.process.poll() is None, f"worker {self.name} ended:\n{self.log.read_text()[-4000:]}"
        return self.is_ready()

    def is_ready(self) -> bool:
        """It runs and takes messages."""
        text = self.log.read_bytes()[self._log_begins :].decode(errors="replace")
        return self.process.poll() is None and f"{self.name}@" in text and " ready." in text

    def kill(self) -> None:
        """Kill the worker and its children, as a host that goes away does."""
        os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(timeout=10)

    def terminate(self) -> None:
        """Tell it to end, once: a second SIGTERM while it sends its signals of the first waits in them for ever."""
        # Celery's signals have a lock, and its handler of SIGTERM sends one.
        if not self._is_told:
            self._is_told = True
            self.process.terminate()

    def stop(self, *, timeout: float = 40.0) -> None:
        if self.process.poll() is None:
            self.terminate()
            try:
                self.process.wait(timeout=timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise


def environment_for(url: str, **settings: str) -> dict[str, str]:
    """The environment of a worker: where Redis is, where the tests are, and settings such as `lease="3"`."""
    overrides = {f"ORCHESTRATOR_{name.upper()}": value for name, value in settings.items()}
    return os.environ | {URL_VARIABLE: url, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"} | overrides


def child_pids(pid: int) -> list[int]:
    """Pool processes of a worker."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def logs_with_stacks() -> Iterator[tuple[str, str]]:
    """Names of the workers that run, and the ends of their logs with the stacks of their processes."""
    running = [worker for worker in list(_alive) if worker.process.poll() is None]
    write_stacks()
    for worker in running:
        yield worker.name, worker.log.read_text(errors="replace")[-LOG_SHOWN:]


def _is_still(log: Path) -> bool:
    size = log.stat().st_size
    time.sleep(0.05)
    return log.stat().st_size == size


def write_stacks() -> None:
    """Let every process of a worker write to its log where each of its threads is: one that hangs says nothing."""
    for worker in list(_alive):
        for pid in (worker.pid, *child_pids(worker.pid)) if worker.process.poll() is None else ():
            with suppress(OSError):  # it has ended just now
                caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
                if caught and int(caught[1], 16) >> (STACKS - 1) & 1:  # else it would end of it
                    os.kill(pid, STACKS)
                    with suppress(AssertionError):  # one after the other, unless the worker goes on to log
                        wait_until(partial(_is_still, worker.log), "its stacks are written", timeout=1)


@contextmanager
def workers(
    module: str, url: str, folder: Path, *, count: int = 1, options: list[str] | None = None, **settings: str
) -> Iterator[list[WorkerProcess]]:
    """Run worker processes for a test program until the block ends; every worker still alive is stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    started = [
        WorkerProcess(
            module,
            f"w{number}",
            folder / f"w{number}.log",
            environment=environment_for(url, **settings),
            options=options or ["-c", "4"],
        )
        for number in range(count)
    ]
    try:
        wait_until(lambda: all(worker.is_up() for worker in started), "workers ready", timeout=60)
        yield started
    finally:
        for worker in started:
            worker.terminate()
        for worker in started:
            worker.stop()


def load_program(name: str, url: str) -> ModuleType:
    """Import a program of tests/programs in this process, on the given server.

    A process has it once, for a second import would give the names of its tasks away twice: modules that need one
    program share its server.
    """
    os.environ[URL_VARIABLE] = url
    assert _servers.setdefault(name, url) == url, f"{name} is on another server: share that one's fixture"
    return importlib.import_module(f"tests.programs.{name}")


LASTING = """
local lasting = {}
for _, key in ipairs(redis.call('KEYS', ARGV[1])) do
  if redis.call('TTL', key) == -1 then
    local run = string.match(key, '^orchestrator:run:[^:]+')
    lasting[#lasting + 1] = {key, run and redis.call('HGET', run, 'status') or ''}
  end
end
return lasting
"""


def await_children(client: redis.Redis) -> None:
    """Wait until the leader has given the children of ended runs their retention."""

    def rows() -> list[str]:
        members: Any = client.zrange("orchestrator:timers", 0, -1)
        texts = [each if isinstance(each, str) else each.decode() for each in members]
        return [each for each in texts if each.endswith("|:tree")]

    if rows():
        wait_until(lambda: not rows(), "children are kept as long as their root")


def lasting_keys(client: redis.Redis, pattern: str = "*") -> dict[str, str]:
    """Keys without a TTL, in order, and the statuses of their runs ("": of no run), all of one instant."""
    found = client.eval(LASTING, 0, pattern)
    texts = [[part if isinstance(part, str) else part.decode() for part in pair] for pair in found]
    return {pair[0]: pair[1] for pair in sorted(texts)}
