"""Make one iteration of a node that repeats: an attempt of its own, stored like a page, whose output is the next input.

The stored state says which iteration comes next, and from when; a crash repeats the one that was being made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.definition.signature import MISSING
from orchestrator.errors import RepetitionError
from orchestrator.execution.node_kinds import NodeKind, Returned, invoke, within_limit
from orchestrator.store.scripts.results import PageEnd

if TYPE_CHECKING:
    from orchestrator.definition.plan import NodePlan, Plan
    from orchestrator.execution.failures import Failed
    from orchestrator.execution.inputs import Inputs

ITERATIONS_IN_A_MESSAGE = 50


class IterationKind(NodeKind):
    """One iteration of a node that repeats, with a pause behind it or without one."""

    def most_in_a_message(self, plan: Plan, node_plan: NodePlan) -> int:  # noqa: ARG002 - the same for all plans
        """A number that lets other work of the queue get its turn; with a pause behind each, one."""
        every_ms, _ = node_plan.repeats
        return 1 if every_ms else ITERATIONS_IN_A_MESSAGE

    def repeats(self, made: Returned | Failed) -> bool:
        """Behind an iteration that was not the last comes the next one."""
        return isinstance(made, Returned) and made.has_more

    def given(self, inputs: Inputs) -> Any:
        """The output of the iteration before; of the first one what the flow gives the node."""
        contract = inputs.node.contract
        if not inputs.claimed.index:
            return super().given(inputs)
        return MISSING if contract.style == "none" else contract.load(inputs.claimed.item)

    def refuse_more(self, inputs: Inputs, number: int) -> None:
        """Refuse an iteration too many.

        Raises:
            RepetitionError: It is one.
        """
        _, most = inputs.node_plan.repeats
        if number >= most:
            message = f"its until asked for more than max_iterations={most}"
            raise RepetitionError(message, **inputs.where)

    def call(self, inputs: Inputs) -> Returned:
        """Return the output, and whether there is to be another iteration."""
        number = inputs.claimed.index or 0
        self.refuse_more(inputs, number)
        codec = inputs.node.contract.output
        output = codec.dump(invoke(inputs, iteration=number, idempotency_key=f"{inputs.idempotency_key}/{number}"))
        within_limit(inputs, f"iteration {number} of node {inputs.name}", len(output))
        # What it is asked of is what the next iteration would get, and not what the function still holds.
        is_last = inputs.call_pure(inputs.node.repeat.until, codec.load(output))
        return Returned(output, page=PageEnd(1, ""), has_more=not is_last)
