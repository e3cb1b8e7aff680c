"""The programs of README.md and docs/ run on one worker and print what is shown below their commands."""

from __future__ import annotations

import os
import re
import shlex
from typing import TYPE_CHECKING

import pytest

from orchestrator.server import EmbeddedServer
from tests.documents import APP, REDIS, ROOT, commands, programs
from tests.harness import WorkerProcess, environment_for, wait_until
from tests.warm import run_python

if TYPE_CHECKING:
    from pathlib import Path

PROGRAMS = programs()
RUNS = [command for command in commands() if command.line.startswith("python ")]
# The worker imports what registers a flow, as the app of a project would; a client's program only starts runs.
WITH_FLOWS = [name.removesuffix(".py") for name, code in PROGRAMS.items() if "orchestrator.register(" in code]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of its own: the worker consumes the default queue."""
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as own:
        yield own


@pytest.fixture(scope="module")
def folder(tmp_path_factory, server):
    """The programs as files; all that is changed is where Redis is."""
    home: Path = tmp_path_factory.mktemp("documents")
    for name, code in PROGRAMS.items():
        (home / name).write_text(code.replace(REDIS, server.url.rsplit("/", 1)[0]))
    return home


@pytest.fixture(scope="module")
def environment(server, folder):
    return environment_for(server.url) | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


@pytest.fixture(scope="module")
def worker(folder, environment):
    """The worker that every page shares."""
    options = ["-c", "2", "-I", ",".join(sorted(set(WITH_FLOWS) - {APP}))]
    running = WorkerProcess(APP, APP, folder / "worker.log", environment=environment, options=options)
    try:
        wait_until(running.is_up, "the worker is ready", timeout=60)
        yield running
    finally:
        running.stop()


def run(arguments: list[str], folder: Path, environment: dict[str, str]) -> tuple[int, str, str]:
    done = run_python([*arguments], environment, folder=folder)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("command", RUNS, ids=lambda command: f"{command.page} {command.line}")
def test_a_program_prints_what_is_shown(command, folder, environment, worker):
    expected = re.escape(command.shown).replace(re.escape("..."), ".*")
    code, out, error = run(shlex.split(command.line)[1:], folder, environment)
    assert (code, error) == (0, "")
    assert re.fullmatch(expected, out), out


def test_what_is_not_run_can_be_imported(folder, environment):
    shown = {shlex.split(command.line)[1] for command in RUNS}
    others = [name.removesuffix(".py") for name in PROGRAMS if name not in shown]
    assert {"three_lines", "settings"} <= set(others)
    done = run(["-c", f"import {', '.join(others)}"], folder, environment)
    assert done == (0, "", ""), done[2]
