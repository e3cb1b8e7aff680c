"""Call what a node stands for: a function, a compensation, a branch decision, or the items of a map.

One small class for each kind; a new kind is a class and a line in `KINDS`. Pages have a module of their own.
"""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.errors import PayloadTooLarge
from orchestrator.execution.map_items import items_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from orchestrator.execution.inputs import Inputs
    from orchestrator.store.scripts.results import PageEnd


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


class NodeKind(Protocol):
    """What is called for one kind of node, within the attempt's time limit."""

    def call(self, inputs: Inputs) -> Returned:
        """Return what is to be stored, or raise the failure of the attempt."""


class FunctionKind:
    """A node function, or the call of one for an item of a map."""

    def call(self, inputs: Inputs) -> Returned:
        """Return what is to be stored, or raise what the function raises."""
        output = inputs.node.contract.output.dump(invoke(inputs))
        largest = inputs.engine.settings.max_payload_bytes
        if len(output) > largest:
            raise PayloadTooLarge(f"output of node {inputs.name}", len(output), largest)
        return Returned(output)


class CompensationKind:
    """A compensation; what it returns is not stored."""

    def call(self, inputs: Inputs) -> Returned:
        """Undo the node."""
        invoke(inputs)
        return Returned()


class DecisionKind:
    """A branch decision: the first predicate that holds."""

    def call(self, inputs: Inputs) -> Returned:
        """Return the branch, the last one if no predicate holds."""
        block = inputs.entry.decisions[inputs.node_plan.name]
        choices = (index for index, predicate in enumerate(block.predicates) if predicate(inputs.state))
        return Returned(choice=inputs.call_pure(next, choices, len(block.predicates)))


class ExpansionKind:
    """The computation of a map's items."""

    def call(self, inputs: Inputs) -> Returned:
        """Return the items."""
        step = inputs.entry.sources[inputs.node_plan.name]
        items = inputs.call_pure(step.over, inputs.state)
        found = items_of(step, items, largest=inputs.engine.settings.max_payload_bytes)
        return Returned(choice=len(found), items=found)


KINDS: dict[str, NodeKind] = {
    "node": FunctionKind(),
    "item": FunctionKind(),
    "compensation": CompensationKind(),
    "branch": DecisionKind(),
    "expand": ExpansionKind(),
}


def invoke(inputs: Inputs, *cursor: str | None, **changes: Any) -> Any:
    """Call a node's function.

    Args:
        inputs: What it reads.
        cursor: Of a function that fetches pages: where the page begins.
        changes: Fields of its context that differ.
    """
    contract = inputs.node.contract
    given = inputs.read_given()
    context = inputs.context(**changes) if contract.takes_context else None
    result = contract.invoke(context, given, *cursor)
    return asyncio.run(_limited(result, inputs)) if inspect.isawaitable(result) else result


async def _limited(result: Awaitable[Any], inputs: Inputs) -> Any:
    try:
        async with asyncio.timeout(inputs.timeout_s) as scope:
            return await result
    except TimeoutError:
        if scope.expired():
            raise inputs.expired() from None
        raise
