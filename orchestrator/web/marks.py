"""Marks of nodes: the stored state of every node of a run as a tone and a few words, for graph, timeline and panel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.web.shapes import Mark
from orchestrator.web.texts import counted, lasted, short_type, visible

if TYPE_CHECKING:
    from orchestrator import NodeRow, RunView

TONES = {
    "pending": "none",
    "ready": "queue",
    "running": "run",
    "parked": "wait",
    "waiting": "wait",
    "paused": "wait",
    "succeeded": "ok",
    "failed": "bad",
    "unknown": "bad",
    "skipped": "skip",
    "compensating": "undone",
    "compensated": "undone",
    "compensation_failed": "bad",
    "unreadable": "bad",
}
RUN_TONES = {
    "pending": "queue",
    "running": "run",
    "paused": "wait",
    "compensating": "undone",
    "succeeded": "ok",
    "failed": "bad",
    "cancelled": "skip",
    "compensation_failed": "bad",
}
WORDS = {
    "ready": "queued",
    "parked": "waiting",
    "paused": "stands until resumed",
    "unknown": "outcome unknown",
    "compensating": "being undone",
    "compensated": "undone",
    "compensation_failed": "undo failed",
    "pending": "to come",
    "unreadable": "record unreadable",
}

WAITS = {
    "approval": "waits for an approval",
    "signal": "waits for a signal",
    "callback": "waits for its callback",
    "sleep": "sleeps",
}
"""What a node that waits for something outside waits for."""


def marks_of(view: RunView) -> dict[str, Mark]:
    """Return the mark of every node of a run that was ever ready, by name; items of maps are not among them."""
    return {row.name: mark_of(row) for row in view.nodes if "[" not in row.name}


def mark_of(row: NodeRow) -> Mark:
    """Return the mark of one node."""
    tone = TONES.get(row.state, "none")
    if row.items is not None and row.items.count:
        return _map_mark(row)
    return Mark(tone, words_of(row), choice=row.choice if row.kind == "branch" else None)


def words_of(row: NodeRow) -> str:
    """Return the state of a node in a few words: how long it took, what it waits for, how it failed."""
    word = WORDS.get(row.state, row.state)
    again = f" · attempt {row.attempt}" if row.attempt > 1 else ""
    if row.state == "pending":
        return ""
    if row.is_inherited:
        return "taken over"
    if row.state == "parked":
        return f"in line for {row.limit.removeprefix('@')}" if row.limit else _next_attempt(row)
    if row.state == "waiting":
        return WAITS.get(row.waits or "", word)
    if row.state == "succeeded" and row.ended and row.started:
        word = lasted(row.ended - row.started)
    elif row.state == "running" and row.detail:
        word = visible(row.detail[:40])
    elif row.failure is not None and row.state in ("failed", "unknown", "compensation_failed"):
        return f"{word}: {short_type(row.failure.type)}"
    return word + again


def _next_attempt(row: NodeRow) -> str:
    if not row.attempt:
        return "waits for its next iteration" if row.pages else "begins later"
    return f"waits for attempt {row.attempt + 1} of {row.attempts}"


def _map_mark(row: NodeRow) -> Mark:
    items = row.items
    assert items is not None  # noqa: S101 - the caller has looked
    ended = items.done + items.failed
    left = max(0, items.count - ended - items.running)
    is_undone = row.state in ("compensating", "compensated")
    counts = {"undone" if is_undone else "ok": items.done, "bad": items.failed, "run": items.running, "none": left}
    tone = TONES.get(row.state, "run")
    if row.state == "failed" and ended >= items.count:
        tone = "ok"  # the flow goes on without the items that failed; what it cannot go on without is told as its error
    return Mark(tone, items_text(row), {tone: count for tone, count in counts.items() if count})


def items_text(row: NodeRow) -> str:
    """Return how many items of a map have ended, and failed."""
    items = row.items
    if items is None:
        return ""
    ended = items.done + items.failed
    said = counted(items.count, "item") if ended >= items.count else f"{ended:,} of {counted(items.count, 'item')}"
    return said + (f" · {items.failed:,} failed" if items.failed else "")
