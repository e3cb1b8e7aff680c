"""Text views of a run: its events, its table and its timeline, as lines for the caller to print.

The timeline is made of the run's history alone, so that it shows what the engine recorded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from orchestrator import Event
from workers.flows.packages import MIB, Report, Row

MAX_ROWS = 25
BAR_WIDTH = 32
RUNNING, FOR_TOKEN, FOR_RETRY = "#", ".", "~"  # ASCII works on every terminal

# The mark that begins with each event; None ends a node.
MARKS: dict[str, str | None] = {
    "started": RUNNING,
    "waiting": FOR_TOKEN,
    **dict.fromkeys(("retrying", "lost", "timed-out"), FOR_RETRY),
    **dict.fromkeys(("succeeded", "failed", "unknown", "skipped")),
}

COLUMNS = "{:<24} {:<13} {:>6} {:>7} {:>7} {:>5}  {:<20} {}"


def describe_event(event: Event, began: datetime) -> str:
    """Return an event as one line: time since the run's start, node, event and details."""
    details = {"waiting": f"for a token of {event.detail}", "retrying": f"in {event.detail} ms"}
    attempt = f"(attempt {event.attempt})" if event.attempt > 1 else ""
    words = filter(None, (event.event, attempt, details.get(event.event, event.detail)))
    return f"{(event.at - began).total_seconds():7.2f} s  {event.node or 'the run':<16}  {' '.join(words)}"


def draw_table(report: Report) -> list[str]:
    """Return a table of at most 25 rows, with a line for those left out."""
    shown, left_out = report.rows[:MAX_ROWS], report.rows[MAX_ROWS:]
    lines = [COLUMNS.format("package", "version", "files", "MiB", "imp. ms", "needs", "licence", "findings")]
    lines += [_row_line(row) for row in shown]
    total = [f"{sum(row.files for row in report.rows)}", f"{sum(row.bytes for row in report.rows) / MIB:.1f}"]
    imports = f"{sum(row.import_ms or 0 for row in report.rows):.0f}"
    lines.append(COLUMNS.format(f"all {len(report.rows)} of the sample", "", *total, imports, "", "", "").rstrip())
    if left_out:
        lines.append(f"({len(left_out)} more of the sample are in the database)")
    others = report.installed - len(report.rows)
    if others:
        lines.append(f"({others} more are installed; they are smaller and were not looked at)")
    return lines


def _row_line(row: Row) -> str:
    imported = "-" if row.import_ms is None else f"{row.import_ms:.1f}"
    name, version, licence = _cut(row.name, 24), _cut(row.version, 13), _cut(row.licence or "-", 20)
    cells = (name, version, row.files, f"{row.bytes / MIB:.1f}", imported, len(row.requires), licence)
    return COLUMNS.format(*cells, ", ".join(row.findings)).rstrip()


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 2]}.."


@dataclass
class Span:
    """A period of a node: running, or waiting for a token or a retry."""

    mark: str
    began: datetime
    ended: datetime


@dataclass
class Lane:
    """The periods of one node, in order."""

    node: str
    attempts: int = 0
    spans: list[Span] = field(default_factory=list)
    open: tuple[str, datetime] | None = None

    def switch(self, mark: str | None, at: datetime) -> None:
        """End the open span, if there is one, and begin the next, if there is one."""
        if self.open is not None and self.open[0] == mark:
            return
        if self.open is not None:
            self.spans.append(Span(*self.open, at))
        self.open = None if mark is None else (mark, at)

    def seconds(self, mark: str) -> float:
        """Return the total seconds of its spans with this mark."""
        return sum((span.ended - span.began).total_seconds() for span in self.spans if span.mark == mark)


def read_lanes(events: Sequence[Event]) -> list[Lane]:
    """Return the lane of each node, in order of their first event."""
    lanes: dict[str, Lane] = {}
    for event in events:
        if event.node and event.event in MARKS:
            lane = lanes.setdefault(event.node, Lane(event.node))
            lane.attempts = max(lane.attempts, event.attempt)
            lane.switch(MARKS[event.event], event.at)
    for lane in lanes.values():
        lane.switch(None, events[-1].at)
    return list(lanes.values())


def draw_timeline(events: Sequence[Event]) -> Iterator[str]:
    """Yield a line for each node of a run: start, time running, a bar on the run's own scale, attempts and waits."""
    began, length = events[0].at, max((events[-1].at - events[0].at).total_seconds(), 0.001)
    yield f"{'node':<16}  {'start':>6}  {'ran':>6}  |{f' {length:.1f} s ':-^{BAR_WIDTH}}|"
    for lane in read_lanes(events):
        if not lane.spans:
            continue
        cells = [" "] * BAR_WIDTH
        for span in lane.spans:
            first, last = (int((at - began).total_seconds() / length * BAR_WIDTH) for at in (span.began, span.ended))
            first = min(first, BAR_WIDTH - 1)  # a span of no length is drawn too
            cells[first : max(last, first + 1)] = span.mark * (max(last, first + 1) - first)
        start = (lane.spans[0].began - began).total_seconds()
        yield f"{lane.node:<16}  {start:5.2f}s  {lane.seconds(RUNNING):5.2f}s  |{''.join(cells)}|  {_story(lane)}"
    yield f"{RUNNING} running   {FOR_TOKEN} waiting for a token of the rate limit   {FOR_RETRY} waiting for a retry"


def _story(lane: Lane) -> str:
    waits = {"a token": lane.seconds(FOR_TOKEN), "a retry": lane.seconds(FOR_RETRY)}
    attempts = "1 attempt" if lane.attempts == 1 else f"{lane.attempts} attempts"
    return ", ".join([attempts, *(f"{seconds:.2f} s for {what}" for what, seconds in waits.items() if seconds)])
