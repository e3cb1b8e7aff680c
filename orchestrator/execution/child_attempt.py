"""Make what a flow node starts another flow with: an attempt that calls no function and ends with a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.definition.signature import MISSING
from orchestrator.execution.node_kinds import ItemKind, NodeKind, within_limit

if TYPE_CHECKING:
    from orchestrator.definition.plan import Plan
    from orchestrator.execution.inputs import Inputs


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


class ChildItemKind(ItemKind):
    """A flow that a map starts for each item."""

    def call(self, inputs: Inputs) -> Spawn:  # type: ignore[override] # as above
        """Return what is to be started."""
        return _spawn_of(inputs)


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
