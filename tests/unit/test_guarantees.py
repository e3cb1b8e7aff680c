"""docs/guarantees.md: every test it names is there, every promise names one, its tables are what was measured."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.chaos.load_faults import REFUSED
from tests.chaos.load_report import CANVAS, OURS, UNDER_REFUSALS, read, seeds, summary, table

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/guarantees.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)
KINDS = ("K", "R", "N", "D", "V", "IN", "P", "T", "CA")


def functions(path: str) -> set[str]:
    """Every function of a file of tests."""
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def section(heading: str) -> str:
    """The text under a heading."""
    found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None, heading
    return found[1]


def rows(heading: str) -> list[list[str]]:
    """The rows of the table under a heading, without its head."""
    lines = [line for line in section(heading).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def test_a_test_that_is_named_is_there():
    there = {path: functions(path) for path, _ in set(NAMED)}
    assert [f"{path}::{name}" for path, name in NAMED if name not in there[path]] == []


def test_every_test_is_named_in_this_way():
    assert len(NAMED) == len(re.findall(r"::", TEXT)), "a reference that is not `tests/<file>.py::<name>`"


def test_every_promise_names_a_test():
    promises = rows("What is promised")
    assert len(promises) > 10
    assert [promise for promise, shown in promises if "`tests/" not in shown] == []


def test_every_fault_has_a_test_or_a_reason():
    faults = rows("Fault by fault")
    numbers = [fault[0] for fault in faults]
    assert len(numbers) == len(set(numbers))
    assert {re.sub(r"\d", "", number) for number in numbers} == set(KINDS)
    assert [
        number for number, _, _, shown in faults if "`tests/" not in shown and not shown.startswith("No test")
    ] == []


@pytest.mark.parametrize("columns", [OURS, CANVAS], ids=["ours", "canvas"])
def test_the_tables_are_what_was_measured(columns):
    loads = read(ROOT / "docs/load.jsonl")
    assert table(loads, columns) in section("Measured beside plain Celery canvas")
    assert seeds(loads)["ours"] >= 5
    assert min(seeds(loads).values()) >= 1


def test_the_table_of_refusals_is_what_was_measured():
    loads = read(ROOT / "docs/refused_load.jsonl")
    assert table(loads, UNDER_REFUSALS, REFUSED) in section("Measured while Redis refuses")
    assert set(seeds(loads, REFUSED)) == {"ours", "fused", "plain"}
    assert min(seeds(loads, REFUSED).values()) >= 1


@pytest.mark.parametrize("name", ["load", "refused_load"])
def test_nothing_of_ours_was_lost_or_counted_twice(name):
    ours = [load for load in read(ROOT / f"docs/{name}.jsonl") if load["system"] in {"ours", "fused"}]
    assert [load for load in ours if load["lost"] or load["counted_twice"] or load["deaths"] or load["broken"]] == []


@pytest.mark.parametrize(("values", "text"), [([], "-"), ([3, 3], "3"), ([1, 9, 2], "2 (1 to 9)"), ([0.4, 0.2], "0")])
def test_figures_are_summed_up_as_median_and_range(values, text):
    assert summary(values) == text
