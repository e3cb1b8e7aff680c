"""A stream of events that scripts append to, and the place up to which they were sent."""

from __future__ import annotations

from typing import Any

NO_ENTRY = b"0"
"""The place before the first entry."""


class EventStream:
    """Events in the order of their appends; the leading reconciler sends them on.

    Args:
        client: The client of the store.
        key: The stream.
        places: The hash that says how far streams were sent.
        field: The field of this one.
    """

    def __init__(self, client: Any, key: str, places: str, field: str) -> None:
        self._client = client
        self._key = key
        self._places = places
        self._field = field

    def unsent(self, *, count: int) -> list[tuple[float, dict[str, str]]]:
        """Events that were not sent yet: the instant in seconds, and the fields with the id of the entry."""
        last = self._sent()
        begin = "-" if last == NO_ENTRY else b"(" + last
        found = []
        for entry, fields in self._client.xrange(self._key, min=begin, count=count):
            row = {name.decode(): value.decode() for name, value in fields.items()} | {"entry": entry.decode()}
            found.append((int(entry.split(b"-")[0]) / 1000, row))
        return found

    def mark_sent(self, entry: str) -> None:
        """Note the last event that was sent."""
        self._client.hset(self._places, self._field, entry)

    def skip(self) -> None:
        """Take every event as sent."""
        newest = self._client.xrevrange(self._key, count=1)
        if newest and newest[0][0] != self._sent():
            self.mark_sent(newest[0][0].decode())

    def _sent(self) -> bytes:
        return self._client.hget(self._places, self._field) or NO_ENTRY
