"""Checks of gates: what they wait for can come, and they were not given what only an attempt has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.definition.checks.functions import read_contract
from orchestrator.definition.checks.locations import find_places
from orchestrator.definition.checks.messages import step_place
from orchestrator.definition.gates import (
    DECIDES_WITHIN,
    DECISIONS,
    ApprovalGate,
    Gate,
    SignalGate,
    SleepGate,
    UntilGate,
)
from orchestrator.definition.policies import RetryPolicy
from orchestrator.definition.signature import MISSING, Contract
from orchestrator.definition.steps import Parallel
from orchestrator.definition.wording import NAME_RULE, call, count_fault, duration_fault, is_a, is_name, show
from orchestrator.errors import Problem, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.definition.flow import Flow

LONGEST_NAME = 200
"""Characters of an approver's name."""


def check_gates(flow: Flow) -> Iterator[Problem]:
    """A gate waits for something that can come, and has no option of an attempt."""
    for place in find_places(flow):
        gate = place.node
        if not is_a(gate, Gate):
            continue
        if place.is_mapped or place.undoes is not None:
            what = "the node of a map" if place.is_mapped else "a compensation"
            yield Problem(place.where, "bad-gate", f"a gate cannot be {what}; wait in a step of its own")
        for fault in (*_option_faults(gate), *_own_faults(gate)):
            yield Problem(place.where, "bad-gate", fault)


def check_local_gates(flow: Flow) -> Iterator[Problem]:
    """A step that one process runs waits for nothing."""
    for step in flow.all_steps():
        if is_a(step, Parallel) and step.local and any(is_a(node, Gate) for node in step.members):
            yield Problem(
                step_place(flow, step), "bad-gate", "a gate has no process; leave local=True out of this step"
            )


def check_signals(flow: Flow) -> Iterator[Problem]:
    """Signals of one name have one type: what is sent may go to any gate that waits for it."""
    known: dict[object, Any] = {}
    for place in find_places(flow):
        gate = place.node
        if is_a(gate, SignalGate) and is_name(gate.signal_name):
            first = known.setdefault(gate.signal_name, gate.gives)
            if first is not gate.gives and first != gate.gives:
                message = f"signal {call(gate.signal_name)} has another type in another gate; use one type for both"
                yield Problem(place.where, "bad-gate", message)


def _option_faults(gate: Gate[Any, Any]) -> Iterator[str]:
    policies = (RetryPolicy(),) if gate.waits else (DECISIONS,)
    given = {
        "retry policy": gate.retry not in policies if is_a(gate.retry, RetryPolicy) else True,
        "limit": bool(gate.limits()),
        "queue": gate.queue is not None,
        "error classifier": gate.error_classifier is not None,
        "input": gate.waits != "" and gate.input_func is not None,
        "timeout": (is_a(gate, SleepGate) and gate.timeout is not None)
        or (is_a(gate, UntilGate) and gate.timeout != DECIDES_WITHIN),
    }
    yield from (
        f"a gate has no {what}: it makes no attempt; remove it" for what, was_given in given.items() if was_given
    )


def _own_faults(gate: Gate[Any, Any]) -> Iterator[str]:
    if gate.waits and gate.timeout is not None and (fault := duration_fault(gate.timeout, "timeout")):
        yield f"its {fault}"
    if is_a(gate, SignalGate):
        if not is_name(gate.signal_name):
            yield f"its signal {show(gate.signal_name)} is not a valid name; use {NAME_RULE}"
        yield from _default_faults(gate)
    elif is_a(gate, ApprovalGate):
        yield from _vote_faults(gate)
    elif is_a(gate, SleepGate) and (fault := duration_fault(gate.span, "time", is_zero_fine=True)):
        yield f"its {fault}"


def _default_faults(gate: SignalGate[Any, Any]) -> Iterator[str]:
    if gate.default is MISSING:
        return
    if gate.timeout is None:
        yield "a default is the output at the timeout; give it with_timeout(...), or leave default out"
    contract = read_contract(gate)
    if is_a(contract, Contract):
        try:
            contract.output.dump(contract.output.check(gate.default))
        except Exception as error:  # noqa: BLE001 - a validator is a user's code: it may raise anything
            yield f"its default {show(gate.default)} does not fit its type: {text_of(error)}"


def _vote_faults(gate: ApprovalGate[Any, Any]) -> Iterator[str]:
    if fault := count_fault(gate.quorum, "quorum"):
        yield f"its {fault}"
    names = gate.approvers
    if names is None:
        return
    if not is_a(names, tuple) or not all(is_a(name, str) and 0 < len(name) <= LONGEST_NAME for name in names):
        yield f"its approvers are {show(names)}; use a list of names of at most {LONGEST_NAME} characters"
    elif is_a(gate.quorum, int) and len(set(names)) < gate.quorum:
        yield f"its quorum is {gate.quorum}, and it has {len(set(names))} approvers; lower one or name more"
