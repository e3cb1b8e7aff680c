"""Verdict of `check --against live`: which unfinished runs the code of this app lets go on, and which it does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.definition.fitting import misfit, missing_code
from orchestrator.definition.plan import node_of
from orchestrator.definition.state import RunStatus
from orchestrator.definition.step_plan import END
from orchestrator.engine import engine_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.client import Orchestrator
    from orchestrator.definition.plan import Plan
    from orchestrator.engine import Engine
    from orchestrator.store.queries import RunRow

GOES_ON, GONE, NO_FIT = "goes on", "would wait for code that is gone", "stored data no longer fits"
OPEN = tuple(str(each) for each in RunStatus if not each.is_final)
ENDED = {"succeeded", "failed", "unknown", "skipped", "compensated", "compensation_failed"}
AT_ONCE = 500


@dataclass(frozen=True)
class Group:
    """Runs of one flow with one verdict.

    Attributes:
        flow: The flow.
        verdict: "goes on", "would wait for code that is gone" or "stored data no longer fits".
        reason: The node and why; empty for runs that go on.
        runs: Their ids, newest first.
    """

    flow: str
    verdict: str
    reason: str
    runs: tuple[str, ...]


def judge_live(orchestrator: Orchestrator) -> list[Group]:
    """Judge every unfinished run by the code of this app, with the rule by which workers do.

    Raises:
        StoreError: Redis.
    """
    engine = engine_of(orchestrator.app)
    found: dict[tuple[str, str, str], list[str]] = {}
    for row in _open_runs(orchestrator):
        verdict, reason = _judge(engine, row)
        found.setdefault((row.flow, verdict, reason), []).append(row.id)
    return [Group(*key, tuple(runs)) for key, runs in sorted(found.items())]


def _open_runs(orchestrator: Orchestrator) -> Iterator[RunRow]:
    cursor = None
    while True:
        page = orchestrator.runs(status=OPEN, children=True, limit=AT_ONCE, cursor=cursor)
        yield from page.rows
        cursor = page.cursor
        if cursor is None:
            return


def _judge(engine: Engine, row: RunRow) -> tuple[str, str]:
    entry = engine.registry.flows.get(row.flow)
    if entry is None:
        return GONE, f"the app has no flow {row.flow}"
    pinned = engine.store.plan(row.plan)
    if pinned is None or pinned.hash == entry.plan.hash:
        return GOES_ON, ""
    records = engine.store.nodes(row.id)
    ended = {name for name, record in records.items() if record["state"] in ENDED}
    names = [name for name in _still_to_run(pinned, row) if name not in ended]
    if row.status == RunStatus.COMPENSATING:
        names = [undo for node, undo, _ in pinned.sagas if records.get(node, {}).get("state") == "compensating"]
    for name in names:
        if reason := misfit(entry.plan, pinned, node_of(name)):
            return (GONE if missing_code(entry.plan, pinned, node_of(name)) else NO_FIT), f"{name}: {reason}"
    return GOES_ON, ""


def _still_to_run(plan: Plan, row: RunRow) -> list[str]:
    """Return the nodes that a run can still reach from its position, in order."""
    waiting, seen = [row.position], set[int]()
    while waiting:
        position = waiting.pop()
        if position == END or position in seen:
            continue
        seen.add(position)
        step = plan.steps[position]
        waiting += step.branches if step.kind == "branch" else [step.next]
    return [name for position in sorted(seen) for name in plan.steps[position].nodes]
