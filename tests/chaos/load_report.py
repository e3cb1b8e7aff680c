"""The tables of docs/guarantees.md, made from the lines that tests/chaos/full_load.py wrote.

`python -m tests.chaos.load_report docs/load.jsonl docs/refused_load.jsonl` prints them.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.chaos.load_faults import FAULTS, REFUSED

if TYPE_CHECKING:
    from collections.abc import Iterable

Loads = list[dict[str, Any]]
# Heading, system, field.
OURS = (
    ("lost", "ours", "lost"),
    ("counted twice", "ours", "counted_twice"),
    ("extra starts", "ours", "extra"),
    ("last task twice", "ours", "tails_twice"),
    ("nodes left", "ours", "left"),
    ("all ended after, s", "ours", "recovery_s"),
    ("stood still, s", "ours", "standstill_s"),
    ("workers that died", "ours", "deaths"),
)
CANVAS = (
    ("plain: lost", "plain", "lost"),
    ("extra starts", "plain", "extra"),
    ("last task twice", "plain", "tails_twice"),
    ("workers that died", "plain", "deaths"),
    ("hardened: lost", "hardened", "lost"),
    ("extra starts", "hardened", "extra"),
    ("last task twice", "hardened", "tails_twice"),
    ("workers that died", "hardened", "deaths"),
)
UNDER_REFUSALS = (
    ("lost", "ours", "lost"),
    ("counted twice", "ours", "counted_twice"),
    ("attempts burnt", "ours", "burnt"),
    ("workers that died", "ours", "deaths"),
    ("fused: lost", "fused", "lost"),
    ("counted twice", "fused", "counted_twice"),
    ("attempts burnt", "fused", "burnt"),
    ("workers that died", "fused", "deaths"),
    ("plain: lost", "plain", "lost"),
    ("extra starts", "plain", "extra"),
    ("last task twice", "plain", "tails_twice"),
    ("workers that died", "plain", "deaths"),
)
Columns = tuple[tuple[str, str, str], ...]


def table(loads: Loads, columns: Columns, faults: Iterable[str] = FAULTS) -> str:
    """One row for each fault, one column for each figure: the median over the seeds, and the range if there is one."""
    headings = ["fault", "times", *[heading for heading, _, _ in columns]]
    rows = [headings, ["---"] * len(headings)]
    systems = {system for _, system, _ in columns}
    for fault in faults:
        own = [load for load in loads if load["fault"] == fault and load["system"] in systems]
        times = summary([load["strikes"] for load in own])
        rows.append([fault, times, *[column(own, system, name) for _, system, name in columns]])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def seeds(loads: Loads, faults: Iterable[str] = FAULTS) -> dict[str, int]:
    """With how many seeds each system met the fault that it met least often."""
    faults = tuple(faults)
    counts = {(load["system"], fault): 0 for load in loads for fault in faults}
    for load in loads:
        counts[load["system"], load["fault"]] += 1
    return {system: min(counts[system, fault] for fault in faults) for system in {key[0] for key in counts}}


def column(loads: Loads, system: str, name: str) -> str:
    """One figure of one system under one fault."""
    return summary([load[name] for load in loads if load["system"] == system])


def summary(values: list[float]) -> str:
    """The median, and the range in brackets."""
    if not values:
        return "-"
    low, middle, high = (f"{value:.0f}" for value in (min(values), statistics.median(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


def read(path: Path) -> Loads:
    """The loads of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


if __name__ == "__main__":
    measured, refused = (read(Path(name)) for name in sys.argv[1:])
    tables = [table(measured, columns) for columns in (OURS, CANVAS)]
    print(*tables, table(refused, UNDER_REFUSALS, REFUSED), sep="\n\n")  # noqa: T201 - output
