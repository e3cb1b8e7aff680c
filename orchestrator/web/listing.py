"""Listing of runs: the filters of the page's address, its runs, and the counts above them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from orchestrator.definition.state import RunStatus
from orchestrator.store.queries import count_runs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator import Orchestrator
    from orchestrator.run_page import RunPage as Runs
    from orchestrator.store.queries import FlowCounts, RunRow

PAGE = 50
GROUPS: dict[str, tuple[str, ...]] = {
    "open": (RunStatus.PENDING, RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.COMPENSATING),
    "succeeded": (RunStatus.SUCCEEDED,),
    "failed": (RunStatus.FAILED,),
    "cancelled": (RunStatus.CANCELLED,),
    "compensation_failed": (RunStatus.COMPENSATION_FAILED,),
}
"""What the page filters by: runs that have not ended are one group."""
SPANS = ("15m", "1h", "24h", "7d")
"""How long ago, as the page offers it."""
SPAN = re.compile(r"(\d{1,6})([smhdw])")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
FIELDS = ("flow", "status", "since", "until", "tag", "parent", "children", "text", "cursor")


class BadFilterError(ValueError):
    """A filter that cannot be understood; the text says which and what would be."""


@dataclass(frozen=True)
class Filters:
    """The filters of a listing, as text of the address.

    Attributes:
        flow, status, parent, text, cursor: As for `Orchestrator.runs`; the status may be "open".
        since, until: How long ago, such as "15m" or "7d", or an instant.
        tag: "name=value"; several with commas between them.
        children: "1" lists also runs that nodes of others have started.
    """

    flow: str = ""
    status: str = ""
    since: str = ""
    until: str = ""
    tag: str = ""
    parent: str = ""
    children: str = ""
    text: str = ""
    cursor: str = ""

    def address(self, **changes: str) -> str:
        """Return the query of an address with these filters and some changed; a change begins at the newest run."""
        values = {name: getattr(self, name) for name in FIELDS} | {"cursor": ""} | changes
        return urlencode({name: value for name, value in values.items() if value})

    @property
    def is_counted(self) -> bool:
        """Whether runs that pass are counted: the indexes know flows, statuses and instants, and nothing else."""
        return not (self.tag or self.parent or self.text)

    @property
    def is_any(self) -> bool:
        """Whether anything is filtered by."""
        return any(getattr(self, name) for name in FIELDS if name != "cursor")

    def arguments(self) -> dict[str, Any]:
        """Return the keywords of `Orchestrator.runs`.

        Raises:
            BadFilterError: One cannot be understood.
        """
        if self.status and self.status not in (*GROUPS, *RunStatus):
            raise BadFilterError(f"there is no status {self.status!r}; there are {', '.join([*GROUPS, *RunStatus])}")
        return {
            "flow": self.flow or None,
            "status": (GROUPS.get(self.status) or (self.status,)) if self.status else None,
            "since": read_instant(self.since),
            "until": read_instant(self.until),
            "tag": read_tags(self.tag) or None,
            "parent": self.parent or None,
            "children": bool(self.children),
            "text": self.text or None,
            "cursor": self.cursor or None,
        }


def read_instant(text: str) -> datetime | None:
    """Return an instant of a filter: how long ago, or ISO 8601, in UTC if it names no zone.

    Raises:
        BadFilterError: It is neither.
    """
    if not text:
        return None
    try:
        if ago := SPAN.fullmatch(text):
            return datetime.now(UTC) - timedelta(**{UNITS[ago[2]]: int(ago[1])})
        at = datetime.fromisoformat(text)
    except (ValueError, OverflowError):  # of weeks that go back before any date, too
        known = ", ".join(SPANS)
        raise BadFilterError(f"{text!r} is no instant; use {known}, or one such as 2026-01-31T08:00Z") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def read_tags(text: str) -> dict[str, str]:
    """Return the tags of a filter.

    Raises:
        BadFilterError: One has no "=".
    """
    tags = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals:
            raise BadFilterError(f"a tag is written as name=value, not {part!r}")
        tags[name.strip()] = value.strip()
    return tags


@dataclass(frozen=True)
class Listing:
    """What the page of runs shows."""

    filters: Filters
    runs: Runs
    counts: dict[str, int]
    """By group, of all that pass the filter but for its status; empty where that takes reading them all."""
    by_flow: tuple[FlowCounts, ...]
    aside: frozenset[str]
    version: str
    paused: int
    """How many of the open ones are paused."""

    def is_aside(self, row: RunRow) -> bool:
        """Whether the reconciler has set a run or its plan aside."""
        return row.finished is None and not self.aside.isdisjoint({row.id, row.plan})


def read_listing(orchestrator: Orchestrator, filters: Filters) -> Listing:
    """Return a page of runs, and the counts of what its filter lists.

    Raises:
        BadFilterError: A filter cannot be understood.
        StoreError: Redis.
    """
    try:
        runs = orchestrator.runs(limit=PAGE, **filters.arguments())
    except ValueError as error:
        raise BadFilterError(str(error)) from error
    by_flow, aside = _counts_and_aside(orchestrator, filters)
    wanted = [row for row in by_flow if not filters.flow or row.flow == filters.flow]
    counts = {group: sum(getattr(row, group) for row in wanted) for group in GROUPS}
    paused = sum(row.paused for row in wanted)
    version = _version(runs, counts | {"paused": paused}, aside)
    return Listing(filters, runs, counts if filters.is_counted else {}, by_flow, aside, version, paused)


def _counts_and_aside(orchestrator: Orchestrator, filters: Filters) -> tuple[tuple[FlowCounts, ...], frozenset[str]]:
    """Return the counts of every known flow, and the runs and plans that are set aside, in two round trips."""
    engine = orchestrator._engine  # noqa: SLF001 - a door reads the store directly
    store = engine.store
    with store.guarded():
        pipe = store.client.pipeline(transaction=False)
        pipe.hkeys(store.keys.flows)
        pipe.hkeys(store.keys.aside)
        announced, parts = pipe.execute()
    kinds = (part.decode().partition(" ") for part in parts)
    counts = count_runs(
        store,
        {*(name.decode() for name in announced), *engine.registry.flows},
        children=bool(filters.children),
        since=read_instant(filters.since),
        until=read_instant(filters.until),
    )
    return counts, frozenset(name for kind, _, name in kinds if kind in {"run", "plan"})


def _version(runs: Runs, counts: Mapping[str, int], aside: frozenset[str]) -> str:
    """Return a text that changes when the page would."""
    seen = [(row.id, str(row.status), row.done_steps, row.nodes_running, row.waits_for, row.epoch) for row in runs.rows]
    return str(hash(json.dumps([seen, dict(counts), sorted(aside)])))
