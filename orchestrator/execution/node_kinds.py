"""Call what a node stands for: a function, a compensation, a branch decision, or the items of a map.

One small class for each kind; a new kind is a class and a line in `KINDS`. Pages have a module of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.definition.context import Deferred
from orchestrator.definition.signature import MISSING
from orchestrator.errors import MissingOutputError, PayloadTooLarge, Terminal
from orchestrator.execution.current_loop import provide_current_loop
from orchestrator.execution.event_loop import run_on_loop
from orchestrator.execution.map_items import items_of, take_items
from orchestrator.execution.task_calls import call_function

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.definition.plan import NodePlan, Plan
    from orchestrator.execution.failures import Failed
    from orchestrator.execution.inputs import Inputs
    from orchestrator.store.scripts.results import Claimed, PageEnd


@dataclass(frozen=True, slots=True)
class Returned:
    """What an attempt returned, ready to be stored.

    Attributes:
        output: JSON of the output; empty if there is none to store.
        choice: Of a decision: the branch; of a map's computation: how many items there are.
        items: Of a map's computation: JSON of each item.
        page: Of a page: how many items it has, and the cursor that came with it.
        has_more: Whether there are pages after it.
    """

    output: bytes = b""
    choice: int | None = None
    items: Sequence[bytes] = ()
    page: PageEnd | None = None
    has_more: bool = False


class NodeKind:
    """What an attempt of one kind of node is: its name, its input, what it calls, and what follows in its message."""

    has_state = True
    """Whether its functions see the state of the run."""
    has_key = True
    """Whether what it returns is stored under the output key of its node."""

    def name_of(self, node: str, claimed: Claimed) -> str:  # noqa: ARG002 - of a map the claim says which item
        """The name of an attempt that is claimed, as it stands in the store."""
        return node

    def most_in_a_message(self, plan: Plan, node_plan: NodePlan) -> int:  # noqa: ARG002 - for kinds that repeat
        """Attempts that one message makes of the same node, one behind the other."""
        return 1

    def repeats(self, made: Returned | Failed) -> bool:  # noqa: ARG002 - as above
        """Whether the same node follows an attempt, with its next item or page."""
        return False

    def given(self, inputs: Inputs) -> Any:
        """The function's input, validated: from its input function or a constant."""
        given = inputs.read_from_flow()
        return inputs.node.contract.read(MISSING) if given is MISSING else given

    def call(self, inputs: Inputs) -> Returned | Deferred:
        """Return what is to be stored, or what the node waits for, or raise the failure of the attempt."""
        returned = invoke(inputs, may_defer=True)
        if isinstance(returned, Deferred):
            return returned
        output = inputs.node.contract.output.dump(returned)
        within_limit(inputs, f"output of node {inputs.name}", len(output))
        return Returned(output)


class ItemKind(NodeKind):
    """The call of a map's node for one item; it takes nothing but the item, unless it is wired by name."""

    has_state = False
    has_key = False

    def name_of(self, node: str, claimed: Claimed) -> str:
        """`<node>[<index>]`."""
        return f"{node}[{claimed.index}]"

    def most_in_a_message(self, plan: Plan, node_plan: NodePlan) -> int:
        """The map's batch."""
        return plan.steps[node_plan.step].batch

    def repeats(self, made: Returned | Failed) -> bool:  # noqa: ARG002 - whichever
        """Behind a failed item, too, comes the next one."""
        return True

    def given(self, inputs: Inputs) -> Any:
        """The item."""
        if not inputs.claimed.item:
            raise MissingOutputError("the items of the map are gone from Redis")
        return inputs.read_from_flow() if inputs.is_wired else inputs.node.contract.load(inputs.claimed.item)


class CompensationKind(NodeKind):
    """A compensation; what it returns is not stored."""

    def given(self, inputs: Inputs) -> Any:
        """What the flow gives it, else what its node returned."""
        given, contract = inputs.read_from_flow(), inputs.node.contract
        if given is not MISSING or contract.style == "none":
            return given
        return contract.load(b"null" if inputs.undone is None else inputs.undone)

    def call(self, inputs: Inputs) -> Returned:
        """Undo the node."""
        invoke(inputs)
        return Returned()


class DecisionKind(NodeKind):
    """A branch decision: the first predicate that holds."""

    def call(self, inputs: Inputs) -> Returned:
        """Return the branch, the last one if no predicate holds."""
        block = inputs.entry.steps[inputs.node_plan.name]
        # A generator: predicates behind the first that holds are not called, as in an `if` with `elif`.
        choices = (index for index, predicate in enumerate(block.predicates) if predicate(inputs.state))
        return Returned(choice=inputs.call_pure(next, choices, len(block.predicates)))


class ExpansionKind(NodeKind):
    """The computation of a map's items."""

    def call(self, inputs: Inputs) -> Returned:
        """Return the items."""
        step = inputs.entry.steps[inputs.node_plan.name]
        items = inputs.call_pure(take_items, step, inputs.state)
        found = items_of(step, items, largest=inputs.engine.settings.max_payload_bytes)
        return Returned(choice=len(found), items=found)


KINDS: dict[str, NodeKind] = {
    "node": NodeKind(),
    "item": ItemKind(),
    "compensation": CompensationKind(),
    "branch": DecisionKind(),
    "expand": ExpansionKind(),
    # Gates: no message is sent for them, and the claim of one that comes anyway says that they are held.
    "signal": NodeKind(),
    "approval": NodeKind(),
    "sleep": NodeKind(),
}


def within_limit(inputs: Inputs, what: str, length: int) -> None:
    """Refuse what is larger than may be stored.

    Raises:
        PayloadTooLarge: It has more bytes than `Settings.max_payload_bytes`.
    """
    largest = inputs.engine.settings.max_payload_bytes
    if length > largest:
        raise PayloadTooLarge(what, length, largest)


def invoke(inputs: Inputs, *cursor: str | None, may_defer: bool = False, **changes: Any) -> Any:
    """Call a node's function.

    Args:
        inputs: What it reads.
        cursor: Of a function that fetches pages: where the page begins.
        may_defer: Whether it may let its node wait.
        changes: Fields of its context that differ.
    """
    contract = inputs.node.contract
    given = inputs.read_given()
    context = inputs.context(**changes) if contract.takes_context else None
    provide_current_loop()
    finish = partial(run_on_loop, timeout_s=inputs.timeout_s, expired=inputs.expired)
    returned = call_function(contract, context, given, *cursor, finish=finish)
    if isinstance(returned, Deferred) and not may_defer:
        raise Terminal(f"node {inputs.name} cannot wait: neither a compensation nor a page does")
    return returned
