"""Checks of nodes that start flows: they stand where one can wait, and were not given what only a function has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.definition.checks.functions import read_input_type
from orchestrator.definition.checks.locations import find_places
from orchestrator.definition.checks.messages import is_node, step_place
from orchestrator.definition.codecs import Codec, codec_of
from orchestrator.definition.policies import RetryPolicy
from orchestrator.definition.schema_fit import ROOT, misfit
from orchestrator.definition.signature import MISSING
from orchestrator.definition.steps import Parallel
from orchestrator.definition.wording import NAME_RULE, duration_fault, is_a, is_name, show
from orchestrator.errors import Problem, type_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.definition.checks.locations import Place
    from orchestrator.definition.flow import Flow
    from orchestrator.definition.steps import AnyNode


def check_children(flow: Flow) -> Iterator[Problem]:
    """A node that starts a flow names one, and has no option of an attempt."""
    for place in find_places(flow):
        if place.node.child is None:
            continue
        if place.undoes is not None:
            yield Problem(place.where, "bad-child", "a compensation cannot start a flow; call what undoes the node")
        for fault in _faults(place.node):
            yield Problem(place.where, "bad-child", fault)
        if fault := _default_fault(flow, place):
            yield Problem(place.where, "input-mismatch", fault)


def check_child_steps(flow: Flow) -> Iterator[Problem]:
    """A step that one process runs does not wait for another run."""
    for step in flow.all_steps():
        has_child = any(node.child is not None for node in step.own_nodes() if is_node(node))
        if has_child and is_a(step, Parallel) and step.local:
            message = "a flow has runs of its own, in processes of its own; leave local=True out of this step"
            yield Problem(step_place(flow, step), "bad-child", message)


def _faults(node: AnyNode) -> Iterator[str]:
    child = node.child
    assert child is not None  # noqa: S101 - the caller's check
    if not is_name(child.name):
        yield f"the flow that it starts is called {show(child.name)}, which is not valid; use {NAME_RULE}"
    given = {
        "limit": bool(node.limits()),
        "queue": node.queue is not None,
        "error classifier": node.error_classifier is not None,
    }
    for what, was_given in given.items():
        if was_given:
            yield f"a node that starts a flow has no {what}: give it to the nodes of that flow"
    if is_a(node.retry, RetryPolicy) and (node.retry.non_retryable or node.retry.on_exhausted != "fail"):
        yield (
            "the retry policy of a node that starts a flow has no non_retryable and no on_exhausted: give them to the "
            "nodes of that flow"
        )
    timeout: Any = node.timeout  # None for none, unlike that of an attempt
    if timeout is not None and (fault := duration_fault(timeout, "timeout")):
        yield f"its {fault}"


def _default_fault(flow: Flow, place: Place) -> str:
    """What is wrong if the run's input is passed on."""
    node = place.node
    is_given = node.wiring is not None or node.input_func is not None or node.input is not MISSING
    codec = read_input_type(flow)
    if is_given or place.is_mapped or node.child is None or flow.input_type is MISSING or not is_a(codec, Codec):
        return ""
    taken: Any = node.child.taken_type
    try:
        accepted = None if taken is MISSING else codec_of(taken).accepted()
    except Exception:  # noqa: BLE001 - a bad type is reported by `functions`
        return ""
    written = codec.written()
    path = misfit(written, accepted) if written is not None and accepted is not None else ""
    if not path:
        return ""
    at = "" if path == ROOT else f" at {path}"
    takes, given_type = type_name(taken), type_name(flow.input_type)
    return (
        f"it is given the run's input, {given_type}, but flow {node.child.name} takes {takes}{at}; "
        "give it an input, with_inputs(...) or with_input_func(...)"
    )
