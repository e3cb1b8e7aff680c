"""Reason of a run's state: why it waits, or why it failed, as the first thing that a reader sees."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from orchestrator.definition.plan import node_of
from orchestrator.definition.state import RunStatus
from orchestrator.web.texts import error_text, listed, short_type, visible

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator import NodeRow, RunView, Waiting
    from orchestrator.store.run_view import MapCounts

DOTTED = re.compile(r"\b(?:[a-z_]\w*\.)+([A-Z]\w*)")
"""A class with its module, of which the class is enough."""
HELD = re.compile(r"was paused at (.+?) UTC and waits for resume\(\)(?:: (.*))?", re.DOTALL)
SINCE = re.compile(r" since [\d: -]{19} UTC$")
"""Pages write instants in the reader's zone."""
RUN = re.compile(r"\brun ([0-9a-f]{8})-[0-9a-f-]{27}\b")
"""A run, of whose id a page shows the beginning."""
NAMED = re.compile(r"^its (run|plan) \S+ is set aside: ")
ASIDE = (
    "Other runs go on without it. It is tried again every minute, and goes on once the cause is gone. "
    "If that will not come, cancel it: what is left of it is ended, and its error says what was lost."
)
ORDER = ("parked", "ready", "waiting", "paused", "compensating", "running")
"""Which open node is told first: one that waits before one that runs."""


@dataclass(frozen=True)
class Reason:
    """Why a run stands where it stands.

    Attributes:
        tone: "wait", "run" or "bad".
        node: The node that it is about; empty for the run itself.
        head: What is the case.
        text: Why.
        until: The instant that is waited for, if it is known.
        since: Since when it is so, where that is of use.
        rest: What else there is to know.
        traceback: Of an error.
    """

    tone: str
    node: str
    head: str
    text: str
    until: datetime | None = None
    rest: str = ""
    traceback: str = ""
    since: datetime | None = None


def reason_of(view: RunView, waiting: Sequence[Waiting], names: Mapping[str, str]) -> Reason | None:
    """Return the reason of a run's state; None for one that succeeded.

    Args:
        view: The run.
        waiting: What `explain` says of it.
        names: Names of the workers by the id that holders begin with.
    """
    run = view.run
    if run.status is RunStatus.SUCCEEDED:
        return None
    if run.error is not None:
        return _error_of(view)
    if run.status.is_final:
        return Reason("bad", "", f"The run {run.status}", "")
    broken = next((each for each in waiting if each.state == "broken"), None)
    if broken is not None:
        text = NAMED.sub(r"its \1: ", broken.reason).removeprefix("its run: ")
        return Reason("bad", "", "This run is set aside", visible(text), None, ASIDE)
    return _why_open(view, waiting, names)


def _why_open(view: RunView, waiting: Sequence[Waiting], names: Mapping[str, str]) -> Reason:
    begun = {row.name for row in view.nodes if row.items and row.items.count <= _begun(row.items)}
    open_ones = [each for each in waiting if each.state in ORDER and each.node not in begun]
    open_ones.sort(key=lambda each: (each.node != "", ORDER.index(each.state), "[" in each.node))
    if not open_ones:
        return Reason("wait", "", "Nothing of this run is in progress", "the next step is about to be ready.")
    first = open_ones[0]
    if not first.node and (held := HELD.fullmatch(first.reason)):
        said = "nothing of it starts until somebody resumes it" + (f": {held[2]}" if held[2] else "")
        held_at = datetime.fromisoformat(held[1]).replace(tzinfo=UTC)
        return Reason("wait", "", "This run is paused", visible(said), None, _meanwhile(open_ones[1:]), since=held_at)
    text = error_text(RUN.sub(r"run \1", DOTTED.sub(r"\1", first.reason)))
    for holder, name in names.items():
        text = text.replace(holder, name)
    text = text.replace("waits for resume()", "stands until the run is resumed")
    since = None
    if first.state == "waiting" and SINCE.search(text):
        since = next((row.since for row in view.nodes if row.name == first.node), None)
        text = SINCE.sub("", text).rstrip(",").replace(f"approval {first.node} ", "approval ")
    tone = "run" if first.state == "running" else "wait"
    if tone == "wait" and first.until is not None:
        text = text.removeprefix("waits ") if text.startswith("waits ") else f"it {text}"
    return Reason(
        tone, first.node, first.node, text, first.until, _rest(view, first, open_ones[1:], waiting), since=since
    )


