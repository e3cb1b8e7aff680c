"""Fetch one page of a paginated node: an attempt of its own, stored when it was fetched, with the cursor of the next.

The stored state says which page comes next; a message that is lost, or leaves after many pages, loses none.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from orchestrator.definition.codecs import codec_of
from orchestrator.definition.pagination import PagedNode
from orchestrator.errors import PaginationError
from orchestrator.execution.child_attempt import CHILD, ChildItemKind, ChildIterationKind
from orchestrator.execution.iteration_attempt import IterationKind
from orchestrator.execution.node_kinds import KINDS, NodeKind, Returned, invoke, within_limit
from orchestrator.store.scripts.results import PageEnd

if TYPE_CHECKING:
    from orchestrator.definition.plan import NodePlan, Plan
    from orchestrator.execution.failures import Failed
    from orchestrator.execution.inputs import Inputs

PAGES_IN_A_MESSAGE = 50


class PageKind(NodeKind):
    """One page of a paginated node."""

    def most_in_a_message(self, plan: Plan, node_plan: NodePlan) -> int:  # noqa: ARG002 - the same for all
        """A number that lets other work of the queue get its turn."""
        return PAGES_IN_A_MESSAGE

    def repeats(self, made: Returned | Failed) -> bool:
        """Behind a page with more after it comes the next one; a failed one is tried again in a message of its own."""
        return isinstance(made, Returned) and made.has_more

    def call(self, inputs: Inputs) -> Returned:
        """Return the page's items as JSON, and how they end."""
        node, number = inputs.node, inputs.claimed.index or 0
        cursor = json.loads(inputs.claimed.item)
        size = node.page_size if isinstance(node, PagedNode) else None
        result = invoke(inputs, cursor, page_size=size, idempotency_key=f"{inputs.idempotency_key}/{number}")
        codec = node.contract.page
        assert codec is not None  # noqa: S101 - `Registry.entry_for` looks for it
        # As its JSON has it: a mapping may stand for a Page, and this is the cursor that the next fetch gets.
        page = codec.load(codec.dump(result))
        if page.has_more and page.next_cursor in {None, cursor}:
            what = "no cursor" if page.next_cursor is None else "the cursor that it was fetched with"
            message = f"page {number} has more after it and comes with {what}; it would be fetched for ever"
            raise PaginationError(message, **inputs.where)
        end = PageEnd(len(page.items), json.dumps(page.next_cursor))
        items = codec_of(type(page).model_fields["items"].annotation).dump(page.items)
        within_limit(inputs, f"page {number} of node {inputs.name}", len(items) + len(end.cursor))
        is_last_allowed = 0 < inputs.node_plan.max_pages <= number + 1
        return Returned(items, page=end, has_more=page.has_more and not is_last_allowed)


_PAGE = PageKind()
_ITERATION = IterationKind()
_CHILD_ITEM, _CHILD_ITERATION = ChildItemKind(), ChildIterationKind()


def kind_of(node_plan: NodePlan) -> NodeKind:
    """What is called for a node."""
    if node_plan.child and node_plan.repeats:
        return _CHILD_ITERATION
    if node_plan.child:
        return _CHILD_ITEM if node_plan.kind == "item" else CHILD
    if node_plan.repeats:
        return _ITERATION
    return _PAGE if node_plan.paged else KINDS[node_plan.kind]
