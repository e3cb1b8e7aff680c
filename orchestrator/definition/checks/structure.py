"""Checks of a flow's shape: it has steps, they hold nodes, and their options suit their kind."""

from __future__ import annotations

from types import FunctionType
from typing import TYPE_CHECKING, Final

from orchestrator.definition.checks.locations import find_places
from orchestrator.definition.checks.messages import (
    call,
    flow_place,
    is_a,
    is_node,
    is_whole,
    node_place,
    show,
    step_place,
)
from orchestrator.definition.flow import Map, Parallel, When
from orchestrator.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.definition.flow import Flow

MOST_ITEMS: Final = 100_000
AT_ONCE: Final = 50
"""Nodes of one parallel step above which `build` warns."""


def check_steps(flow: Flow) -> Iterator[Problem]:
    """A flow has a step."""
    if not flow.steps:
        yield Problem(flow_place(flow), "no-step", "the flow has no step; add one with then(node)")


def check_nodes(flow: Flow) -> Iterator[Problem]:
    """Every step and every compensation holds nodes and nothing else."""
    for step in flow.all_steps():
        for node in () if isinstance(step, When) else step.nodes():
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


def check_parallel(flow: Flow) -> Iterator[Problem]:
    """A parallel step has nodes, and `require` of it or of a map can be met."""
    for step in flow.all_steps():
        if not isinstance(step, Parallel | Map):
            continue
        where = step_place(flow, step)
        if isinstance(step, Parallel) and not step.members:
            yield Problem(where, "empty-parallel", "the parallel step has no node; give it at least one, or remove it")
        if not _is_one_of(step.on_failure, "fail", "continue"):
            message = f'on_failure={show(step.on_failure)} is not known; use "fail" or "continue"'
            yield Problem(where, "bad-require", message)
        elif step.require is not None:
            yield from _check_require(where, step)


def check_maps(flow: Flow) -> Iterator[Problem]:
    """A map has usable sizes."""
    for step in flow.maps():
        where = step_place(flow, step)
        if not is_whole(step.batch_size) or step.batch_size < 1:
            yield Problem(where, "bad-batch", f"batch_size={show(step.batch_size)}; use a whole number of at least 1")
        if step.max_concurrency is not None and (not is_whole(step.max_concurrency) or step.max_concurrency < 1):
            message = f"max_concurrency={show(step.max_concurrency)}; use a whole number of at least 1, or leave it out"
            yield Problem(where, "bad-limit", message)


def check_branches(flow: Flow) -> Iterator[Problem]:
    """Every branch has a step."""
    for block in flow.blocks():
        for number, branch in enumerate(block.all_branches(), 1):
            if not branch:
                which = "else-branch" if number > len(block.branches) else f"branch {number}"
                message = f"its {which} has no step; add one, or remove the branch"
                yield Problem(step_place(flow, block), "empty-branch", message)


def find_crowds(flow: Flow) -> Iterator[str]:
    """Soft findings: parallel steps so wide that a map serves better."""
    for step in flow.all_steps():
        if isinstance(step, Parallel) and len(step.members) > AT_ONCE:
            yield (
                f"{step_place(flow, step)}: {len(step.members)} nodes at once; over {AT_ONCE} are better written as "
                "then_map(...) with max_concurrency, which runs them in batches"
            )


def _check_require(where: str, step: Parallel | Map) -> Iterator[Problem]:
    require, most = step.require, MOST_ITEMS if isinstance(step, Map) else len(step.members)
    if step.on_failure == "fail":
        message = 'require goes with on_failure="continue" only: with "fail" every node has to succeed'
        yield Problem(where, "bad-require", message)
    elif not is_whole(require):
        yield Problem(where, "bad-require", f"require={show(require)} is not a whole number; use 1 to {most}")
    elif most and not 1 <= require <= most:
        what = "items" if isinstance(step, Map) else f"{most} nodes"
        message = f"require={show(require)} of {what}; use 1 to {most}, or leave it out to require none"
        yield Problem(where, "bad-require", message)


def _is_one_of(value: object, *known: str) -> bool:
    return is_a(value, str) and value in known


def _no_node(value: object) -> str:
    what = f"{show(value)} is not a Node"
    if is_a(value, list, tuple, set, frozenset):
        return f"{what}; give the nodes one by one, *nodes"
    if is_a(value, FunctionType):
        return f'{what}; wrap the function, Node("a-name", {show(value)})'
    return f"{what}; wrap a function, Node(name, function)"
