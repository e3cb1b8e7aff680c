"""Python processes that start warm: forked from an interpreter that has imported Celery and this package already.

A worker is as real as one that was executed, a process of its own with its own session, environment, folder and log;
it saves the seconds of processor time that those imports take. What changes how an interpreter starts, or has another
version of the package, is executed.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = str(Path(__file__).parents[1])
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
ROOMS = ("definition", "execution", "liveness", "maintenance", "messaging", "store", "store.scripts")
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


def start_python(
    arguments: list[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    log: Path,
    errors: Path | None = None,
    given: str = os.devnull,
) -> Started:
    """Start `python <arguments>` in a session of its own; warm, unless that would make a difference.

    Args:
        arguments: As Python takes them: `-m` and a module, `-c` and a program, or a file, and what these are given.
        folder: Where it runs.
        environment: Its environment, whole.
        log: What it writes to standard output is put behind what is there.
        errors: The same for standard error; without it that goes to the log, too.
        given: A file that it reads as standard input.
    """
    log.touch()
    files = (str(given), str(log), str(errors or log))
    if _can_be_warm(arguments, environment):
        with MAKING:
            template = _template()
        return template.start(arguments, folder, environment, files)
    with Path(given).open() as source, log.open("a") as out, (errors or log).open("a") as err:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env=dict(environment),
            stdin=source,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )


def run_python(
    arguments: list[str],
    environment: Mapping[str, str],
    *,
    folder: Path | str = ROOT,
    given: str = "",
    timeout: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Run `python <arguments>` to its end, warm if possible, and return what it wrote; killed after so many seconds."""
    with tempfile.TemporaryDirectory() as made:
        source, out, errors = files = [Path(made) / name for name in ("given", "out", "errors")]
        for file in files:
            file.write_text(given if file is source else "")
        process = start_python(
            arguments,
            folder=Path(folder),
            environment=environment,
            log=out,
            errors=errors,
            given=str(source),
        )
        try:
            code = process.wait(timeout)
        except BaseException:
            process.kill()
            process.wait()
            raise
        return subprocess.CompletedProcess(arguments, code, out.read_text(), errors.read_text())


def _can_be_warm(arguments: list[str], environment: Mapping[str, str]) -> bool:
    own = {name: value for name, value in environment.items() if name.startswith(("PYTHON", "COV"))}
    expected = _environment_of_python()
    paths = own.pop("PYTHONPATH", "").split(os.pathsep)
    same = own == {name: value for name, value in expected.items() if name != "PYTHONPATH"}
    package = next((path for path in paths if (Path(path) / "orchestrator").is_dir()), "")
    return sys.platform == "linux" and not COLD.intersection(arguments) and same and package == ROOT


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

    def start(
        self, arguments: list[str], folder: Path, environment: Mapping[str, str], files: tuple[str, ...]
    ) -> WarmProcess:
        asked = {"start": arguments, "folder": str(folder), "environment": dict(environment), "files": files}
        return WarmProcess(self, self.ask(asked))


def _serve() -> dict[str, Any]:
    """Fork and reap as asked until nobody asks any more; what was asked of a forked process returns there."""
    while line := sys.stdin.readline():
        request: dict[str, Any] = json.loads(line)
        if "reap" in request:
            answer = os.waitpid(request["reap"], 0)[1]
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


def _become(request: dict[str, Any]) -> None:
    """Be `python <arguments>` in a folder, with an environment, and files to read and write."""
    environment, folder = request["environment"], request["folder"]
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.chdir(folder)
    given, *written = request["files"]
    opened = [os.open(given, os.O_RDONLY), *(os.open(file, os.O_WRONLY | os.O_APPEND) for file in written)]
    for number, file in enumerate(opened):
        os.dup2(file, number)
    os.closerange(3, max(opened) + 1)
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [folder, *paths, *(path for path in sys.path[1:] if path != ROOT)]
    importlib.reload(sys.modules["orchestrator.fault_points"])  # it has read the environment
    faulthandler.register(STACKS, all_threads=True)
    _run(request["start"])


def _own_modules() -> Iterator[str]:
    """Modules of the package that need none of its extras, and no app of a user."""
    for package in ("orchestrator", *(f"orchestrator.{room}" for room in ROOMS)):
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
            if not module.ispkg:
                yield module.name


def _run(arguments: list[str]) -> None:
    first, *others = arguments
    if first == "-m":
        sys.argv = list(others)
        runpy.run_module(others[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = [first, *others[1:]]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(others[0], "<string>", "exec"), main.__dict__)
    else:
        sys.argv = list(arguments)
        sys.path[0] = str(Path(first).absolute().parent)
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    for name in (*IMPORTED, *_own_modules()):
        importlib.import_module(name)
    gc.freeze()
    _become(_serve())
