"""Outputs that are stored in parts: the items of a map, the pages of a node, the iterations of one that repeats.

A part is stored when it is there; the whole is put together when it is read. Callers guard against Redis's errors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.errors import MissingOutputError

if TYPE_CHECKING:
    from orchestrator.store.keys import Keys

LIST_OF = b"@"
"""Prefix of the stored value of an output that is the list of a map's outputs; no JSON begins with it."""
PAGES_OF = b"#"
"""Prefix of the stored value of an output that is all pages of a paginated node."""
IN_PARTS = (LIST_OF, PAGES_OF)
"""Prefixes of stored values that stand for others, which `OutputParts.whole` puts together."""
ITEMS_AT_ONCE = 1000
PAGES_AT_ONCE = 10


class OutputParts:
    """What runs have stored of outputs that come in parts.

    Args:
        client: The client of the store.
        keys: Its keys.
    """

    def __init__(self, client: Any, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def whole(self, run_id: str, value: bytes) -> bytes:
        """Return the outputs of a map's items, or the pages of a node, for the stored value that stands for them.

        Raises:
            MissingOutputError: The outputs of a map's items are gone.
        """
        if value.startswith(PAGES_OF):
            return self._all_pages(run_id, value.decode().removeprefix(PAGES_OF.decode()))
        if not value.startswith(LIST_OF):
            return value
        node, _, count = value.decode().removeprefix(LIST_OF.decode()).rpartition("|")
        parts: list[bytes | None] = []
        for first in range(0, int(count), ITEMS_AT_ONCE):
            indexes = range(first, min(first + ITEMS_AT_ONCE, int(count)))
            parts += self._client.hmget(self._keys.results(run_id, node), list(map(str, indexes)))
        # Nothing at all is there: either every item has failed, then the first one too, or the hash of them is gone.
        if parts and not any(parts) and not self._client.hexists(self._keys.failures(run_id), f"{node}[0]"):
            raise MissingOutputError(f"the outputs of the items of {node} are gone", run_id=run_id, node_name=node)
        return b"[" + b",".join(b"null" if part is None else part for part in parts) + b"]"

    def _all_pages(self, run_id: str, value: str) -> bytes:
        node, count, total, cursor = value.split("|", 3)
        parts: list[bytes] = []
        for first in range(0, int(count), PAGES_AT_ONCE):
            numbers = range(first, min(first + PAGES_AT_ONCE, int(count)))
            lists: list[bytes] = self._client.hmget(self._keys.results(run_id, node), list(map(str, numbers)))
            parts += [items[1:-1] for items in lists if items != b"[]"]
        told = f'"final_cursor":{cursor},"page_count":{count},"total_items":{total}'
        return b'{"items":[' + b",".join(parts) + b"]," + told.encode() + b"}"

    def done(self, run_id: str, node: str) -> int:
        """Return how many pages or iterations of a node are stored."""
        return int(self._client.hget(self._keys.results(run_id, node), ":page") or 0)

    def last_iteration(self, run_id: str, node: str) -> bytes | None:
        """Return JSON of the last stored output of a node that repeats, None before its first."""
        number = str(self.done(run_id, node) - 1)
        stored: bytes | None = self._client.hget(self._keys.results(run_id, node), number)
        return stored
