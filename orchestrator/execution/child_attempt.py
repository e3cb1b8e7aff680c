"""Make what a flow node starts another flow with: an attempt that calls no function and ends with a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.definition.signature import MISSING
from orchestrator.execution.iteration_attempt import IterationKind
from orchestrator.execution.node_kinds import ItemKind, NodeKind, Returned, within_limit
from orchestrator.store.scripts.results import PageEnd

if TYPE_CHECKING:
    from orchestrator.definition.plan import Plan
    from orchestrator.execution.inputs import Inputs


UNJUDGED = b"!"
"""Prefix of what a claim gives an iteration whose child has succeeded; no JSON begins with it."""


@dataclass(frozen=True, slots=True)
class Spawn:
    """What the attempt of a flow node ends with.

    Attributes:
        plan: The plan of the flow to be started; None if nobody has announced it.
        input_json: The input of its run.
    """

    plan: Plan | None
    input_json: bytes


class ChildKind(NodeKind):
    """A node that starts a flow."""

    def given(self, inputs: Inputs) -> Any:
        """What the flow gives the node, else the run's own input."""
        given = inputs.read_from_flow()
        return inputs.node.contract.load(inputs.state.stored_input()) if given is MISSING else given

    def call(self, inputs: Inputs) -> Spawn:  # type: ignore[override] # what is stored comes from the child
        """Return what is to be started."""
        return _spawn_of(inputs)


class ChildIterationKind(IterationKind):
    """One iteration of a flow node: an attempt that starts its child, and one behind it that asks `until`."""

    def given(self, inputs: Inputs) -> Any:
        """The result of the child before; of the first one what the flow gives the node."""
        return super().given(inputs) if inputs.claimed.index else CHILD.given(inputs)

    def call(self, inputs: Inputs) -> Returned | Spawn:  # type: ignore[override] # as above
        """Return what is to be started, or what the child has returned and whether there is to be another one."""
        number = inputs.claimed.index or 0
        if not inputs.claimed.item.startswith(UNJUDGED):
            self.refuse_more(inputs, number)
            return _spawn_of(inputs)
        output = inputs.claimed.item.removeprefix(UNJUDGED)
        is_last = inputs.call_pure(inputs.node.repeat.until, inputs.node.contract.output.load(output))
        return Returned(output, page=PageEnd(1, ""), has_more=not is_last)


class ChildItemKind(ItemKind):
    """A flow that a map starts for each item."""

    def call(self, inputs: Inputs) -> Spawn:  # type: ignore[override] # as above
        """Return what is to be started."""
        return _spawn_of(inputs)


CHILD = ChildKind()


def _spawn_of(inputs: Inputs) -> Spawn:
    name = inputs.node_plan.child
    data = inputs.node.contract.input.dump(inputs.read_given())
    within_limit(inputs, f"input of flow {name}", len(data))
    known = inputs.engine.registry.flows.get(name)
    plan: Plan | None
    if known is not None:
        plan = known.plan
    else:
        with inputs.engine.store.guarded():
            plan = inputs.engine.store.announced_plan(name)
    if plan is not None:
        # For what it raises: here an input without a value for the lane is the node's failure; raised by the start it
        # would leave the claim without an end.
        plan.lane(data)
    return Spawn(plan, data)
