"""README and docs/ name only files, links, modules, classes, commands and settings that exist; the README is short."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import tomllib
from dataclasses import fields
from datetime import timedelta
from typing import Any

import pytest
from celery.bin.celery import celery as celery_command

import orchestrator
from orchestrator import Settings
from tests.documents import APP, PAGES, ROOT, blocks, commands, headings, links, named, programs, prose

TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PROGRAMS = programs()
EACH_PAGE = pytest.mark.parametrize("page", sorted(PAGES))
# Folders in which a file may be that is named without its folder.
FOLDERS = [ROOT, ROOT / "orchestrator", ROOT / "orchestrator" / "store" / "scripts", ROOT / "docs"]
LONGEST_README = 200
LONGEST_FLOW = 15


def test_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) <= LONGEST_README


def test_the_flow_of_the_readme_is_short():
    lines = [line for line in PROGRAMS[f"{APP}.py"].splitlines()[1:] if line.strip()]
    assert len(lines) <= LONGEST_FLOW
    assert "lambda" not in PROGRAMS[f"{APP}.py"] + PROGRAMS["steps.py"]


def test_every_page_is_found_from_the_readme():
    reached, left = set(), ["README.md"]
    while left:
        page = left.pop()
        reached.add(page)
        found = {os.path.normpath(os.path.join(os.path.dirname(page), link.partition("#")[0])) for link in links(page)}  # noqa: PTH118, PTH120
        left += (found & PAGES.keys()) - reached
    assert reached == PAGES.keys()


@EACH_PAGE
def test_every_link_leads_somewhere(page):
    folder = (ROOT / page).parent
    for link in links(page):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = folder / path if path else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in headings(target.read_text()), link


@EACH_PAGE
def test_every_block_is_of_a_kind_that_is_tested(page):
    assert {language for language, _ in blocks(page)} <= {"python", "console", "", "ini", "toml", "yaml", "lua", "diff"}


@EACH_PAGE
def test_every_file_that_is_named_is_there(page):
    files = {name for name in named(page) if re.fullmatch(r"[\w./-]+(\.(py|md|yml|toml|txt|lua)|/)", name)}
    missing = [name for name in sorted(files - PROGRAMS.keys()) if not any((base / name).exists() for base in FOLDERS)]
    assert missing == []


@EACH_PAGE
def test_every_module_that_is_named_can_be_found(page):
    modules = {
        name for name in named(page) if re.fullmatch(r"(orchestrator|workers|tests|examples)(\.[a-z]\w*)+", name)
    }
    assert [name for name in sorted(modules) if not is_there(name)] == []


def is_there(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    module, _, attribute = name.rpartition(".")
    if importlib.util.find_spec(module) is None:
        return False
    return hasattr(importlib.import_module(module), attribute) or importlib.util.find_spec(name) is not None


@EACH_PAGE
def test_every_public_name_is_one(page):
    text = "\n".join(named(page))
    called = set(re.findall(r"(?<![\w.])([A-Z][a-z]\w+)(?=\()", text))
    assert called <= {*orchestrator.__all__, "Celery"}
    for owner, attribute in re.findall(r"(?<![\w.])([A-Z][a-z]\w+)\.([a-z]\w+)", text):
        if owner in orchestrator.__all__:
            public = getattr(orchestrator, owner)
            assert hasattr(public, attribute) or attribute in getattr(public, "__dataclass_fields__", {}), attribute


@EACH_PAGE
def test_every_call_that_is_shown_exists(page):
    owners = {
        "run": orchestrator.FlowRun,
        "state": orchestrator.FlowState,
        "ctx": orchestrator.NodeContext,
        "orchestrator": orchestrator.Orchestrator,
        "flow": orchestrator.Flow,
        "node": orchestrator.Node,
    }
    for owner, attribute in re.findall(r"(?<![\w.])(\w+)\.([a-z]\w+)(?=\()", "\n".join(named(page))):
        if owner in owners:
            assert hasattr(owners[owner], attribute), f"{owner}.{attribute}"


def test_every_variable_that_is_named_is_read():
    code = "".join(path.read_text() for path in (ROOT / "orchestrator").rglob("*.py"))
    known = {f"ORCHESTRATOR_{field.name.upper()}" for field in fields(Settings)}
    shown = {name for text in PAGES.values() for name in re.findall(r"ORCHESTRATOR_[A-Z_]+[A-Z]", text)}
    assert [name for name in shown - known if f'"{name}"' not in code] == []


@EACH_PAGE
def test_every_make_target_that_is_named_is_one(page):
    assert {name.split()[1] for name in named(page) if name.startswith("make ")} <= TARGETS


def test_every_program_is_run_or_imported_by_another():
    run = {shlex.split(command.line)[1] for command in commands() if re.match(r"python \w+\.py", command.line)}
    assert run <= PROGRAMS.keys()
    assert f"{APP}.py" in PROGRAMS


@pytest.mark.parametrize("line", sorted({command.line for command in commands()}))
def test_a_command_names_what_is_there(line):
    program, *words = shlex.split(line)
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
            pytest.fail(f"no test checks {line!r}")


def test_the_architecture_names_every_module_and_folder_of_the_package():
    package = ROOT / "orchestrator"
    there = {path.name for path in package.glob("*.py")} - {"__init__.py"}
    there |= {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert there <= set(named("docs/architecture.md"))


def test_the_settings_are_all_there_with_their_defaults():
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| `(ORCHESTRATOR_\w+)` \|", prose("docs/configuration.md"), re.MULTILINE)
    assert rows == [(each.name, shown(each.default), f"ORCHESTRATOR_{each.name.upper()}") for each in fields(Settings)]


def shown(value: object) -> str:
    """A default as the table writes it."""
    if isinstance(value, tuple):
        return "all" if value else "none"
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
