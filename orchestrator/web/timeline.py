"""Timeline of a run: what each node did when, on a scale on which hours of waiting take no more room than they deserve.

History and node records become segments: queued, running, waiting for a retry or a limit. Stretches in which nothing
ran are drawn short, with their length written above them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

from orchestrator.definition.plan import node_of
from orchestrator.web.graph import text_width
from orchestrator.web.marks import TONES, items_text, mark_of, words_of
from orchestrator.web.marks import WAITS as WAITED_FOR
from orchestrator.web.texts import lasted, visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orchestrator import Event, NodeRow, RunView

GATES = ("approval", "signal", "sleep")
"""Kinds of nodes that wait from the instant at which they are ready, and are in no queue."""
MOST_LANES = 30
GAP_WIDTH = 7.0
"""Per cent of the width that a stretch without anything running takes."""
SHORTEST_GAP = timedelta(seconds=2)
WIDE_LANE, NARROW_LANE = 480.0, 200.0
"""Pixels of a lane's width, of a narrow one and of others, at the least."""
GAP_SIZE = 13.5
"""Size by which the length of a stretch is measured: its dots are wider than letters, and two need room between."""
LAST_GAP = 90.0
"""Per cent from which on the length of a stretch is written at the end of the lane."""
WAITS = {
    "retrying": "waits for the next attempt",
    "waiting": "in line for",
    "throttled": "told to come back later",
    "waits": "waits",
    "paused": "stands until the run is resumed",
    "undoing": "the run that it started is being undone",
}
ENDS = {"succeeded": "ok", "failed": "bad", "unknown": "bad", "skipped": "skip"}
PARTS = ("iteration", "page")
"""Events by which an attempt ends whose node goes on with another part."""
UNDONE = {"undone": "undone", "undo-failed": "bad"}
"""How undoing the run of a node ended."""
LOST = {"lost": "was lost with its worker", "timed-out": "took longer than its timeout"}


@dataclass(frozen=True)
class Segment:
    """A stretch of time of one node.

    Attributes:
        kind: "queue", "run" or "wait".
        tone: Of one that ran: how it ended.
        begin: When it began.
        end: When it ended.
        title: Words for it.
        attempt: The attempt; 0 before the first.
    """

    kind: str
    tone: str
    begin: datetime
    end: datetime
    title: str
    attempt: int = 0


@dataclass
class Lane:
    """The segments of one node, and its state in words."""

    node: str
    tone: str
    text: str
    undoes: str = ""
    segments: list[Segment] = field(default_factory=list)


@dataclass(frozen=True)
class Piece:
    """A stretch of the scale: instants to per cent of the width."""

    begin: datetime
    end: datetime
    left: float
    right: float
    is_gap: bool

    def place(self, at: datetime) -> float:
        """Return where an instant of it is."""
        length = (self.end - self.begin).total_seconds() or 1e-9
        return self.left + (self.right - self.left) * (at - self.begin).total_seconds() / length


@dataclass(frozen=True)
class Timeline:
    """Lanes with their scale.

    Attributes:
        lanes: In the order of the flow.
        pieces: The scale.
        ticks: Per cent and time since the start.
        left_out: How many nodes are not drawn.
        to_come: How many nodes have not begun.
    """

    lanes: list[Lane]
    pieces: list[Piece]
    ticks: list[tuple[float, str]]
    left_out: int
    to_come: int


def read_timeline(view: RunView, history: Sequence[Event], now: datetime) -> Timeline:
    """Return the timeline of a run.

    Args:
        view: The run with its nodes.
        history: Its events; older ones may be missing.
        now: Redis's clock, at which open segments end.
    """
    end = view.run.finished or now
    attempts: dict[str, list[Event]] = {}
    for event in history:
        if event.node:
            attempts.setdefault(event.node, []).append(event)
    shown, to_come = [], 0
    is_over = view.run.finished is not None
    for row in _ordered(view):
        if row.state == "pending" and row.started is None:
            to_come += 0 if is_over or row.kind in ("branch", "expand", "compensation") else 1
            continue
        if row.kind == "branch" and row.state == "succeeded":
            continue  # it takes no time, and the graph shows what it chose
        lane = Lane(row.name, TONES.get(row.state, "none"), words_of(row), row.undoes or "")
        if row.items is not None and row.items.count:
            _map_segments(lane, row, view, now if not is_over else end)
        else:
            lane.segments = read_segments(row, attempts.get(row.name, []), end)
        shown.append(lane)
    lanes = _fewer(shown)
    pieces = _scale(view.run.created, end, [each for lane in lanes for each in lane.segments])
    ticks = [(at, _since(pieces, at, view.run.created)) for at in (0.0, 25.0, 50.0, 75.0, 100.0)]
    if not is_over:
        ticks[-1] = (100.0, "now")
    return Timeline(lanes, pieces, ticks, len(shown) - len(lanes), to_come)


