"""Limits of a flow in words, for its page and for the command line: of whole runs, and of each node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.definition.plan import limit_title
from orchestrator.web.texts import lasted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.definition.plan import NodePlan, Plan

WHEN_FULL = {"queue": "others wait for their turn", "skip": "others are skipped"}


def told_limits(plan: Plan) -> list[tuple[str, str]]:
    """Return each limit as a node's name, "" for the whole flow, and what it says; in the order of the flow."""
    names = dict.fromkeys(name for step in plan.steps for name in step.nodes)
    nodes = [*names, *(name for name in plan.nodes if name not in names)]
    return [("", each) for each in _of_flow(plan)] + [(name, each) for name in nodes for each in _of(plan.nodes[name])]


def _of_flow(plan: Plan) -> Iterator[str]:
    if plan.timeout_ms:
        yield f"a run ends within {lasted(plan.timeout_ms / 1000)}"
    if plan.max_runs:
        # One kind of a newer worker's is named as it is.
        yield f"{plan.max_runs['full']}; {WHEN_FULL.get(plan.max_runs['when_full'], plan.max_runs['when_full'])}"


def _of(node: NodePlan) -> Iterator[str]:
    yield from map(limit_title, node.limits)
    if node.deadline_ms:
        yield f"is done within {lasted(node.deadline_ms / 1000)} from when it is ready"
    if node.heartbeat_ms:
        yield f"an attempt ends that reports nothing for {lasted(node.heartbeat_ms / 1000)}"
