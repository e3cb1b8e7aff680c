"""View of one run: everything that its record says of its nodes, outputs and failures, read in three round trips."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from orchestrator.definition.plan import node_of
from orchestrator.redaction import HIDDEN
from orchestrator.store.log_lines import FIELD as LOG_FIELD
from orchestrator.store.log_lines import LogLine, read_lines
from orchestrator.store.output_parts import IN_PARTS
from orchestrator.store.queries import RunRow, json_value, read_record, row_of
from orchestrator.store.run_store import INPUT, instant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from orchestrator.definition.plan import NodePlan, Plan
    from orchestrator.definition.state import NodeFailure
    from orchestrator.store.run_store import Store

OPEN_STATES = frozenset({"ready", "running", "parked"})
"""States of an item that may succeed yet, whatever its last failure was."""
READ_WHOLE = 64 * 1024
"""Largest output in bytes that a view reads, because hidden fields are found in whole JSON only."""
SHOWN = 2000
"""Characters of an output or of the input in a view."""


@dataclass(frozen=True)
class MapCounts:
    """Items of a map: how many there are, have succeeded, have failed for good, and run now."""

    count: int
    done: int
    failed: int
    running: int


@dataclass(frozen=True)
class NodeRow:
    """One node, decision, compensation, or item of a map with a record.

    Attributes:
        name: Its name.
        kind: "node", "branch", "expand" (computes the items of a map), "item" or "compensation".
        step: Index of its step in the plan.
        state: "pending" before it is ready; else as recorded; "unreadable" if the record is damaged.
        attempt: Attempts that have started.
        attempts: Attempts at most.
        queue, task: Where it runs and as what.
        key: Output key; empty if it has none.
        output: JSON of its output without hidden fields, at most 2,000 characters; None if there is none, or if it is
            stored in parts or over 64 KiB.
        output_size: Bytes of its output; of one in parts, None.
        since: When it became ready.
        started: When its last attempt began.
        ended: When it ended.
        due: When a retry or a limit lets it go on, as far as is known.
        deadline: When its running attempt is out of time.
        holder: The process that runs it.
        limit: The bucket that it waits for.
        detail: What it reported by `ctx.heartbeat`, as JSON, or None.
        failure: Its last failure; also of an attempt that is followed by others.
        choice: Of a decision: the branch that it took; of "expand": how many items there are.
        items: Of the node of a map: its items.
        pages: Of a paginated node: how many pages are stored.
        undoes: Of a compensation: the node.
        first: When it first became ready, if it had more than one attempt.
        busy: Time in attempts, if it had more than one.
        waits: Of one that is "waiting": what for, such as "approval", "signal", "callback" or "sleep".
        is_inherited: Of a fork: whether it was taken over from the run that was forked, and is never compensated here.
        child: The flow whose runs it starts; of its compensation, of the one whose run that undoes. Empty for none.
        child_run: The run that it has started last, as far as is known, or None.
        child_count: How many runs it has started; 0 of a map, whose items have started them.
    """

    name: str
    kind: str
    step: int
    state: str
    attempt: int
    attempts: int
    queue: str
    task: str
    key: str
    output: str | None
    output_size: int | None
    since: datetime | None
    started: datetime | None
    ended: datetime | None
    due: datetime | None
    deadline: datetime | None
    holder: str | None
    limit: str | None
    detail: str | None
    failure: NodeFailure | None
    choice: int | None
    items: MapCounts | None
    pages: int | None
    undoes: str
    first: datetime | None
    busy: timedelta | None
    waits: str | None = None
    is_inherited: bool = False
    child: str = ""
    child_run: str | None = None
    child_count: int = 0

    @property
    def is_undone_child(self) -> bool:
        """Whether it is no node of the flow: it stands for undoing the run that another node has started."""
        return bool(self.undoes and self.child)


@dataclass(frozen=True)
class RunView:
    """One run at one instant.

    Attributes:
        run: The run as a list shows it.
        plan: Its plan, by which steps and branches are drawn; None if it is gone.
        nodes: In the order of the plan; of compensations and items, those that have a record.
        input: JSON of its input without hidden fields, at most 2,000 characters; None if there is none, or over 64 KiB.
        input_size: Bytes of its input; 0 if it has none.
        verdict: "failed" or "cancelled" once that is decided; else empty.
        log: Lines of `ctx.logger`, oldest first.
        scheduled: The instant for which a schedule started it, or None.
        forked_from: The run that it is a fork of, or None.
        forked_at: The node or step at which it began as a fork, or None.
        forks: Ids of the runs that are forks of it, oldest first; records of them may be gone.
    """

    run: RunRow
    plan: Plan | None
    nodes: tuple[NodeRow, ...]
    input: str | None
    input_size: int
    verdict: str
    log: tuple[LogLine, ...]
    scheduled: datetime | None = None
    forked_from: str | None = None
    forked_at: str | None = None
    forks: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the view as JSON values; of the plan only its steps."""
        steps = [] if self.plan is None else [step_json(step) for step in self.plan.steps]
        names = ["nodes", "input", "input_size", "verdict", "log", "scheduled", "forked_from", "forked_at", "forks"]
        rest = {name: json_value(getattr(self, name)) for name in names}
        return {"run": self.run.to_json(), "steps": steps, **rest}


