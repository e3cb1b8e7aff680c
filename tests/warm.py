"""Celery processes that start warm: forked from an interpreter that has imported Celery already.

A worker is as real as one that was executed, a process of its own with its own session, environment, folder and log;
it saves the second of processor time that those imports take. The package under test is imported by each process
itself. What changes how an interpreter starts is executed.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import threading
import time
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ROOT = os.path.dirname(os.path.dirname(__file__))  # noqa: PTH120 - pathlib is what a warm process may import itself
IMPORTED = (
    "annotated_types",
    "celery.__main__",
    "celery.apps.beat",
    "celery.apps.worker",
    "celery.backends.redis",
    "celery.bin.celery",
    "celery.concurrency.prefork",
    "celery.events",
    "celery.worker.consumer",
    "croniter",
    "kombu.transport.redis",
    "pydantic.config",
    "pydantic.fields",
    "pydantic.functional_validators",
    "pydantic.json_schema",
    "pydantic.main",
    "pydantic.plugin._loader",
    "pydantic.type_adapter",
    "pydantic.types",
    "redis.asyncio",
)
STACKS = signal.SIGUSR2
"""By this signal a process writes to its log where each of its threads is."""
COLD = {"gevent", "eventlet"}
"""Pools that patch Python before anything is imported."""


class WarmProcess:
    """A forked process, with as much of `subprocess.Popen` as tests use."""

    def __init__(self, template: _Template, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._template = template
        self._ended = os.pidfd_open(pid)

    def poll(self) -> int | None:
        if self.returncode is None and self._has_ended(0):
            self.returncode = os.waitstatus_to_exitcode(self._template.ask({"reap": self.pid}))
            os.close(self._ended)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None and not self._has_ended(timeout):
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        code = self.poll()
        assert code is not None
        return code

    def _has_ended(self, timeout: float | None) -> bool:
        waiting = select.poll()  # `select` takes no file beyond the 1024th that the tests have open
        waiting.register(self._ended, select.POLLIN)
        return bool(waiting.poll(None if timeout is None else timeout * 1000))

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


Started: TypeAlias = "subprocess.Popen[bytes] | WarmProcess"


def start_python(arguments: list[str], *, folder: Path, environment: Mapping[str, str], log: Path) -> Started:
    """Start `python <arguments>` in a session of its own; warm, if it is Celery as this project has it."""
    if _can_be_warm(arguments, environment):
        with MAKING:
            template = _template()
        return template.start(arguments[2:], folder, environment, log)
    with log.open("a") as out:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env=dict(environment),
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


def _can_be_warm(arguments: list[str], environment: Mapping[str, str]) -> bool:
    own = {name: value for name, value in environment.items() if name.startswith(("PYTHON", "COV"))}
    return (
        sys.platform == "linux"
        and arguments[:2] == ["-m", "celery"]
        and not COLD.intersection(arguments)
        and own == _environment_of_python()
    )


def _environment_of_python() -> dict[str, str]:
    theirs = {name: value for name, value in os.environ.items() if name.startswith(("PYTHON", "COV"))}
    return theirs | {"PYTHONPATH": ROOT, "PYTHONWARNINGS": "default"}


MAKING = threading.Lock()
"""Two threads that start their first process at once would make two templates, and forget one that runs."""


@cache
def _template() -> _Template:
    return _Template()


class _Template:
    """The interpreter that others are forked from, one for each process of the tests; it ends with that process."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.warm"],
            cwd=ROOT,
            env=os.environ | _environment_of_python(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def ask(self, request: Mapping[str, object]) -> int:
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        with self._turn:
            print(json.dumps(request), file=requests, flush=True)
            return int(answers.readline())

    def start(self, arguments: list[str], folder: Path, environment: Mapping[str, str], log: Path) -> WarmProcess:
        log.touch()
        asked = {"start": arguments, "folder": str(folder), "environment": dict(environment), "log": str(log)}
        return WarmProcess(self, self.ask(asked))


def _serve() -> dict[str, object]:
    """Fork and reap as asked until nobody asks any more; what was asked of a forked process returns there."""
    while line := sys.stdin.readline():
        request: dict[str, object] = json.loads(line)
        if "reap" in request:
            answer = os.waitpid(int(str(request["reap"])), 0)[1]
        elif not (answer := _fork()):
            return request
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()
    sys.exit()


def _fork() -> int:
    """Fork; the parent returns when the child has a session of its own, so that its group can be killed."""
    ready, begun = os.pipe()
    if pid := os.fork():
        os.close(begun)
        os.read(ready, 1)
        os.close(ready)
        return pid
    os.setsid()
    os.close(ready)
    os.close(begun)
    return 0


def _become(request: dict[str, object]) -> None:
    """Be `python -m celery <arguments>` in a folder, with an environment and a log."""
    environment, arguments, folder = request["environment"], request["start"], request["folder"]
    assert isinstance(environment, dict)
    assert isinstance(arguments, list)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.chdir(str(folder))
    nothing, log = os.open(os.devnull, os.O_RDONLY), os.open(str(request["log"]), os.O_WRONLY | os.O_APPEND)
    for number, file in enumerate((nothing, log, log)):
        os.dup2(file, number)
    os.closerange(3, log + 1)
    sys.path[0] = str(folder)
    sys.argv = ["celery", *arguments]
    faulthandler.register(STACKS, all_threads=True)
    runpy.run_module("celery", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    _become(_serve())