def read_segments(row: NodeRow, events: Iterable[Event], end: datetime) -> list[Segment]:
    """Return the segments of one node: from its events, or where they are missing from its record."""
    reader = _Segments(row)
    for event in events:
        reader.take(event)
    return reader.finish(end)


class _Segments:
    """The segments of one node as its events are read, the last one open."""

    def __init__(self, row: NodeRow) -> None:
        self.row = row
        self.done: list[Segment] = []
        self.open: Segment | None = None
        self.part_at: datetime | None = None
        if row.since is not None and row.kind not in GATES:
            begins_later = row.state == "parked" and not (row.attempt or row.limit or row.pages)
            kind, title = ("wait", "begins later") if begins_later else ("queue", "queued")
            self.begin(kind, row.first or row.since, title)

    def begin(self, kind: str, at: datetime, title: str, attempt: int = 0) -> None:
        self.open = Segment(kind, "run" if kind == "run" else "", at, at, title, attempt)

    @property
    def is_running(self) -> bool:
        return self.open is not None and self.open.kind == "run"

    def close(self, at: datetime, tone: str = "", title: str = "") -> None:
        if self.open is not None:
            ended = max(self.open.begin, at)
            self.done.append(replace(self.open, end=ended, tone=tone or self.open.tone, title=title or self.open.title))
        self.open = None

    def take(self, event: Event) -> None:
        number = f"attempt {event.attempt}"
        if event.event == "started":
            self.leave_part()
            if self.open is not None and self.open.begin > event.at:
                self.open = None  # what is known of its queue is that of a later attempt
            self.close(event.at)
            self.begin("run", event.at, number, event.attempt)
        elif event.event in ENDS:
            self.close(event.at, ENDS[event.event], f"{number} {event.event}" if event.attempt else event.event)
        elif event.event in PARTS and self.is_running:
            self.part_at = event.at  # the attempt may go on with the next part, or another one begins later
        elif event.event in UNDONE:
            self.close(event.at, UNDONE[event.event], WAITS["undoing"])
        elif event.event in WAITS or event.event in LOST:
            # Of an attempt that was lost, its end is told before.
            is_bad = event.event in {"retrying", *LOST} or (event.event == "paused" and self.is_running)
            self.close(
                event.at, "bad" if is_bad else "", f"{number} {LOST.get(event.event, 'failed')}" if is_bad else ""
            )
            title = WAITS.get(event.event, WAITS["retrying"])
            if event.event == "waits":
                title = WAITED_FOR.get(event.detail, f"waits for {event.detail}")
            self.begin(
                "wait", event.at, f"{title} {event.detail}" if event.event == "waiting" else title, event.attempt
            )

    def leave_part(self) -> None:
        """End an attempt with the last part that it stored."""
        if self.part_at is not None and self.is_running:
            at = self.part_at
            self.close(at, "ok")
            self.begin("queue", at, "until the next part begins")
        self.part_at = None

    def finish(self, end: datetime) -> list[Segment]:
        row = self.row
        if row.state in ("parked", "ready"):
            self.leave_part()
        is_unseen = not any(each.kind == "run" for each in self.done) and (not self.open or self.open.kind == "queue")
        if is_unseen and row.started is not None:
            self.close(row.started)
            self.begin("run", row.started, f"attempt {row.attempt}", row.attempt)
        if row.state not in ("pending", "skipped"):
            self.close(row.ended or end, TONES.get(row.state, "run") if self.is_running else "")
        return self.done


def _map_segments(lane: Lane, row: NodeRow, view: RunView, end: datetime) -> None:
    """Fill the lane of a map, which is one segment from its first item to its last."""
    lane.text, lane.tone = items_text(row), mark_of(row).tone
    items = row.items
    begins = [each.since for each in view.nodes if each.since and node_of(each.name) == row.name]
    follows = [each.since for each in view.nodes if each.since and each.step > row.step and each.kind == "node"]
    if view.plan is not None:
        source = view.plan.steps[row.step].source
        begins += [each.ended for each in view.nodes if each.ended and each.name == source]
    if items is None or not begins:
        return
    is_done = items.done + items.failed >= items.count
    over = row.ended or min(follows, default=None)
    tone = "ok" if is_done else "run"
    lane.segments = [Segment("run", tone, min(begins), over if over and is_done else end, lane.text, 1)]


def _ordered(view: RunView) -> list[NodeRow]:
    """Return nodes in the order of the flow, each compensation under its node, items left to their map."""
    undo = {row.undoes: row for row in view.nodes if row.kind == "compensation" and row.undoes}
    ordered = []
    for row in view.nodes:
        if row.kind in ("compensation", "expand") or row.name != node_of(row.name):
            continue
        ordered.append(row)
        if row.name in undo:
            ordered.append(undo[row.name])
    return ordered


