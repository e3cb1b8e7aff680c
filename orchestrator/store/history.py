"""History of a run as it is stored: a list of short texts, each an instant and what happened then.

A text is `<ms>|<event>|<attempt>|<node>|<detail>`. The event `>` stands for all that one commit did: the nodes that
succeeded, with blanks between them, and as its detail those that began. Version 0.1.0 kept a stream, which is read too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

COMMIT = ">"
FAILED = frozenset({"retrying", "throttled", "lost", "timed-out", "failed"})
"""Ends of an attempt whose detail is the ms to the next one or what follows, its holder and error, between bars."""


@dataclass(frozen=True)
class Entry:
    """One event: its instant in ms on Redis's clock, what, of which node and attempt, and what else is known.

    Of an attempt that failed: the process that ran it, and its error, cut.
    """

    at_ms: int
    event: str
    node: str
    attempt: int
    detail: str
    holder: str = ""
    error: str = ""

    @property
    def at(self) -> datetime:
        """The instant; aware."""
        return datetime.fromtimestamp(self.at_ms / 1000, UTC)


@dataclass(frozen=True)
class Event:
    """One entry of a run's history.

    Attributes:
        at: When, on Redis's clock; aware.
        event: What: "run-started", "started", "page", "iteration", "succeeded", "retrying", "waiting", "lost", ...
        node: The node, or "" for the run itself.
        attempt: Number of the attempt; 0 when there is none.
        detail: What else is known, such as the delay in ms or the limiter waited for.
        holder: Of an attempt that failed: the process that ran it.
        error: Of an attempt that failed: type and message of its error, at most 130 bytes of them.
    """

    at: datetime
    event: str
    node: str
    attempt: int
    detail: str
    holder: str = ""
    error: str = ""


def read_entries(texts: Iterable[bytes], older: Iterable[tuple[bytes, Mapping[bytes, bytes]]] = ()) -> list[Entry]:
    """Return the events of a list, and of a stream that an older version wrote, oldest first."""
    found = [entry for each, row in older for entry in _of_stream(each, row)]
    found += [entry for text in texts for entry in _of_text(text)]
    # Scripts append in the order in which they run, so a list alone is in order, also within a millisecond.
    return sorted(found, key=lambda entry: entry.at_ms) if older else found


def _of_text(text: bytes) -> Iterator[Entry]:
    at, event, attempt, node, detail = text.decode("utf-8", "replace").split("|", 4)
    if event != COMMIT:
        holder = error = ""
        # A run is paused for a reason; of a node it is the end of its last attempt.
        if (event in FAILED or (event == "paused" and node)) and detail.count(
            "|"
        ) > 1:  # version 0.1.0 kept no more than the delay
            detail, holder, error = detail.split("|", 2)
        yield Entry(int(at), event, node, int(attempt), detail, holder, error)
        return
    for done, names in (("succeeded", node), ("started", detail)):
        for name in names.split():
            yield Entry(int(at), done, name, int(attempt), "")


def _of_stream(entry: bytes, row: Mapping[bytes, bytes]) -> Iterator[Entry]:
    at, fields = int(entry.split(b"-")[0]), {name.decode(): value.decode() for name, value in row.items()}
    if "event" in fields:
        yield Entry(at, fields["event"], fields["node"], int(fields["attempt"]), fields.get("detail", ""))
        return
    for event in ("succeeded", "started"):
        names: list[Any] = json.loads(fields[event])
        for name in names:
            yield Entry(at, event, name, 1, "")