def without_child_undos(view: RunView) -> RunView:
    """Return a view as people read it: undoing the run of a node is a state of that node, and no node of its own."""
    undone = {row.undoes: row for row in view.nodes if row.is_undone_child}
    if not undone:
        return view
    rows = [row for row in view.nodes if not row.is_undone_child]
    failures = {name: undo.failure for name, undo in undone.items() if undo.failure is not None}
    nodes = tuple(replace(row, failure=failures.get(row.name, row.failure)) for row in rows)
    return replace(view, nodes=nodes)


def statuses_of_children(store: Store, view: RunView) -> dict[str, str]:
    """Return the status of the run that each node has started last, by its id; "gone" without a record."""
    ids = sorted({row.child_run for row in view.nodes if row.child_run})
    return statuses_of_runs(store, ids)


def statuses_of_runs(store: Store, ids: Sequence[str]) -> dict[str, str]:
    """Return the status of runs by their id; "gone" where there is no record. One round trip, without any none."""
    if not ids:
        return {}
    with store.guarded():
        pipe = store.client.pipeline(transaction=False)
        for run_id in ids:
            pipe.hget(store.keys.run(run_id), "status")
        return {run_id: (found or b"gone").decode() for run_id, found in zip(ids, pipe.execute(), strict=True)}


def step_json(step: Any) -> dict[str, Any]:
    """Return a step of a plan as JSON values."""
    return {name: json_value(getattr(step, name)) for name in ("name", "kind", "nodes", "next", "branches")}


def show_run(store: Store, run_id: str) -> RunView:
    """Return a run as it is now.

    Raises:
        UnknownRun: There is none, or its retention is over.
    """
    record = store.run(run_id)
    plan = store.plan(record.plan)
    keys = [] if plan is None else [node.key for node in plan.nodes.values() if node.key]
    paged = [] if plan is None else [name for name, _ in plan.pages]
    maps, starters = ((), ()) if plan is None else (plan.maps, plan.children)
    with store.guarded():
        pipe = store.client.pipeline(transaction=False)
        pipe.hgetall(store.keys.nodes(run_id))
        pipe.hgetall(store.keys.failures(run_id))
        pipe.lrange(store.keys.forks(run_id), 0, -1)
        for key in (INPUT, *keys):
            pipe.hstrlen(store.keys.outputs(run_id), key)
        for name in paged:
            pipe.hget(store.keys.results(run_id, name), ":page")
        for name in maps:
            pipe.hlen(store.keys.results(run_id, name))
        for name in starters:
            pipe.hget(store.keys.started(run_id), name)
        answers = iter(pipe.execute())
    raw_nodes, raw_failures, forks, input_size = (next(answers) for _ in range(4))
    sizes, pages, done, started = ({name: next(answers) for name in names} for names in (keys, paged, maps, starters))
    outputs = _small_outputs(store, run_id, {INPUT: input_size, **sizes})
    records = {name.decode(): read_record(text) for name, text in raw_nodes.items()}
    lines = read_lines(raw_failures.pop(LOG_FIELD, None))
    log = tuple(replace(line, text=store.redaction.prose(line.text)) for line in lines)
    failures = {name.decode(): store.redaction.failure_of(text) for name, text in raw_failures.items()}
    reader = _Reader(store, plan, record.fields, records, failures, outputs, sizes, pages, done, started)
    return RunView(
        run=row_of(store, run_id, record.fields, records),
        plan=plan,
        nodes=tuple(reader.rows()),
        input=_shown(store, outputs.get(INPUT)),
        input_size=input_size,
        verdict=record.fields.get("verdict", ""),
        log=log,
        scheduled=instant(record.fields.get("scheduled")),
        forked_from=record.fields.get("forked_from"),
        forked_at=record.fields.get("forked_at"),
        forks=tuple(each.decode() for each in forks),
    )


def _small_outputs(store: Store, run_id: str, sizes: Mapping[str, int]) -> dict[str, bytes]:
    wanted = [key for key, size in sizes.items() if 0 < size <= READ_WHOLE]
    if not wanted:
        return {}
    with store.guarded():
        values = store.client.hmget(store.keys.outputs(run_id), wanted)
    return {key: value for key, value in zip(wanted, values, strict=True) if value is not None}


