"""The README says what is so: its programs run and print what it shows, and what it names is there."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from celery.bin.celery import celery as celery_command

import orchestrator
from orchestrator import Settings
from orchestrator.server import EmbeddedServer
from tests.harness import ROOT, WorkerProcess, environment_for, wait_until

if TYPE_CHECKING:
    from pathlib import Path

README = (ROOT / "README.md").read_text()
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PROGRAMS = {code.splitlines()[0].removeprefix("# "): code for kind, code in BLOCKS if kind == "python"}
# What is inside single backticks, blocks left out.
NAMED: list[str] = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REDIS_OF_README = "redis://127.0.0.1:6379"


def commands() -> list[tuple[str, str]]:
    """Every command of a console block, with the output shown below it."""
    found = []
    for kind, text in BLOCKS:
        if kind in {"console", "bash"}:
            parts = re.split(r"^\$ ", text, flags=re.MULTILINE)
            assert not parts[0], f"a console block begins with a command: {text}"
            for part in parts[1:]:
                command, _, shown = part.partition("\n")
                found.append((command, shown))
    return found


def workers_of_readme() -> list[str]:
    return [line[0].split()[2] for line in commands() if re.fullmatch(r"celery -A \w+ worker", line[0])]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of its own: the README's workers consume the default queue."""
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as own:
        yield own


@pytest.fixture(scope="module")
def folder(tmp_path_factory, server):
    """The README's programs as files; all that is changed is where Redis is."""
    home: Path = tmp_path_factory.mktemp("readme")
    for name, code in PROGRAMS.items():
        (home / name).write_text(code.replace(REDIS_OF_README, server.url.rsplit("/", 1)[0]))
    return home


@pytest.fixture(scope="module")
def environment(server, folder):
    return environment_for(server.url) | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


@pytest.fixture(scope="module")
def started(folder, environment):
    """The workers that the README starts."""
    running = [
        WorkerProcess(module, module, folder / f"{module}.log", environment=environment, options=["-c", "2"])
        for module in workers_of_readme()
    ]
    try:
        wait_until(lambda: all(worker.is_up() for worker in running), "workers ready", timeout=60)
        yield running
    finally:
        for worker in running:
            if worker.process.poll() is None:
                worker.process.terminate()
        for worker in running:
            worker.stop()


def test_every_program_is_a_file_that_is_run():
    assert all(kind in {"python", "console", ""} for kind, _ in BLOCKS)
    assert len(PROGRAMS) == [kind for kind, _ in BLOCKS].count("python")
    run = {command.split()[1] for command, _ in commands() if re.match(r"python \w", command)}
    assert run | {f"{module}.py" for module in workers_of_readme()} == PROGRAMS.keys()
    flow = next(iter(PROGRAMS.values())).splitlines()
    assert len([line for line in flow if line and not line.startswith("#")]) <= 25


@pytest.mark.parametrize(("command", "shown"), [pair for pair in commands() if pair[0].startswith("python ")])
def test_a_program_prints_what_is_shown(command, shown, folder, environment, started):
    done = subprocess.run(
        [sys.executable, *shlex.split(command)[1:]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, shown, "")


@pytest.mark.parametrize("command", sorted({command for command, _ in commands()}))
def test_a_command_names_what_is_there(command):
    program, *words = shlex.split(command)
    match program:
        case "python" if words[0] == "-m":
            assert importlib.util.find_spec(words[1])
        case "python":
            assert words[0] in PROGRAMS
        case "make":
            assert words
            assert set(words) <= TARGETS
        case "celery":
            option, module, subcommand = words
            assert option == "-A"
            assert f"{module}.py" in PROGRAMS or importlib.util.find_spec(module)
            assert subcommand in celery_command.commands
        case "pip":
            asked = re.fullmatch(r"([\w-]+)(?:\[([\w,]+)\])?", words[1])
            assert asked is not None
            assert asked[1] == PROJECT["name"]
            assert {*(asked[2] or "").split(",")} - {""} <= PROJECT["optional-dependencies"].keys()
        case _:
            pytest.fail(f"nobody checks {command!r}")


def test_every_file_that_is_named_is_there():
    files = {name for name in NAMED if re.fullmatch(r"[\w./-]+(\.(py|md|yml|txt|toml)|/)", name)}
    files |= set(re.findall(r"\]\(([^)#]+)\)", README))
    assert files >= {"docs/why.md", "tests/integration/test_runs.py", "definition/", "execution/"}
    assert [
        name for name in sorted(files) if not any((base / name).exists() for base in (ROOT, ROOT / "orchestrator"))
    ] == []


def test_every_module_that_is_named_can_be_found():
    modules = {name for name in NAMED if re.fullmatch(r"(orchestrator|workers|tests)(\.\w+)+", name)}
    assert "workers.app" in modules
    assert [name for name in sorted(modules) if importlib.util.find_spec(name) is None] == []


def test_every_public_name_is_one():
    called = {name.partition("(")[0] for name in NAMED if re.match(r"[A-Z][a-z]\w*(\(|$)", name)}
    assert "Settings" in {name for text in NAMED for name in re.findall(r"\b[A-Z]\w+(?=\()", text)}
    assert called <= set(orchestrator.__all__)


def test_every_make_target_that_is_named_is_one():
    named = {name.removeprefix("make ") for name in NAMED if name.startswith("make ")}
    assert named >= {"demo", "test", "check"}
    assert named <= TARGETS


def test_the_settings_are_all_there_with_their_defaults():
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| `(ORCHESTRATOR_\w+)` \|", README, re.MULTILINE)
    assert rows == [(each.name, shown(each.default), f"ORCHESTRATOR_{each.name.upper()}") for each in fields(Settings)]


def shown(value: object) -> str:
    """A default as the README writes it."""
    if isinstance(value, timedelta):
        seconds = int(value.total_seconds())
        if value > timedelta(days=1):
            return f"{value.days} days"
        return f"{seconds // 3600} h" if seconds >= 3600 else f"{seconds} s"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return "1 MiB" if value == 1024 * 1024 else str(value)
    return f"`{value}`"
