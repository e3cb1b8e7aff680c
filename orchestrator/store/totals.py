"""Totals of flows that only grow, as metrics want them: ends, histograms of durations, attempts that did not succeed.

Durations and ends are added by the leading reconciler, see `statistics`; attempts by the scripts that end one without
an output, which no fast path runs. A total begins anew once a flow has had nothing to add for 8 days.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestrator.store.run_store import Store

ENDS, SUM = "ends", "ms"
KEPT_S = 8 * 86_400


@dataclass(frozen=True)
class RunEnd:
    """The end of a run: when, in seconds, of which flow, with which status, after how many ms, which run."""

    at_s: int
    flow: str
    status: str
    duration_ms: float
    run_id: str


@dataclass
class Histogram:
    """Durations by their doubling: number k holds those up to 2 ** k ms.

    Attributes:
        doublings: How many durations each has.
        sum_ms: All durations together, in ms.
    """

    doublings: Counter[int] = field(default_factory=Counter)
    sum_ms: int = 0


@dataclass
class FlowTotals:
    """What was counted of a flow.

    Attributes:
        flow: The flow.
        ends: Runs that ended, by status.
        runs: Durations of runs.
        nodes: Durations of a sample of nodes, by name.
        waits: How long nodes of the same sample were ready before they started, by queue.
        attempts: Attempts that did not succeed, by node and outcome: retried, throttled (held back by the other side),
            failed (for good), lost (its process died), timed_out.
    """

    flow: str
    ends: Counter[str] = field(default_factory=Counter)
    runs: Histogram = field(default_factory=Histogram)
    nodes: dict[str, Histogram] = field(default_factory=dict)
    waits: dict[str, Histogram] = field(default_factory=dict)
    attempts: dict[tuple[str, str], int] = field(default_factory=dict)

    def histogram(self, kind: str, name: str) -> Histogram:
        """Return the histogram of a kind and name, as they stand in a field."""
        if kind == "run":
            return self.runs
        return (self.waits if kind == "wait" else self.nodes).setdefault(name, Histogram())


def duration_fields(kind: str, name: str, duration_ms: float) -> dict[str, int]:
    """Return what a duration adds to the fields of a flow's totals; kinds are "run", "node" and "wait"."""
    doubling = math.ceil(math.log2(max(1.0, duration_ms)))
    return {f"{doubling}|{kind}|{name}": 1, f"{SUM}|{kind}|{name}": round(duration_ms)}


def end_field(status: str) -> str:
    """Return the field that counts ends with a status."""
    return f"{ENDS}|run|{status}"


def read_totals(store: Store, flows: Iterable[str]) -> list[FlowTotals]:
    """Return the totals of flows, in one round trip."""
    names = list(flows)
    pipe = store.client.pipeline(transaction=False)
    for flow in names:
        pipe.hgetall(store.keys.totals(flow))
        pipe.hgetall(store.keys.attempts(flow))
    with store.guarded():
        answers: list[Any] = pipe.execute()
    return [_totals_of(*each) for each in zip(names, answers[::2], answers[1::2], strict=True)]


def _totals_of(flow: str, counts: Mapping[bytes, bytes], attempts: Mapping[bytes, bytes]) -> FlowTotals:
    totals = FlowTotals(flow)
    for row, count in counts.items():
        part, kind, name = row.decode().split("|", 2)
        if part == ENDS:
            totals.ends[name] = int(count)
        elif part == SUM:
            totals.histogram(kind, name).sum_ms = int(count)
        else:
            totals.histogram(kind, name).doublings[int(part)] = int(count)
    for row, count in attempts.items():
        outcome, node = row.decode().split("|", 1)
        totals.attempts[node, outcome] = int(count)
    return totals