def _shown(store: Store, value: bytes | None, key: str = "") -> str | None:
    if value is None or value.startswith(IN_PARTS):
        return None
    text = json.dumps(HIDDEN) if store.redaction.hides(key) else store.redaction.text(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def show_iteration(store: Store, run_id: str, node: NodeRow, number: int) -> str | None:
    """Return the stored output of an iteration as a view has outputs; None if it is not stored, or over 64 KiB."""
    key, field = store.keys.results(run_id, node.name), str(number)
    with store.guarded():
        size: int = store.client.hstrlen(key, field)
        value = store.client.hget(key, field) if 0 < size <= READ_WHOLE else None
    return _shown(store, value, node.key)


@dataclass(frozen=True)
class _Reader:
    store: Store
    plan: Plan | None
    fields: Mapping[str, str]
    records: Mapping[str, dict[str, Any]]
    failures: Mapping[str, NodeFailure]
    outputs: Mapping[str, bytes]
    sizes: Mapping[str, int]
    pages: Mapping[str, bytes | None]
    done: Mapping[str, int]
    started: Mapping[str, bytes | None]

    def rows(self) -> Sequence[NodeRow]:
        """Return the rows in the order of the plan, items behind their node."""
        if self.plan is None:
            return ()
        items: dict[str, list[str]] = {}
        for name in self.records:
            if name not in self.plan.nodes:
                items.setdefault(node_of(name), []).append(name)
        found = []
        places = {name: place for place, name in enumerate(name for step in self.plan.steps for name in step.nodes)}
        for name, node in sorted(self.plan.nodes.items(), key=lambda each: places.get(each[0], len(places))):
            if not node.undoes or name in self.records:
                found.append(self._row(name, node))
            found += [self._row(item, node) for item in sorted(items.get(name, ()), key=_index_of)]
        return found

    def _row(self, name: str, node: NodePlan) -> NodeRow:
        record = self.records.get(name, {})
        is_item = name != node.name
        output = None if is_item else self.outputs.get(node.key)
        is_in_parts = output is not None and output.startswith(IN_PARTS)
        busy = record.get("busy")
        pages = self.pages.get(name)
        detail = record.get("detail")
        number, _, last = (self.started.get(name) or b"").decode().partition(" ")
        return NodeRow(
            name=name,
            kind=node.kind,
            step=node.step,
            state=record.get("state") or self._state_of_map(node),
            attempt=record.get("attempt", 0),
            # Of a flow node those that may start a child; what was lost before that has come on top.
            attempts=max(node.children or node.attempts, record.get("attempt", 0)),
            queue=node.queue,
            task=node.task,
            key="" if is_item else node.key,
            output=_shown(self.store, output, node.key),
            output_size=None if is_item or is_in_parts else self.sizes.get(node.key) or None,
            since=instant(record.get("since")),
            started=instant(record.get("started")),
            ended=instant(record.get("ended")),
            due=instant(record.get("due")),
            deadline=instant(record.get("deadline")),
            holder=record.get("holder"),
            limit=record.get("bucket"),
            detail=None if detail is None else self.store.redaction.text(detail),
            failure=self.failures.get(name),
            choice=record.get("choice"),
            items=None if is_item or node.kind != "item" else self._items_of(node),
            pages=int(pages) if pages else None,
            undoes=node.undoes,
            first=instant(record.get("first")),
            busy=None if busy is None else timedelta(milliseconds=busy),
            waits=record.get("waits"),
            is_inherited=bool(record.get("inherited")),
            child=node.child,
            child_run=last.rpartition(" ")[2] or record.get("child") or None,
            child_count=int(number or 0),
        )

    def _is_at(self, node: NodePlan) -> bool:
        return int(self.fields["position"]) == node.step and "map_count" in self.fields

    def _state_of_map(self, node: NodePlan) -> str:
        """The state of a node without a record: of one that a map calls, what its items come to."""
        items = self._items_of(node) if node.kind == "item" else None
        if items is None:
            return "pending"
        if self._is_at(node) and not self.fields.get("finished"):
            return "running" if items.done or items.failed or items.running else "ready"
        return "succeeded" if items.done == items.count else "failed"

    def _items_of(self, node: NodePlan) -> MapCounts | None:
        assert self.plan is not None  # noqa: S101 - no row without it
        source = self.records.get(self.plan.steps[node.step].source, {})
        if source.get("state") not in {"succeeded", "compensating", "compensated"}:
            return None
        own = [record for name, record in self.records.items() if node_of(name) == node.name]
        failed = sum(
            node_of(name) == node.name != name and self.records.get(name, {}).get("state") not in OPEN_STATES
            for name in self.failures
        )
        return MapCounts(
            count=source.get("choice") or 0,
            done=self.done.get(node.name, 0),
            failed=min(failed, (source.get("choice") or 0) - self.done.get(node.name, 0)),
            running=sum(record["state"] == "running" for record in own),
        )


def _index_of(name: str) -> int:
    return int(name.partition("[")[2].rstrip("]") or 0)