def _fewer(lanes: list[Lane]) -> list[Lane]:
    """Return the lanes to draw: all, or those that are not done with the newest of the others."""
    if len(lanes) <= MOST_LANES:
        return lanes
    calm = [number for number, lane in enumerate(lanes) if lane.tone in ("ok", "skip")]
    dropped = set(calm[: len(lanes) - MOST_LANES])
    return [lane for number, lane in enumerate(lanes) if number not in dropped][:MOST_LANES]


def _scale(begin: datetime, end: datetime, segments: list[Segment]) -> list[Piece]:
    """Return the scale: stretches in which something ran or stood in a queue by their length, the others short."""
    end = max(end, begin + timedelta(milliseconds=1))
    busy = sorted((each.begin, min(each.end, end)) for each in segments if each.kind != "wait")
    merged: list[list[datetime]] = [[begin, begin]]
    for first, last in busy:
        if first <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], last)
        else:
            merged.append([first, last])
    merged.append([end, end])
    total = sum((last - first).total_seconds() for first, last in merged)
    longest = max(SHORTEST_GAP.total_seconds(), 0.2 * total)
    marks: list[tuple[datetime, datetime, bool]] = []
    for (first, last), (following, _) in pairwise(merged):
        marks.append((first, last, False))
        marks.append((last, following, (following - last).total_seconds() > longest))
    marks = [(first, last, is_gap) for first, last, is_gap in marks if last > first]
    gaps = sum(1 for *_, is_gap in marks if is_gap)
    width = min(GAP_WIDTH, 60.0 / gaps) if gaps else 0.0
    run_time = sum((last - first).total_seconds() for first, last, is_gap in marks if not is_gap)
    if run_time == 0 and gaps:
        width = 100.0 / gaps
    pieces: list[Piece] = []
    at = 0.0
    for first, last, is_gap in marks:
        share = width if is_gap else (100.0 - width * gaps) * (last - first).total_seconds() / run_time
        pieces.append(Piece(first, last, at, at + share, is_gap))
        at += share
    return pieces


def place(pieces: Sequence[Piece], at: datetime) -> float:
    """Return where an instant is on the scale, in per cent."""
    for piece in pieces:
        if at <= piece.end:
            return min(100.0, max(0.0, piece.place(at)))
    return 100.0


def _since(pieces: Sequence[Piece], percent: float, begin: datetime) -> str:
    for piece in pieces:
        if percent <= piece.right or piece is pieces[-1]:
            width = (piece.right - piece.left) or 1e-9
            at = piece.begin + (piece.end - piece.begin) * min(1.0, (percent - piece.left) / width)
            return lasted(at - begin) if percent else "0"
    return ""


def draw_lane(lane: Lane, pieces: Sequence[Piece]) -> str:
    """Return the bar of a lane as SVG, with places in per cent, so that it fits every width."""
    parts = []
    for each in lane.segments:
        left, right = place(pieces, each.begin), place(pieces, each.end)
        said = escape(f"{visible(each.title)}, {lasted(each.end - each.begin)}")
        y, high = {"queue": (8, 3), "wait": (4, 11), "run": (4, 11)}[each.kind]
        width = max(0.35, right - left)
        fill = ' fill="url(#fl-hatch)"' if each.kind == "wait" else ""
        parts.append(
            f'<rect class="seg {each.kind} s-{each.tone or "none"}" x="{min(left, 99.65):.2f}%" y="{y}" '
            f'width="{width:.2f}%" height="{high}" rx="2"{fill}><title>{said}</title></rect>'
        )
    return f'<svg class="fl-lane" width="100%" height="19" aria-hidden="true">{"".join(parts)}</svg>'


def draw_gaps(pieces: Sequence[Piece]) -> list[tuple[float, str, bool]]:
    """Return where the length of a short-drawn stretch is written, in per cent, and whether a narrow lane lacks room.

    One that would be written over the one before, even in a wide lane, is left out.
    """
    found: list[tuple[float, str, bool]] = []
    wide_edge = narrow_edge = -100.0  # per cent at which the last one ends
    for piece in pieces:
        at, label = (piece.left + piece.right) / 2, f"⋯ {lasted(piece.end - piece.begin)} ⋯"
        left, right = _extent(at, label, WIDE_LANE)
        if not piece.is_gap or left < wide_edge:
            continue
        wide_edge = right
        left, right = _extent(at, label, NARROW_LANE)
        is_near = left < narrow_edge
        narrow_edge = narrow_edge if is_near else right
        found.append((at, label, is_near))
    return found


def _extent(at: float, label: str, lane: float) -> tuple[float, float]:
    """Return where a label begins and ends, in per cent of a lane of so many pixels."""
    width = 100 * text_width(label, GAP_SIZE) / lane
    return (at - width / 2, at + width / 2) if at < LAST_GAP else (100 - width, 100.0)
