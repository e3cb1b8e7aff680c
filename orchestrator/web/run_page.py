"""Page of one run: its record, history and explanation, put together for the template."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeAlias, TypeVar

from orchestrator.definition.plan import node_of
from orchestrator.errors import StoreError
from orchestrator.runs import FlowRun
from orchestrator.store.run_view import OPEN_STATES, show_iteration, without_child_undos
from orchestrator.store.wrong_types import is_wrong_type, wrong_keys
from orchestrator.web.attempts import Attempt, Chosen, choose_attempt, read_attempts, worker_of
from orchestrator.web.children import Below, Opened, read_below, runs_of_node
from orchestrator.web.graph import draw_graph
from orchestrator.web.marks import RUN_TONES, TONES, WAITS, WORDS, marks_of, words_of
from orchestrator.web.node_inputs import Given, inputs_of
from orchestrator.web.schedule_page import schedule_of
from orchestrator.web.texts import error_text, lasted, short_type, visible
from orchestrator.web.timeline import Timeline, read_timeline
from orchestrator.web.why import Reason, reason_of

P = ParamSpec("P")
T = TypeVar("T")

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestrator import Event, NodeRow, Orchestrator, RunView
    from orchestrator.web.shapes import Box

    Read: TypeAlias = Callable[Concatenate[Orchestrator, str, P], T]

HISTORY_SHOWN = 200
FAILED_ITEMS = 20
ATTEMPTS = 40
NARROW = 330
VERSION = ("status", "epoch", "position", "open", "won", "running", "seq", "map_next", "saga")
"""Fields of a run, one of which changes whenever its page would."""


class DamagedRunError(Exception):
    """A run that cannot be shown, for something else was written to its keys; the text says which."""


@dataclass(frozen=True)
class Panel:
    """The node that is shown beside the graph.

    Attributes:
        row: Its record.
        tone: Of its state.
        words: Its state.
        attempts: Newest first.
        chosen: The attempt that the reader has chosen among them, if any.
        open_items: Of a map: rows of some items that have begun, or wait for another attempt.
        open_count: How many there are.
        failed_items: Of a map: rows of some items that failed.
        failed_from: How many failed ones are before them.
        failed_count: How many there are.
        undo: Its compensation, if it has one that began.
        limits: Names of the limits that it takes a token of.
        timeout: Seconds of one attempt.
        answer: Of a node that waits for an approval or a signal: the name that it is answered by; else empty.
        worker: The process that runs it, as a reader knows it; empty for none.
        inputs: Its parameters; None where it is not wired by name.
        runs: The newest runs that it has started: number, id and status.
    """

    row: NodeRow
    tone: str
    words: str
    attempts: list[Attempt]
    chosen: Chosen | None
    open_items: list[NodeRow]
    open_count: int
    failed_items: list[NodeRow]
    failed_from: int
    failed_count: int
    undo: NodeRow | None
    limits: tuple[str, ...]
    timeout: float | None
    answer: str
    worker: str
    inputs: list[Given] | None
    runs: list[tuple[int, str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class RunPage:
    """Everything that the page of a run shows."""

    view: RunView
    now: datetime
    version: str
    tone: str
    reason: Reason | None
    graph: str
    graph_narrow: str
    is_folded: bool
    timeline: Timeline
    panel: Panel | None
    schedule: tuple[str, str] | None
    """Id and words of the schedule that started it."""
    below: Below = field(default_factory=Below)
    """What its nodes have started."""
    history: list[Event] = field(default_factory=list)
    history_length: int = 0

    @property
    def outputs(self) -> list[NodeRow]:
        """The nodes that have stored an output; a map once."""
        others = ("branch", "expand", "compensation")
        rows = [row for row in self.view.nodes if row.key and row.kind not in others and "[" not in row.name]
        return [row for row in rows if row.output_size or row.pages or (row.items and row.items.done)]


def naming_damage(
    read: Callable[Concatenate[Orchestrator, str, P], T],
) -> Callable[Concatenate[Orchestrator, str, P], T]:
    """Let a function that reads a run raise `DamagedRunError` where a key of the run holds something else."""

    @wraps(read)
    def reading(orchestrator: Orchestrator, run_id: str, /, *args: P.args, **kw: P.kwargs) -> T:
        try:
            return read(orchestrator, run_id, *args, **kw)
        except StoreError as error:
            store = orchestrator._engine.store  # noqa: SLF001 - a door reads the store directly
            if is_wrong_type(error) and (wrong := wrong_keys(store, run_id)):
                raise DamagedRunError(_damage(run_id, wrong)) from error
            raise

    return reading


def _damage(run_id: str, wrong: Sequence[tuple[str, str, str]]) -> str:
    said = "; ".join(f"its key {key} holds a {found} and not a {wanted}" for key, found, wanted in wrong)
    key, is_whole = wrong[0][0], any(key.endswith(run_id) for key, _, _ in wrong)
    after = "the run is gone then" if is_whole else "the run ends then, with an error that says what it lost"
    return (
        f"Run {run_id} cannot be shown: {said}. Something else has written there; other runs go on without this one. "
        f"Find out what it was, then delete the key, redis-cli DEL {key}: {after}."
    )


@naming_damage
def version_of(orchestrator: Orchestrator, run_id: str) -> str:
    """Return a text that changes whenever the page of a run would; one round trip."""
    return _version_and_now(orchestrator, run_id)[0]


def _version_and_now(orchestrator: Orchestrator, run_id: str) -> tuple[str, datetime]:
    store = orchestrator._engine.store  # noqa: SLF001 - as above
    with store.guarded():
        pipe = store.client.pipeline(transaction=False)
        pipe.hmget(store.keys.run(run_id), *VERSION)
        pipe.time()
        values, (seconds, micros) = pipe.execute()
    version = ".".join((value or b"").decode() for value in values)
    return version, datetime.fromtimestamp(seconds + micros / 1_000_000, UTC)


@dataclass(frozen=True)
class Look:
    """How a page is looked at, as its address says.

    Attributes:
        selected: The node to show beside the graph; empty chooses the one that matters most.
        attempt: The number of the attempt of it to show; empty for none.
        items: Of a map: how many of the failed items are passed over; empty for none.
        opened: Which children of the run are open.
        link: Returns where a box of the graph leads.
        unfold: Whether a long line is drawn in full.
    """

    selected: str
    attempt: str
    items: str
    opened: Opened
    link: Callable[[Box], str]
    unfold: bool


@naming_damage
def read_run(orchestrator: Orchestrator, run_id: str, look: Look) -> RunPage:
    """Return the page of a run.

    Raises:
        UnknownRun: There is none.
        DamagedRunError: A key of it holds something else.
        StoreError: Redis.
    """
    version, now = _version_and_now(orchestrator, run_id)  # first: what changes meanwhile is read anew
    run = FlowRun(orchestrator._engine, run_id)  # noqa: SLF001 - as above
    view, history = without_child_undos(shown := run.show()), fold_undos(shown, run.history())
    waiting = [] if view.run.status.is_final else run.explain()
    reason = reason_of(view, waiting, names := _workers(orchestrator))
    chosen = _choose(view, look.selected, reason)
    below = read_below(orchestrator, view, look.opened)
    graph, narrow = _graphs(view, below, look, node_of(chosen))
    return RunPage(
        view=view,
        now=now,
        version=version,
        tone=RUN_TONES.get(view.run.status, "none"),
        reason=reason,
        graph=graph,
        graph_narrow=narrow,
        is_folded='class="node' in graph and " fold" in graph,
        timeline=read_timeline(view, history, now),
        panel=_with_details(orchestrator, run_id, _panel(view, chosen, look, history, names)),
        schedule=schedule_of(orchestrator, view),
        below=below,
        history=history[-HISTORY_SHOWN:][::-1],
        history_length=len(history),
    )


def _graphs(view: RunView, below: Below, look: Look, selected: str) -> tuple[str, str]:
    """Draw the run for a wide and for a narrow window."""
    if view.plan is None:
        return "", ""
    draw = partial(
        draw_graph,
        view.plan,
        marks_of(view),
        children=below.by_node,
        link=look.link,
        selected=selected,
        unfold=look.unfold,
    )
    return draw(), draw(width=NARROW)


def fold_undos(view: RunView, history: Sequence[Event]) -> list[Event]:
    """Return a history in which undoing the run of a node is told of that node."""
    undone = {row.name: row.undoes for row in view.nodes if row.is_undone_child}
    said = {"waits": "undoing", "succeeded": "undone", "failed": "undo-failed"}
    folded = []
    for event in history:
        node = undone.get(node_of(event.node))
        if node is not None:
            name = node + event.node.removeprefix(node_of(event.node))
            event = replace(event, node=name, event=said.get(event.event, event.event), detail="")  # noqa: PLW2901
        folded.append(event)
    return folded


def _workers(orchestrator: Orchestrator) -> dict[str, str]:
    try:
        return {row.id: row.name for row in orchestrator.workers()}
    except StoreError:
        return {}


def _choose(view: RunView, selected: str, reason: Reason | None) -> str:
    names = {row.name for row in view.nodes}
    if selected in names:
        return selected
    if reason is not None and node_of(reason.node) in names:
        return node_of(reason.node)
    ended = [row for row in view.nodes if row.kind == "node" and row.state != "pending"]
    return ended[-1].name if ended else view.nodes[0].name if view.nodes else ""


def _panel(view: RunView, name: str, look: Look, history: Sequence[Event], workers: Mapping[str, str]) -> Panel | None:
    row = next((each for each in view.nodes if each.name == name), None)
    if row is None:
        return None
    plan = view.plan.nodes.get(node_of(name)) if view.plan else None
    own = [each for each in view.nodes if each.name.startswith(f"{name}[")]
    failed = [each for each in own if each.failure and each.state not in OPEN_STATES]
    opened = [each for each in own if each.state in {*OPEN_STATES, "waiting", "paused"}]
    # A map's items that failed: as many before the page as the address says, at most all but the last page.
    items = look.items
    passed = int(items) if items.isascii() and items.isdecimal() and len(items) < len("1000000") else 0
    first = min(passed, max(0, len(failed) - 1) // FAILED_ITEMS * FAILED_ITEMS)
    undo = next((each for each in view.nodes if each.undoes == name), None)
    repeats = plan is not None and bool(plan.repeats)
    attempts = read_attempts(row, [each for each in history if each.node == name], repeats=repeats)
    return Panel(
        row=row,
        tone=TONES.get(row.state, "none"),
        words=words_of(row) if row.state in ("waiting", "paused") else WORDS.get(row.state, row.state),
        attempts=attempts,
        chosen=choose_attempt(row, attempts, look.attempt, view.log, workers),
        open_items=opened[:FAILED_ITEMS] if row.items else [],
        open_count=len(opened),
        failed_items=failed[first : first + FAILED_ITEMS] if row.items else [],
        failed_from=first,
        failed_count=len(failed),
        undo=undo,
        limits=plan.limits if plan else (),
        timeout=plan.timeout_ms / 1000 if plan else None,
        answer=plan.gate.get("of", row.name) if plan and row.waits in {"approval", "signal"} else "",
        worker=worker_of(row.holder or "", workers),
        inputs=inputs_of(view, name),
    )


def _with_details(orchestrator: Orchestrator, run_id: str, panel: Panel | None) -> Panel | None:
    """Add what is read for this node alone: the runs that it has started, and the output of a chosen iteration."""
    if panel is None:
        return None
    chosen = panel.chosen
    if chosen is not None and chosen.attempt.iteration is not None:
        store = orchestrator._engine.store  # noqa: SLF001 - as above
        chosen = replace(chosen, output=show_iteration(store, run_id, panel.row, chosen.attempt.iteration))
    return replace(panel, chosen=chosen, runs=runs_of_node(orchestrator, run_id, panel.row))


def describe_event(event: Event) -> str:
    """Return what happened, in words."""
    detail = visible(event.detail)
    said = {
        "run-started": "the run was started",
        "started": f"attempt {event.attempt} began",
        "succeeded": "succeeded",
        "retrying": f"attempt {event.attempt} failed; the next one in {_delay(detail)}",
        "throttled": f"was told to come back in {_delay(detail)}",
        "given-back": f"was left to code that fits: {detail}",
        "waiting": f"waits for a token of {detail}",
        "waits": WAITS.get(detail, f"waits for {detail}"),
        "approved": f"was approved by {detail}",
        "signal-kept": f"signal {detail} came, and is kept until its node waits for it",
        "signal-refused": f"signal {detail} came and did not fit",
        "paused": "stands until the run is resumed"
        if event.node
        else f"the run was paused: {detail or 'no reason given'}",
        "lost": f"attempt {event.attempt} was lost with its worker" + (f"; {detail}" if detail else ""),
        "timed-out": f"attempt {event.attempt} took longer than its timeout" + (f"; {detail}" if detail else ""),
        "run-ending": f"the run is ending: {detail}",
        "resumed": "the run was resumed",
        "continued": "the run was resumed",
        "admitted": "it was the run's turn",
        "republished": f"its message was sent again: {detail}",
        "page": f"page {detail} is stored",
        "iteration": f"iteration {detail} is stored",
        "child": f"started run {detail[:8]}",
        "undoing": "the run that it started is being undone",
        "undone": "the run that it started was undone",
        "undo-failed": "the run that it started could not be undone",
    }.get(event.event)
    if said is None:
        said = event.event.replace("-", " ") + (f": {detail}" if detail else "")
    return said + (f" ({visible(event.error)})" if event.error else "")


def _delay(milliseconds: str) -> str:
    return lasted(int(milliseconds) / 1000) if milliseconds.isdecimal() else milliseconds


def failure_text(row: NodeRow) -> str:
    """Return the last failure of a node: type and message."""
    failure: Any = row.failure
    return f"{short_type(failure.type)}: {error_text(failure.message)}" if failure is not None else ""
