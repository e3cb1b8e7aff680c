"""Children of a run as its page shows them: in a tree, and in the graph in the place of the node that started each.

What is open stands in the address, so that a page reads only the runs that somebody wants to see.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.errors import UnknownRun
from orchestrator.store.run_view import show_run, statuses_of_runs, without_child_undos
from orchestrator.web.marks import RUN_TONES, marks_of
from orchestrator.web.shapes import Child, Mark
from orchestrator.web.texts import status_word

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator import NodeRow, Orchestrator, RunRow, RunView

SHOWN = 8
"""Children of one run in the tree, the newest."""
DEPTH = 3
MOST_OPEN = 12
SHORT = 8
"""Characters of an id in the address: enough to tell the runs of one tree apart."""


@dataclass(frozen=True)
class TreeRow:
    """A line of the tree.

    Attributes:
        row: The run.
        depth: How deep it stands below the run of the page, from 1.
        toggle: Where a click opens or closes it; empty where it is too deep.
        is_open: Whether what is below it is shown.
        count: How many runs it has started.
    """

    row: RunRow
    depth: int
    toggle: str
    is_open: bool
    count: int


@dataclass(frozen=True)
class Below:
    """What a run has started.

    Attributes:
        rows: The tree, as far as it is open.
        count: How many children the run has.
        by_node: The run that each node has started last, for the graph.
    """

    rows: tuple[TreeRow, ...] = ()
    count: int = 0
    by_node: Mapping[str, Child] = field(default_factory=dict)


@dataclass(frozen=True)
class Opened:
    """What is open on a page.

    Attributes:
        ids: Beginnings of ids.
        address: Returns the address of the page on which these are open.
        page: Returns the address of the page of a run.
    """

    ids: tuple[str, ...]
    address: Callable[[tuple[str, ...]], str]
    page: Callable[[str], str]

    def has(self, run_id: str) -> bool:
        """Whether a run is open."""
        return run_id[:SHORT] in self.ids

    def toggle(self, run_id: str) -> str:
        """Return where a click opens a run that is closed, or closes it."""
        short = run_id[:SHORT]
        rest = tuple(each for each in self.ids if each != short)
        return self.address(rest if short in self.ids else (*rest, short)[-MOST_OPEN:])


def read_opened(text: str) -> tuple[str, ...]:
    """Return what is open by the text of an address; what is no beginning of an id is left out."""
    given = dict.fromkeys(text[: (SHORT + 1) * MOST_OPEN].split("."))
    return tuple(each for each in given if len(each) == SHORT and each.isascii() and each.isalnum())[:MOST_OPEN]


def read_below(orchestrator: Orchestrator, view: RunView, opened: Opened, *, depth: int = 1) -> Below:
    """Return what a run has started; of a plan without flow nodes nothing is read.

    Raises:
        StoreError: Redis.
    """
    if view.plan is not None and not view.plan.children:
        return Below()
    store = orchestrator._engine.store  # noqa: SLF001 - a door reads the store directly
    rows = orchestrator.runs(parent=view.run.id, limit=SHOWN).rows
    if not rows:
        return Below()
    last = {row.name: row for row in view.nodes if row.child_run and "[" not in row.name}
    known = {row.id: str(row.status) for row in rows}
    others = [row.child_run for row in last.values() if row.child_run and row.child_run not in known]
    known |= statuses_of_runs(store, others)
    with store.guarded():
        pipe = store.client.pipeline(transaction=False)
        for run_id in (view.run.id, *(row.id for row in rows)):
            pipe.zcard(store.keys.children(run_id))
        count, *counts = pipe.execute()
    shown = [row.id for row in rows] + others
    inner = {run_id: _open(orchestrator, run_id, opened, depth) for run_id in shown if opened.has(run_id)}
    tree: list[TreeRow] = []
    for row, below in zip(rows, counts, strict=True):
        found = inner.get(row.id)
        toggle = opened.toggle(row.id) if depth <= DEPTH else ""
        tree.append(TreeRow(row, depth, toggle, found is not None, below))
        tree += found[1].rows if found else ()
    by_node = {}
    for name, node in last.items():
        run_id = node.child_run or ""
        status = known[run_id]
        mark = Mark(RUN_TONES.get(status, "none"), status_word(status))
        toggle = opened.toggle(run_id) if depth <= DEPTH and status != "gone" else ""
        child = Child(run_id, f"{node.child} {run_id[:SHORT]}", mark, opened.page(run_id), toggle)
        found = inner.get(run_id)
        by_node[name] = _opened(child, *found) if found else child
    return Below(tuple(tree), count, by_node)


def _open(orchestrator: Orchestrator, run_id: str, opened: Opened, depth: int) -> tuple[RunView, Below] | None:
    """Read a run that is open, with what it has started; None for one that is too deep, or gone meanwhile."""
    if depth > DEPTH:
        return None
    try:
        view = without_child_undos(show_run(orchestrator._engine.store, run_id))  # noqa: SLF001 - as above
    except UnknownRun:
        return None
    return view, read_below(orchestrator, view, opened, depth=depth + 1)


def _opened(child: Child, view: RunView, below: Below) -> Child:
    mark = child.mark
    return Child(child.run_id, child.title, mark, child.address, child.toggle, view.plan, marks_of(view), below.by_node)


def runs_of_node(orchestrator: Orchestrator, run_id: str, node: NodeRow) -> list[tuple[int, str, str]]:
    """Return the newest runs that a node, or an item of a map, has started: number, id and status.

    Of one that does not repeat only the last is known. One that starts none is not asked for.

    Raises:
        StoreError: Redis.
    """
    if not node.child or node.undoes:
        return []
    store = orchestrator._engine.store  # noqa: SLF001 - as above
    numbers = list(range(node.child_count, max(0, node.child_count - SHOWN), -1))
    with store.guarded():
        last, *each = store.client.hmget(
            store.keys.started(run_id), [node.name, *(f"{node.name}|{number}" for number in numbers)]
        )
    found = [(number, text.decode()) for number, text in zip(numbers, each, strict=True) if text]
    if not found and last:
        number, *_, last_id = last.decode().split(" ")
        found = [(int(number), last_id)]
    statuses = statuses_of_runs(store, [started for _, started in found])
    return [(number, started, statuses[started]) for number, started in found]
