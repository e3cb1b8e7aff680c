"""Pages beside the runs: flows with how they end, one flow, schedules, and workers with what is wrong with them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from orchestrator.definition.state import RunStatus
from orchestrator.schedules import instants, slots_of
from orchestrator.starts import find_plan
from orchestrator.store.queries import as_json
from orchestrator.web.graph import draw_graph
from orchestrator.web.run_page import NARROW

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator import FlowCounts, Orchestrator, RunRow, WorkerRow
    from orchestrator.definition.plan import Plan

STRIP = 50
WIDE = 1320
MOST_STRIPS = 40
"""Flows whose last runs are read; with more, the page has counts only."""
AHEAD = timedelta(days=400)


@dataclass(frozen=True)
class Schedule:
    """One schedule.

    Attributes:
        flow: The flow.
        cron: The cron.
        timezone: Its zone.
        next: Its next instants, three at most.
    """

    flow: str
    cron: str
    timezone: str
    next: tuple[datetime, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the schedule as JSON values."""
        return as_json(self)


@dataclass(frozen=True)
class FlowRow:
    """One flow.

    Attributes:
        name: Its name.
        counts: How its runs stand.
        last: Its last runs, newest first; fifty at most.
        success: Share of the ended ones among them that succeeded; None without any.
        p50, p95: How long those that succeeded took.
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
    counts = orchestrator.counts()
    following = {row.flow: row.next[0] for row in reversed(read_schedules(orchestrator)) if row.next}
    rows = [_row(orchestrator, each, following.get(each.flow), is_read=len(counts) <= MOST_STRIPS) for each in counts]
    return sorted(rows, key=lambda row: (not (row.counts.open or row.last), row.name))


def _row(orchestrator: Orchestrator, counts: FlowCounts, following: datetime | None, *, is_read: bool) -> FlowRow:
    last = tuple(orchestrator.runs(counts.flow, limit=STRIP).rows) if is_read else ()
    ended = [row for row in last if row.finished is not None]
    won = sorted(row.duration for row in ended if row.status is RunStatus.SUCCEEDED)
    return FlowRow(
        counts.flow,
        counts,
        last,
        len(won) / len(ended) if ended else None,
        won[len(won) // 2] if won else None,
        won[min(len(won) - 1, round(len(won) * 0.95))] if won else None,
        following,
    )


@dataclass(frozen=True)
class FlowShown:
    """What the page of a flow shows."""

    row: FlowRow
    plan: Plan
    graph: str
    graph_narrow: str
    schedules: list[Schedule]
    schema: str
    is_here: bool


def read_flow(orchestrator: Orchestrator, name: str) -> FlowShown:
    """Return the page of a flow.

    Raises:
        UnknownFlow: It is neither registered here nor announced.
    """
    engine = orchestrator._engine  # noqa: SLF001 - a door reads the registry directly
    plan = find_plan(engine, name)
    counts = next(row for row in orchestrator.counts() if row.flow == name)
    schedules = [row for row in read_schedules(orchestrator) if row.flow == name]
    following = min((row.next[0] for row in schedules if row.next), default=None)
    return FlowShown(
        row=_row(orchestrator, counts, following, is_read=True),
        plan=plan,
        graph=draw_graph(plan, width=WIDE),
        graph_narrow=draw_graph(plan, width=NARROW),
        schedules=schedules,
        schema=json.dumps(plan.input_schema, indent=2) if plan.input_schema is not None else "",
        is_here=name in engine.registry.flows,
    )


def read_schedules(orchestrator: Orchestrator) -> list[Schedule]:
    """Return the schedules of the flows that Flower's app has, those that are due first before the others."""
    now = datetime.now(UTC)
    rows = []
    for entry in orchestrator._engine.registry.flows.values():  # noqa: SLF001 - as above
        for trigger in slots_of(entry).values():
            due = []
            for at in instants(trigger.cron, trigger.timezone, after=now, until=now + AHEAD):
                due.append(at)
                if len(due) == 3:  # noqa: PLR2004 - enough to see the rhythm
                    break
            rows.append(Schedule(entry.flow.name, trigger.cron, trigger.timezone, tuple(due)))
    return sorted(rows, key=lambda row: (row.next or (datetime.max.replace(tzinfo=UTC),), row.flow))


@dataclass(frozen=True)
class Workers:
    """What the page of workers shows.

    Attributes:
        rows: The workers.
        findings: What is wrong, as sentences.
        unserved: Flows that no worker has the code of.
    """

    rows: tuple[WorkerRow, ...]
    findings: tuple[str, ...]
    unserved: tuple[str, ...]


def read_workers(orchestrator: Orchestrator) -> Workers:
    """Return the live workers, and what their announcements alone say is wrong."""
    rows = orchestrator.workers()
    findings = []
    if not rows:
        findings.append("No worker that takes flows is alive: runs wait until one is started.")
    for row in rows:
        if not row.json:
            findings.append(f"{row.name} reads no JSON, and so no message of a node: add it to accept_content.")
        if row.missing:
            findings.append(f"{row.name} has pool processes without the tasks {', '.join(row.missing[:3])}.")
    versions: dict[str, set[str]] = {}
    for row in rows:
        for flow, version in row.versions.items():
            versions.setdefault(flow, set()).add(version)
    mixed = sorted(flow for flow, found in versions.items() if len(found) > 1)
    if mixed:
        findings.append(f"Workers have different versions of {', '.join(mixed[:5])}: a deploy is under way, or stuck.")
    served = {flow for row in rows for flow in row.flows}
    unserved = tuple(sorted(each.flow for each in orchestrator.counts() if each.flow not in served))
    return Workers(rows, tuple(findings), unserved if rows else ())


def digest(rows: Sequence[Any]) -> str:
    """Return a text that changes when rows do."""
    return str(hash(repr(rows)))
