"""Checks of a flow's shape: it has steps, they hold nodes, and their options suit their kind."""

from __future__ import annotations

from types import FunctionType
from typing import TYPE_CHECKING

from orchestrator.definition.checks.locations import find_places
from orchestrator.definition.checks.messages import flow_place, is_node, node_place, step_place
from orchestrator.definition.wording import call, is_a, show
from orchestrator.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.definition.flow import Flow


def check_steps(flow: Flow) -> Iterator[Problem]:
    """A flow has a step, and what each of its steps was given suits its kind."""
    if not flow.steps:
        yield Problem(flow_place(flow), "no-step", "the flow has no step; add one with then(node)")
    for step in flow.all_steps():
        yield from (Problem(step_place(flow, step), code, message) for code, message in step.faults())


def check_nodes(flow: Flow) -> Iterator[Problem]:
    """Every step and every compensation holds nodes and nothing else."""
    for step in flow.all_steps():
        for node in step.own_nodes():
            if not is_node(node):
                yield Problem(step_place(flow, step), "not-a-node", _no_node(node))
            elif node.compensation is not None and not is_node(node.compensation):
                yield Problem(node_place(flow, node), "not-a-node", f"on_error: {_no_node(node.compensation)}")


def check_compensations(flow: Flow) -> Iterator[Problem]:
    """A compensation has a known `when`, and no compensation of its own."""
    for place in find_places(flow):
        if place.undoes is not None and place.node.compensation is not None:
            message = (
                f"it compensates {call(place.undoes.name)} and has a compensation of its own, which never runs; "
                "remove it"
            )
            yield Problem(place.where, "bad-require", message)
        if not _is_one_of(place.node.compensation_when, "succeeded", "started"):
            message = f'on_error(when={show(place.node.compensation_when)}) is not known; use "succeeded" or "started"'
            yield Problem(place.where, "bad-require", message)


def find_unsuitable_steps(flow: Flow) -> Iterator[str]:
    """Soft findings: steps that are better written otherwise."""
    for step in flow.all_steps():
        yield from (f"{step_place(flow, step)}: {finding}" for finding in step.findings())


def _is_one_of(value: object, *known: str) -> bool:
    return is_a(value, str) and value in known


def _no_node(value: object) -> str:
    what = f"{show(value)} is not a Node"
    if is_a(value, list, tuple, set, frozenset):
        return f"{what}; give the nodes one by one, *nodes"
    if is_a(value, FunctionType):
        return f'{what}; wrap the function, Node("a-name", {show(value)})'
    return f"{what}; wrap a function, Node(name, function)"
