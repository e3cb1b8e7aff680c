"""Pages beside the runs: flows with how they end, one flow, schedules, and workers with what is wrong with them."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.definition.state import RunStatus
from orchestrator.starts import find_plan
from orchestrator.store.queries import as_json, json_value, last_runs
from orchestrator.store.run_view import step_json
from orchestrator.store.statistics import read_statistics
from orchestrator.web.flow_limits import told_limits
from orchestrator.web.graph import draw_graph
from orchestrator.web.run_page import NARROW

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime, timedelta

    from orchestrator import FlowCounts, Orchestrator, RunRow, WorkerRow
    from orchestrator.definition.plan import Plan
    from orchestrator.maintenance.preflight import Finding
    from orchestrator.schedule_control import ScheduleRow
    from orchestrator.store.statistics import Durations, FlowStatistics

STRIP = 50
WIDE = 1320
EXAMINED_EVERY_S = 30
MOST_STRIPS = 40
"""Flows whose last runs are read; with more, the page has counts only."""


@dataclass(frozen=True)
class FlowRow:
    """One flow.

    Attributes:
        name: Its name.
        counts: How its runs stand, those that nodes of others have started too.
        last: The last of them, newest first; fifty at most.
        success: Share of the ended ones among them that succeeded; None without any.
        p50, p95: What half of the runs of the last day, and 19 of 20, took at most; None before any was measured.
        next: The next instant of its schedules, if Flower's app has it.
    """

    name: str
    counts: FlowCounts
    last: tuple[RunRow, ...]
    success: float | None
    p50: timedelta | None
    p95: timedelta | None
    next: datetime | None

    def to_json(self) -> dict[str, Any]:
        """Return the row as JSON values; of the last runs their ids."""
        return as_json(self) | {"counts": self.counts.to_json(), "last": [row.id for row in self.last]}


def read_flows(orchestrator: Orchestrator) -> list[FlowRow]:
    """Return every flow that is registered here or announced; those with runs first."""
    counts = orchestrator.counts(children=True)
    following = _next_by_flow(orchestrator.schedules())
    store = orchestrator._engine.store  # noqa: SLF001 - a door reads the store directly
    # With the names that are known by now, and not those that `Orchestrator.statistics` would ask for again.
    taken = {each.flow: each.runs for each in read_statistics(store, [each.flow for each in counts], hours=24)}
    shown = [each.flow for each in counts] if len(counts) <= MOST_STRIPS else []
    last = last_runs(store, shown, limit=STRIP)
    rows = [_row(each, last.get(each.flow, ()), following.get(each.flow), taken.get(each.flow)) for each in counts]
    return sorted(rows, key=lambda row: (not (row.counts.open or row.last), row.name))


def _next_by_flow(schedules: Iterable[ScheduleRow]) -> dict[str, datetime]:
    following: dict[str, datetime] = {}
    for row in schedules:
        if row.next is not None:
            following[row.flow] = min(row.next, following.get(row.flow, row.next))
    return following


def _row(counts: FlowCounts, last: tuple[RunRow, ...], following: datetime | None, taken: Durations | None) -> FlowRow:
    ended = [row for row in last if row.finished is not None]
    won = sum(row.status is RunStatus.SUCCEEDED for row in ended)
    return FlowRow(
        counts.flow,
        counts,
        last,
        won / len(ended) if ended else None,
        taken.p50 if taken else None,
        taken.p95 if taken else None,
        following,
    )


@dataclass(frozen=True)
class FlowShown:
    """What the page of a flow shows."""

    row: FlowRow
    plan: Plan
    graph: str
    graph_narrow: str
    schedules: list[ScheduleRow]
    statistics: FlowStatistics
    schema: str
    is_here: bool
    limits: list[tuple[str, str]]

    @property
    def version(self) -> str:
        """A text that changes when the page would."""
        last = [(each.id, each.status) for each in self.row.last]
        return digest((self.plan, self.row.counts, last, self.schedules, self.statistics))

    def to_json(self) -> dict[str, Any]:
        """Return the flow as JSON values."""
        return {
            "flow": self.row.to_json(),
            "steps": [step_json(step) for step in self.plan.steps],
            "schedules": [row.to_json() for row in self.schedules],
            "statistics": self.statistics.to_json(),
            "input_schema": json_value(self.plan.input_schema),
            "is_here": self.is_here,
            "limits": [{"node": node or None, "limit": said} for node, said in self.limits],
        }


def read_flow(orchestrator: Orchestrator, name: str) -> FlowShown:
    """Return the page of a flow.

    Raises:
        UnknownFlow: It is neither registered here nor announced.
    """
    engine = orchestrator._engine  # noqa: SLF001 - a door reads the registry directly
    plan = find_plan(engine, name)
    counts = next(row for row in orchestrator.counts(children=True) if row.flow == name)
    schedules = [row for row in orchestrator.schedules() if row.flow == name]
    following = _next_by_flow(schedules).get(name)
    (statistics,) = orchestrator.statistics(name)
    return FlowShown(
        row=_row(counts, last_runs(engine.store, [name], limit=STRIP)[name], following, statistics.runs),
        plan=plan,
        graph=draw_graph(plan, width=WIDE),
        graph_narrow=draw_graph(plan, width=NARROW),
        schedules=schedules,
        statistics=statistics,
        schema=json.dumps(plan.input_schema, indent=2) if plan.input_schema is not None else "",
        is_here=name in engine.registry.flows,
        limits=told_limits(plan),
    )


@dataclass(frozen=True)
class Workers:
    """What the page of workers shows.

    Attributes:
        rows: The workers.
        findings: What the doctor found, up to half a minute ago.
        unserved: Flows that no worker has the code of.
    """

    rows: tuple[WorkerRow, ...]
    findings: tuple[Finding, ...]
    unserved: tuple[str, ...]


_examined: dict[str, tuple[float, tuple[Finding, ...]]] = {}


def read_workers(orchestrator: Orchestrator) -> Workers:
    """Return the live workers, and what is wrong with the deployment."""
    rows = orchestrator.workers()
    served = {flow for row in rows for flow in row.flows}
    unserved = tuple(sorted(each.flow for each in orchestrator.counts() if each.flow not in served))
    return Workers(rows, read_findings(orchestrator), unserved if rows else ())


def read_findings(orchestrator: Orchestrator) -> tuple[Finding, ...]:
    """Return what the doctor says; he is asked every half a minute, for he takes longer than a page may."""
    place = orchestrator._engine.store.place  # noqa: SLF001 - as above
    at, found = _examined.get(place, (0.0, ()))
    if not at or time.monotonic() - at > EXAMINED_EVERY_S:
        found = tuple(orchestrator.doctor())
        _examined[place] = (time.monotonic(), found)
    return found


def digest(rows: Sequence[Any]) -> str:
    """Return a text that changes when rows do."""
    return str(hash(repr(rows)))
