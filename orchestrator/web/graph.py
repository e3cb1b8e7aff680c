"""Drawing of a graph: lays the shapes of a flow or of a run out, and writes them as SVG.

Flows are series-parallel: a line is laid out in rows that fit the given width, a group has its arms below one another,
and each measures what is inside it. No name reaches the picture unescaped, and nothing in it is a script or a style.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, TypeAlias

from orchestrator.web.shapes import Box, Child, Group, Line, Mark, Part, read_shapes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestrator.definition.plan import Plan

WIDTH = 1040
HEIGHT, UNDO_HEIGHT = 46, 19
NARROWEST, WIDEST = 108, 196
GAP, ROW_GAP, ARM_GAP, PADDING, TITLE, LABEL = 32, 26, 12, 26, 20, 38
LEAD = 110
"""Most pixels of the line in front of a box with the parameters that it takes."""
TURN = 11
COLUMN = 480
"""Pixels below which parts stand below one another."""
COLUMN_GAP = 18
MARGIN = 14
BAR, LEAST_PIECE = 5, 2.5
PIXELS = dict.fromkeys("iljtfr.,:;|!'`()[]I ", 4.1) | dict.fromkeys("mwMW@%&", 10.4) | dict.fromkeys("-_", 6.0)
"""Widths of letters at 12.5 px, where they are not 7 px."""
SMALL = 11.2
"""Size by which small text is measured: at its 10.5 px letters stand wider than in proportion."""

LinkOf: TypeAlias = Callable[[Box], str]


def draw_graph(
    plan: Plan,
    marks: Mapping[str, Mark] | None = None,
    *,
    children: Mapping[str, Child] | None = None,
    width: int = WIDTH,
    link: LinkOf | None = None,
    selected: str = "",
    unfold: bool = False,
    standalone: bool = False,
) -> str:
    """Return the graph of a flow, or of a run, as an SVG element.

    Args:
        plan: The plan of the flow, or the one that the run pins.
        marks: State of each node of a run, by name; without it a flow is drawn.
        children: The runs that nodes of the run have started last, by node.
        width: Pixels that a row of boxes should fit in; a single part may be wider.
        link: Returns the address that a box leads to; empty for none.
        selected: Name of the node that is shown beside the graph.
        unfold: Whether to draw up to 150 boxes before a long line folds.
        standalone: Whether the picture is a file of its own, with its colours inside.
    """
    line = read_shapes(plan, marks or {}, children=children, unfold=unfold, is_narrow=width < COLUMN)
    drawing = _lay_line(line, width - 2 * MARGIN)
    pen = _Pen(link, selected)
    drawing.draw(pen, MARGIN, MARGIN)
    wide, high = round(drawing.width + 2 * MARGIN), round(drawing.height + 2 * MARGIN)
    label = f"graph of {plan.flow}" + (", with the state of each node" if marks else "")
    style = f"<style>{_style()}</style>" if standalone else ""
    kind = "fl-graph" if marks else "fl-graph still"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="{kind}" viewBox="0 0 {wide} {high}" width="{wide}" '
        f'height="{high}" role="group" aria-label="{escape(label)}">{style}{"".join(pen.back + pen.front)}</svg>'
    )


def text_width(text: str, size: float = 12.5) -> float:
    """Return about how many pixels a text takes in a sans-serif font."""
    return sum(_letter(letter) for letter in text) * size / 12.5


def cut(text: str, pixels: float, size: float = 12.5) -> str:
    """Return a text that fits a width: one that does not loses its middle, since names often differ at their ends."""
    if text_width(text, size) <= pixels:
        return text
    budget = (pixels - text_width("…", size)) / 2
    head = _fitting(text, budget, size)
    tail = _fitting(text[::-1], budget, size)[::-1]
    return f"{head}…{tail}"


def _fitting(text: str, pixels: float, size: float) -> str:
    used = 0.0
    for number, letter in enumerate(text):
        used += _letter(letter) * size / 12.5
        if used > pixels:
            return text[:number]
    return text


def _letter(letter: str) -> float:
    if letter in PIXELS:
        return PIXELS[letter]
    if unicodedata.combining(letter):
        return 0.0
    return 13.0 if unicodedata.east_asian_width(letter) in "WF" else 8.3 if letter.isupper() else 7.0


def _style() -> str:
    """Return the style sheet of graphs, with the colours of a page that has none."""
    return files("orchestrator.web").joinpath("static/graph.css").read_text(encoding="utf-8")


@dataclass
class _Pen:
    """Collects elements: frames and edges behind, boxes before them."""

    link: LinkOf | None
    selected: str
    back: list[str] = field(default_factory=list)
    front: list[str] = field(default_factory=list)

    def edge(self, path: str, *, is_off: bool) -> None:
        """Add a line between two parts."""
        self.back.append(f'<path class="edge{" off" if is_off else ""}" d="{path}"/>')

    def curve(self, x1: float, y1: float, x2: float, y2: float, *, is_off: bool = False) -> None:
        """Add a line from left to right."""
        middle = (x1 + x2) / 2
        straight = f"M{x1:.1f} {y1:.1f}H{x2:.1f}"
        bent = f"M{x1:.1f} {y1:.1f}C{middle:.1f} {y1:.1f} {middle:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
        self.edge(straight if abs(y1 - y2) < 0.5 else bent, is_off=is_off)  # noqa: PLR2004 - half a pixel

    def turn(self, right: float, upper: float, between: float, left: float, lower: float) -> None:
        """Add the line from the end of a row, around, to the beginning of the next one."""
        r = TURN - 4
        self.edge(
            f"M{right:.1f} {upper:.1f}h4q{r} 0 {r} {r}V{between - r:.1f}q0 {r} {-r} {r}"
            f"H{left - 4:.1f}q{-r} 0 {-r} {r}V{lower - r:.1f}q0 {r} {r} {r}h4",
            is_off=False,
        )

    def frame(self, group: Group, x: float, y: float, width: float, height: float) -> None:
        """Add the frame of a group with its title."""
        off = " off" if group.is_off else ""
        self.back.append(
            f'<rect class="frame{off}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="10"/>'
        )
        if group.child is not None:
            self._child_title(group, group.child, x + 12, y + 15, width - 2 * PADDING + 28)
            return
        title = cut(group.title, width - 2 * PADDING + 28, 11)
        text = (
            f'<text class="sub{off}" x="{x + 12:.1f}" y="{y + 15:.1f}">{escape(title)}'
            f"<title>{escape(group.title)}</title></text>"
        )
        if group.node:
            chosen = " chosen" if group.node == self.selected and not group.run_id else ""
            said = f"decision {group.node}: {group.mark.text or TONES[group.mark.tone]}"
            text = self._linked(
                Box(group.title, group.mark, (group.node,), run_id=group.run_id),
                text,
                f"decision s-{group.mark.tone}{chosen}",
                said,
            )
        self.front.append(text)

    def _child_title(self, group: Group, child: Child, x: float, y: float, room: float) -> None:
        """Add the title of a child that is open: what closes it, the node that has started it, and its page."""
        at = x + 13
        name = cut(group.title, room / 2 - 13, SMALL)
        chosen = " chosen" if group.node == self.selected and not group.run_id else ""
        said = f"{group.title}: {group.mark.text or TONES[group.mark.tone]}"
        box = Box(group.title, group.mark, (group.node,), run_id=group.run_id)
        of_node = f'<text class="sub" x="{at:.1f}" y="{y:.1f}">{escape(name)}</text>'
        self.front.append(_row_link(child.toggle, "▾", (x, y), "decision", f"close run {child.title}", is_here=True))
        self.front.append(self._linked(box, of_node, f"decision s-{group.mark.tone}{chosen}", said))
        at += text_width(name, SMALL) + 8
        shown = cut(child.title, room - (at - x), SMALL)
        tone = f"decision child s-{child.mark.tone}"
        said = f"run {child.title}: {child.mark.text}"
        self.front.append(_row_link(child.address, shown, (at, y), tone, said, is_here=False))

    def label(self, text: str, x: float, y: float, *, is_off: bool, said: str = "") -> None:
        """Add the word above a line, with more behind it."""
        more = f"<title>{escape(said)}</title>" if said else ""
        self.front.append(
            f'<text class="sub{" off" if is_off else ""}" x="{x:.1f}" y="{y:.1f}">{escape(text)}{more}</text>'
        )

    def box(self, box: Box, x: float, y: float, width: float, height: float) -> None:
        """Add a box."""
        mark = box.mark
        kind = " fold" if box.is_fold else " many" if mark.counts else ""
        chosen = " chosen" if self.selected in box.nodes and not box.is_fold and not box.run_id else ""
        words = mark.text
        middle = y + HEIGHT / 2
        parts = [
            f'<rect class="box" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="8"/>',
            f'<rect class="bar" x="{x:.1f}" y="{y + 9:.1f}" width="4" height="{height - 18:.1f}" rx="2"/>',
        ]
        room = width - 24
        title = cut(box.title, room)
        title_y = middle - (7 if mark.counts and words else 4) if words or mark.counts else middle + 4.5
        parts.append(f'<text x="{x + 14:.1f}" y="{title_y:.1f}">{escape(title)}</text>')
        if words:
            words_y = middle + (7 if mark.counts else 12)
            parts.append(
                f'<text class="sub" x="{x + 14:.1f}" y="{words_y:.1f}">{escape(cut(words, room, SMALL))}</text>'
            )
        if mark.counts:
            parts += _progress(mark, x + 14, middle + (12 if words else 6), room)
        foot = y + HEIGHT
        if box.undo is not None:
            name, undone = box.undo
            shown = cut(f"↩ {name}" + (" failed" if undone.tone == "bad" else ""), room, 10.5)
            parts.append(
                f'<path class="seam" d="M{x + 14:.1f} {foot:.1f}H{x + width - 10:.1f}"/>'
                f'<text class="sub undo s-{undone.tone}" x="{x + 14:.1f}" y="{foot + 13.5:.1f}">'
                f"{escape(shown)}</text>"
            )
            foot += UNDO_HEIGHT
        if box.child is not None:
            parts.append(f'<path class="seam" d="M{x + 14:.1f} {foot:.1f}H{x + width - 10:.1f}"/>')
        classes = f"node s-{mark.tone}{kind}{chosen}{' off' if box.is_off else ''}"
        said = ": ".join(filter(None, (box.title, said_of(box))))
        self.front.append(self._linked(box, f"<title>{escape(said)}</title>{''.join(parts)}", classes, said))
        if box.child is not None:
            shown = cut(f"▸ {box.child.title}", room, SMALL)
            tone = f"decision child s-{box.child.mark.tone}"
            opens = f"open run {box.child.title}: {box.child.mark.text}"
            self.front.append(_row_link(box.child.toggle, shown, (x + 14, foot + 13.5), tone, opens, is_here=True))

    def _linked(self, box: Box, inner: str, classes: str, said: str) -> str:
        address = self.link(box) if self.link is not None else ""
        if not address:
            return f'<g class="{classes}">{inner}</g>'
        node = escape(box.nodes[0]) if box.nodes and not box.is_fold else ""
        here = "" if box.run_id else f' data-node="{node}"'  # of a child: its page is another one
        return f'<a class="{classes}" href="{escape(address)}"{here} aria-label="{escape(said)}">{inner}</a>'


def _row_link(address: str, text: str, place: tuple[float, float], classes: str, said: str, *, is_here: bool) -> str:
    """Return a line of small text that leads somewhere, or without an address nowhere; `is_here`: to the same page."""
    x, y = place
    shown = f'<text class="sub" x="{x:.1f}" y="{y:.1f}">{escape(text)}<title>{escape(said)}</title></text>'
    if not address:
        return f'<g class="{classes}">{shown}</g>'
    here = ' data-node=""' if is_here else ""
    return f'<a class="{classes}" href="{escape(address)}"{here} aria-label="{escape(said)}">{shown}</a>'


TONES = {
    "ok": "succeeded",
    "run": "running",
    "queue": "queued",
    "wait": "waiting",
    "bad": "failed",
    "undone": "undone",
    "skip": "skipped",
    "none": "to come",
}


def said_of(box: Box) -> str:
    """Return the state of a box in words, for those who do not see its colour."""
    if box.is_off:
        return "not taken"
    counts = ", ".join(f"{count:,} {TONES[tone]}" for tone, count in box.mark.counts.items() if count)
    return counts or box.mark.text or ("" if box.mark.tone == "none" else TONES[box.mark.tone])


def _progress(mark: Mark, x: float, y: float, width: float) -> list[str]:
    """Return the bar of a box that stands for many: a piece for each tone, in one order."""
    total = sum(mark.counts.values()) or 1
    parts = [f'<rect class="track" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{BAR}" rx="2.5"/>']
    pieces = {
        tone: max(LEAST_PIECE, width * mark.counts[tone] / total)
        for tone in ("ok", "skip", "undone", "bad", "wait", "run", "queue")
        if mark.counts.get(tone)
    }
    if pieces:  # what is few of many is seen too, at the cost of the most
        most = max(pieces, key=lambda tone: pieces[tone])
        pieces[most] -= max(0.0, sum(pieces.values()) - width)
    at = x
    for tone, piece in pieces.items():
        parts.append(
            f'<rect class="piece s-{tone}" x="{at:.1f}" y="{y:.1f}" width="{piece:.1f}" height="{BAR}" rx="1.5"/>'
        )
        at += piece
    return parts


@dataclass
class _Drawing:
    """A part that was measured.

    Attributes:
        width: Pixels.
        height: Pixels.
        port: Height at which a line comes in.
        exit: Where a line goes out.
        draw: Draws it at a place.
        entry: How far inside a line that comes in ends.
    """

    width: float
    height: float
    port: float
    exit: tuple[float, float]
    draw: Callable[[_Pen, float, float], None]
    entry: float = 0.0


def _lay_line(line: Line, limit: float) -> _Drawing:
    """Lay parts side by side in as many rows as the width asks for; on a narrow screen one below the other."""
    if limit < COLUMN:
        return _lay_column(line, limit)
    rows = _rows([_lay_part(part, limit) for part in line.parts], limit)
    if len(rows) > 1:  # boxes of one width stand below one another
        common = max((_natural_width(part) for part in line.parts if isinstance(part, Box)), default=0.0)
        lead = _lead_of(line.parts, limit)
        laid = [
            _lay_box(part, common, lead) if isinstance(part, Box) else _lay_group(part, limit) for part in line.parts
        ]
        rows = _rows(laid, limit)
    left = TURN + 2 if len(rows) > 1 else 0
    heights = [(max(part.port for part in row), max(part.height - part.port for part in row)) for row in rows]
    widths = [sum(part.width for part in row) + GAP * (len(row) - 1) for row in rows]
    height = sum(above + below for above, below in heights) + ROW_GAP * max(0, len(rows) - 1)

    def draw(pen: _Pen, x: float, y: float) -> None:
        for number, (row, (above, below)) in enumerate(zip(rows, heights, strict=True)):
            at, middle = x + left, y + above
            for place, part in enumerate(row):
                if place:
                    pen.curve(at - GAP, middle, at, middle)
                part.draw(pen, at, middle - part.port)
                at += part.width + GAP
            y += above + below + ROW_GAP
            if number + 1 < len(rows):
                pen.turn(at - GAP, middle, y - ROW_GAP / 2, x + left, y + heights[number + 1][0])

    end = (left + widths[-1], height - heights[-1][1]) if rows else (0.0, 0.0)
    return _Drawing(max(widths, default=0.0) + 2 * left, height, heights[0][0] if rows else 0.0, end, draw)


def _rows(laid: list[_Drawing], limit: float) -> list[list[_Drawing]]:
    rows: list[list[_Drawing]] = []
    used = limit
    for part in laid:
        used += GAP + part.width
        if used > limit - (2 * TURN if len(rows) > 1 else 0):
            rows.append([])
            used = part.width
        rows[-1].append(part)
    return rows


def _lay_column(line: Line, limit: float) -> _Drawing:
    """Lay parts below one another, in the middle of the width."""
    common = max((_natural_width(part) for part in line.parts if isinstance(part, Box)), default=0.0)
    laid = [_lay_box(part, common) if isinstance(part, Box) else _lay_group(part, limit) for part in line.parts]
    width = max((part.width for part in laid), default=0.0)
    height = sum(part.height for part in laid) + COLUMN_GAP * max(0, len(laid) - 1)

    def draw(pen: _Pen, x: float, y: float) -> None:
        for number, part in enumerate(laid):
            if number:
                pen.edge(f"M{x + width / 2:.1f} {y - COLUMN_GAP:.1f}V{y:.1f}", is_off=False)
            part.draw(pen, x + (width - part.width) / 2, y)
            y += part.height + COLUMN_GAP

    if not laid:
        return _Drawing(0.0, 0.0, 0.0, (0.0, 0.0), draw)
    first, last = laid[0], laid[-1]
    end = ((width + last.width) / 2, height - last.height + last.exit[1])
    return _Drawing(width, height, first.port, end, draw, (width - first.width) / 2)


def _lay_part(part: Part, limit: float) -> _Drawing:
    if isinstance(part, Box):
        return _lay_box(part, _natural_width(part), _lead_of((part,), limit))
    return _lay_group(part, limit)


def _natural_width(box: Box) -> float:
    lines = [text_width(box.title), text_width(box.mark.text, SMALL)]
    if box.undo is not None:
        lines.append(text_width(f"↩ {box.undo[0]}", SMALL))
    if box.child is not None:
        lines.append(text_width(f"▸ {box.child.title}", SMALL))
    return min(WIDEST, max(NARROWEST, max(lines) + 32))


def _lay_box(box: Box, width: float, lead: float = 0.0) -> _Drawing:
    """Lay a box, behind a line of so many pixels with the parameters that it takes, if there is room for one."""
    height = HEIGHT + UNDO_HEIGHT * ((box.undo is not None) + (box.child is not None))

    def draw(pen: _Pen, x: float, y: float) -> None:
        if lead:
            pen.curve(x, y + HEIGHT / 2, x + lead, y + HEIGHT / 2, is_off=box.is_off)
        if lead and box.takes:
            said = "; ".join(f"{name}: {source_text(source)}" for name, source in box.takes.items())
            shown = cut(", ".join(box.takes), lead - 14, 10.5)
            pen.label(shown, x + 2, y + HEIGHT / 2 - 5, is_off=box.is_off, said=said)
        pen.box(box, x + lead, y, width, height)

    return _Drawing(lead + width, height, HEIGHT / 2, (lead + width, HEIGHT / 2), draw)


def _lead_of(parts: Iterable[Part], limit: float) -> float:
    """Return the length of the lines in front of boxes; none where parts stand below one another."""
    taken = [", ".join(part.takes) for part in parts if isinstance(part, Box) and part.takes]
    return min(LEAD, max((text_width(text, 10.5) for text in taken), default=-16.0) + 16) if limit >= COLUMN else 0.0


def source_text(source: str) -> str:
    """Return in words what a parameter is wired to."""
    kind, _, path = source.partition(".")
    roots = {":input": "the run's input", ":item": "the item"}
    return f"output {source}" if kind not in roots else f"{path} of {roots[kind]}" if path else roots[kind]


def _lay_group(group: Group, limit: float) -> _Drawing:
    """Lay the arms of a group below one another in a frame; boxes that are alone in their arm get one width."""
    singles = [arm.line.parts[0] for arm in group.arms if len(arm.line.parts) == 1]
    common = max((_natural_width(part) for part in singles if isinstance(part, Box)), default=NARROWEST)
    lead = _lead_of(singles, limit)
    indent = LABEL if any(arm.label for arm in group.arms) else 0
    laid = []
    for arm in group.arms:
        parts = arm.line.parts
        if len(parts) == 1 and isinstance(parts[0], Box):
            laid.append(_lay_box(parts[0], common, lead))
        else:
            laid.append(_lay_line(arm.line, limit - 2 * PADDING - indent))
    inner = max([*(part.width for part in laid), NARROWEST / 2])
    heights = [max(part.height, 16.0) for part in laid]
    width = inner + 2 * PADDING + indent
    title = f"▾ {group.title}  {group.child.title}" if group.child else group.title
    width = max(width, min(text_width(title, SMALL if group.child else 11) + 30, limit))
    inner = width - 2 * PADDING - indent
    height = sum(heights) + ARM_GAP * max(0, len(laid) - 1) + TITLE + 14 + 8
    port = height / 2

    def draw(pen: _Pen, x: float, y: float) -> None:
        pen.frame(group, x, y, width, height)
        at = y + TITLE + 8
        for arm, part, high in zip(group.arms, laid, heights, strict=True):
            begin, end = x + PADDING + indent, x + width - PADDING
            middle = at + (part.port or high / 2)
            out = (begin + part.exit[0], at + part.exit[1]) if arm.line.parts else (begin - 4, middle)
            if arm.label:
                pen.label(arm.label, x + PADDING + 2, middle + 3.5, is_off=arm.is_off)
            pen.curve(x, y + port, x + PADDING - 2, middle, is_off=arm.is_off)
            if indent and arm.line.parts:
                pen.curve(begin - 6, middle, begin, middle, is_off=arm.is_off)
            if part.entry:
                pen.curve(begin - 2, middle, begin + part.entry, middle, is_off=arm.is_off)
            part.draw(pen, begin, at)
            pen.curve(*out, end, out[1], is_off=arm.is_off)
            pen.curve(end, out[1], x + width, y + port, is_off=arm.is_off)
            at += high + ARM_GAP

    return _Drawing(width, height, port, (width, port), draw)
