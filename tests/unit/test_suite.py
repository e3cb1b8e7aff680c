"""The suite about itself: what its tables name is there, and what it brings along is not shipped."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

from tests.fake_server import REAL_ONLY, SCRIPT_TESTS
from tests.scheduling import TOGETHER

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def names() -> list[str]:
    """Every script test, by its file."""
    return [
        f"{path.name}::{node.name}"
        for path in ROOT.glob(f"{SCRIPT_TESTS}*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


def test_a_name_that_is_left_to_the_real_server_is_one_of_a_script_test(names):
    assert [part for part in REAL_ONLY if not any(part in name for name in names)] == []


def test_most_script_tests_run_on_either_server(names):
    either = [name for name in names if not any(part in name for part in REAL_ONLY)]
    assert len(either) > 2 / 3 * len(names)


@pytest.mark.parametrize("place", TOGETHER)
def test_what_shares_a_world_is_there(place):
    assert (ROOT / place).exists()


def test_neither_wheel_nor_source_archive_has_the_tests_in_it():
    targets = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert targets["wheel"]["packages"] == ["orchestrator"]
    assert [entry for entry in targets["sdist"]["include"] if entry.startswith("tests")] == []
