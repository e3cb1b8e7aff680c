"""One page of a paginated node: an attempt of its own, stored when it was fetched, with the cursor of the next.

The stored state says which page comes next; a message that is lost, or leaves after many pages, loses none.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from orchestrator.definition.codecs import codec_of
from orchestrator.definition.pagination import PagedNode
from orchestrator.errors import PaginationError, PayloadTooLarge
from orchestrator.execution.attempt import Attempt
from orchestrator.store.scripts.results import PageEnd

if TYPE_CHECKING:
    from orchestrator.definition.context import NodeContext
    from orchestrator.definition.node import Node
    from orchestrator.store.scripts.results import Moved


class PageAttempt(Attempt):
    """One try at one page."""

    _end = PageEnd(0, "null")
    _has_more = False

    def _cursor(self) -> tuple[str | None, ...]:
        return (json.loads(self.claimed.item),)

    @property
    def _number(self) -> int:
        return self.claimed.index or 0

    def _context(self, node: Node[Any, Any]) -> NodeContext:
        context = super()._context(node)
        size = node.page_size if isinstance(node, PagedNode) else None
        return replace(context, page_size=size, idempotency_key=f"{context.idempotency_key}/{self._number}")

    def _dump(self, node: Node[Any, Any], result: object) -> bytes:
        """The items as JSON; the page's end is kept for the commit."""
        codec = node.contract.page
        assert codec is not None  # noqa: S101 - `Registry.entry_for` looks for it
        page = codec.load(codec.dump(result))
        (cursor,) = self._cursor()
        if page.has_more and page.next_cursor in {None, cursor}:
            what = "no cursor" if page.next_cursor is None else "the cursor that it was fetched with"
            message = f"page {self._number} has more after it and comes with {what}; it would be fetched for ever"
            raise PaginationError(message, **self._where())
        most = self.facts.max_pages
        self._has_more = page.has_more and not 0 < most <= self._number + 1
        self._end = PageEnd(len(page.items), json.dumps(page.next_cursor))
        items = codec_of(type(page).model_fields["items"].annotation).dump(page.items)
        size, largest = len(items) + len(self._end.cursor), self.engine.settings.max_payload_bytes
        if size > largest:
            raise PayloadTooLarge(f"page {self._number} of node {self.name}", size, largest)
        return items

    def _commit(self, output: bytes, choice: int | None) -> Moved:
        """Store the page; if there are more, ask for the next one in the same round trip."""
        scripts = self.store.scripts
        place = (*self._node(), self.token)
        if not self._has_more:
            return scripts.commit(*place, output=output, choice=choice, follows=self.follows, page=self._end)
        self.ahead = self.ahead or self.go_on(self, choice)
        return self._send(scripts.commit_page_call(*place, items=output, page=self._end, goes_on=bool(self.ahead)))