def _begun(items: MapCounts) -> int:
    return items.done + items.failed + items.running


def _meanwhile(others: Sequence[Waiting]) -> str:
    running = [each.node for each in others if each.state == "running"]
    return f"Meanwhile {listed(running)} {'run' if len(running) > 1 else 'runs'} to the end." if running else ""


def _rest(view: RunView, first: Waiting, others: Sequence[Waiting], waiting: Sequence[Waiting]) -> str:
    parts = []
    running = [each.node for each in others if each.state == "running" and node_of(each.node) != node_of(first.node)]
    stuck = [each.node for each in others if each.state != "running" and node_of(each.node) != node_of(first.node)]
    if stuck:
        parts.append(f"{listed(stuck)} {'wait' if len(stuck) > 1 else 'waits'} too")
    if running:
        parts.append(f"{listed(running)} {'run' if len(running) > 1 else 'runs'}")
    said = [f"So far {told}."] if (told := _items_of(view, first)) else []
    said += [f"Meanwhile {'; '.join(parts)}."] if parts else []
    if follower := _follower(view, first, waiting):
        said.append(f"Then follows {follower}.")
    return " ".join(said)


def _items_of(view: RunView, first: Waiting) -> str:
    """How many items of a map have ended, where what is told first is one of them."""
    items = next((row.items for row in view.nodes if row.name == node_of(first.node) != first.node), None)
    if items is None or not items.count:
        return ""
    failed = f", {items.failed:,} of them failed" if items.failed else ""
    return f"{items.done + items.failed:,} of {items.count:,} items have ended{failed}"


def _follower(view: RunView, first: Waiting, waiting: Sequence[Waiting]) -> str:
    name = node_of(first.node)
    if view.plan is not None and name in view.plan.nodes:
        following = view.plan.steps[view.plan.nodes[name].step].next
        return view.plan.steps[following].name if following >= 0 else ""
    return next((each.node for each in waiting if each.state == "pending"), "")


def _is_child(row: NodeRow) -> bool:
    return bool(row.child and not row.undoes)


def _error_of(view: RunView) -> Reason:
    run, error = view.run, view.run.error
    assert error is not None  # noqa: S101 - the caller has looked
    undone = [row.name for row in view.nodes if row.kind == "compensation" and row.state == "succeeded"]
    undone += [
        f"the rollback of {row.name}'s run" for row in view.nodes if _is_child(row) and row.state == "compensated"
    ]
    broken = [row.name for row in view.nodes if row.kind == "compensation" and row.state in ("failed", "unknown")]
    broken += [row.name for row in view.nodes if _is_child(row) and row.state == "compensation_failed"]
    parts = []
    if broken:
        parts.append(f"Undoing failed too: {listed(broken)}. Resume repeats what failed of it.")
    elif run.status is RunStatus.COMPENSATING:
        parts.append("What had succeeded is being undone.")
    elif undone:
        parts.append(f"What had succeeded was undone by {listed(undone, 5)}.")
    if run.status is RunStatus.CANCELLED:
        return Reason("bad", "", "Cancelled", error_text(error.message), rest=" ".join(parts))
    attempt = f" at attempt {error.attempt}" if error.attempt > 1 else ""
    head = f"{error.node_name} failed{attempt}" if error.node_name else "The run failed"
    text = f"{short_type(error.type)}: {error_text(error.message)}"
    return Reason("bad", error.node_name or "", head, text, None, " ".join(parts), visible(error.traceback))
