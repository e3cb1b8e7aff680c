"""Queries over many runs: pages of them by filters, newest first, and counts by flow and status.

An index is walked from the newest run to the oldest by one script, which checks every filter and answers the fields.
What a page shows of open nodes takes two more round trips at most. Indexes are kept by the scripts that move runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import redis

from orchestrator.definition.priority import count_of, priority_of
from orchestrator.definition.state import NodeFailure, RunStatus
from orchestrator.definition.step_plan import END
from orchestrator.store.keys import CHILD
from orchestrator.store.run_store import instant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from orchestrator.definition.plan import Plan
    from orchestrator.store.run_store import Store

CANDIDATES_A_CALL = 1000
CANDIDATES_A_REQUEST = 5000
LARGEST_PAGE = 1000
FIELDS = (
    *("flow", "status", "created", "finished", "tags", "key", "error", "epoch", "parent", "plan", "position"),
    *("running", "verdict", "open", "map_count", "held", "paused_for", "parent_node"),
)
CURSOR = re.compile(r"(\d{1,15})-([0-9a-f-]{32,36})")
OPEN = frozenset(str(status) for status in RunStatus if not status.is_final)
GROUPS = ("open", *(str(status) for status in RunStatus if status.is_final), "paused")
"""What the indexes tell apart: runs that have not ended, how the others ended, and which open ones are paused."""
ANY = "*"
"""A parent of list_runs.lua: any, or none."""
SHOWN = 3
"""Names of open nodes in one line of a page."""
LOOKED_AT = 50
"""Records of a step that are read for it."""


@dataclass(frozen=True)
class Filter:
    """The runs of a listing: those that pass every part that is given.

    Attributes:
        flow: Name of the flow.
        statuses: Any of these; empty for all.
        since, until: Created at or after, and before; aware.
        tags: Every one of them has this value.
        parent: Children of this run; None for runs without a parent.
        children: Whether, without a parent, children are listed too.
        text: A part of the id, of the idempotency key, or of the type, message or node of the error; of ASCII,
            letters of either case.
    """

    flow: str | None = None
    statuses: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    tags: Mapping[str, str] | None = None
    parent: str | None = None
    text: str | None = None
    children: bool = False


@dataclass(frozen=True)
class RunRow:
    """One run as a list shows it, read at one instant.

    Attributes:
        id: The run.
        flow: Its flow.
        status: Where it stood.
        created: When it was started; aware, on Redis's clock.
        finished: When it ended, or None.
        tags: The tags given at its start, without what `Settings.redact` names.
        key: Its idempotency key, at most 200 characters of it, or None; None too of runs that an older version started.
        error: Its first failure, or None.
        epoch: Rises with each resume, from 1.
        priority: The broker's number with which its messages are sent; None if its start gave none.
        parent: The run that it is a child of, or None.
        parent_node: The node of that run, or the item of a map, that has started it, or None.
        plan: Hash of its plan.
        position: Index of the step where it stands, -1 past the last one.
        steps: How many steps its plan has; 0 if the plan is gone.
        done_steps: How many of them lie behind it.
        nodes_running: Attempts in progress.
        waits_for: The open nodes at its position and what each does, in words; empty for a run that has ended.
    """

    id: str
    flow: str
    status: RunStatus
    created: datetime
    finished: datetime | None
    tags: Mapping[str, str]
    key: str | None
    error: NodeFailure | None
    epoch: int
    priority: int | None
    parent: str | None
    plan: str
    position: int
    steps: int
    done_steps: int
    nodes_running: int
    waits_for: str
    parent_node: str | None = None

    @property
    def waits_for_worker(self) -> bool:
        """Whether an open node at its position, or a map there, waits for a worker, as far as a list tells."""
        return "(ready)" in self.waits_for or "items are open)" in self.waits_for

    @property
    def duration(self) -> timedelta:
        """From its start to its end, or to now while it has not ended."""
        # Two clocks: this process's may be behind Redis's, which `created` is from.
        return max((self.finished or datetime.now(UTC)) - self.created, timedelta(0))

    def to_json(self) -> dict[str, Any]:
        """Return the row as JSON values; `duration` is in seconds."""
        return as_json(self) | {"duration": self.duration.total_seconds()}


@dataclass(frozen=True)
class Listed:
    """One page of a listing.

    Attributes:
        rows: The runs, newest first.
        cursor: Where the next page begins; None if there is nothing older.
        searched_back_to: When the oldest candidate was created, if the search ended before the page was full and before
            the oldest run; else None.
    """

    rows: tuple[RunRow, ...]
    cursor: str | None
    searched_back_to: datetime | None


@dataclass(frozen=True)
class FlowCounts:
    """How many runs of one flow there are by status; `open` are those that have not ended, `paused` a part of them."""

    flow: str
    open: int
    succeeded: int
    failed: int
    cancelled: int
    compensation_failed: int
    paused: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        return as_json(self)


def as_json(row: Any) -> dict[str, Any]:
    """Return a dataclass of a query as JSON values: instants in ISO 8601, spans in seconds."""
    return {field.name: json_value(getattr(row, field.name)) for field in fields(row)}


def json_value(value: Any) -> Any:
    """Return a value in a result of a query as JSON values."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, NodeFailure):
        return value.model_dump()
    if is_dataclass(value):
        return as_json(value)
    if isinstance(value, Mapping):
        return {str(name): json_value(each) for name, each in value.items()}
    return [json_value(each) for each in value] if isinstance(value, tuple | list) else value


def statuses_of(status: str | Collection[str] | None) -> tuple[str, ...]:
    """Return statuses as given to `Orchestrator.runs`.

    Raises:
        ValueError: There is no such status.
    """
    given = () if status is None else (status,) if isinstance(status, str) else tuple(status)
    for each in given:
        if each not in list(RunStatus):
            raise ValueError(f"{each!r} is not a run's status; use one of {', '.join(RunStatus)}")
    return tuple(str(each) for each in given)


def list_runs(store: Store, wanted: Filter, *, limit: int, cursor: str | None = None) -> Listed:
    """Return a page of runs; at most 5,000 candidates are looked at.

    Raises:
        ValueError: The cursor is none of an earlier page, the limit is out of range, or an instant is naive.
    """
    if not 1 <= limit <= LARGEST_PAGE:
        raise ValueError(f"limit must be 1 to {LARGEST_PAGE}, not {limit}; read more pages by their cursor")
    for name, at in (("since", wanted.since), ("until", wanted.until)):
        if at is not None and at.tzinfo is None:
            raise ValueError(f"{name} must be an aware datetime, such as datetime.now(UTC)")
    newest, before = _begin(wanted, cursor)
    groups = _groups(store, wanted)
    found: list[list[str]] = []
    looked, is_over = 0, False
    # A part at a time: one call that walked all of them would hold the server for every other client.
    while looked < CANDIDATES_A_REQUEST and len(found) < limit and not is_over:
        with store.guarded():
            newest, before, is_over, rows = store.scripts.list_runs(
                groups,
                candidates=CANDIDATES_A_CALL,
                wanted=limit - len(found),
                newest=newest,
                oldest=_oldest(wanted),
                before=before,
                statuses=wanted.statuses,
                flow=wanted.flow or "",
                parent=wanted.parent or (ANY if wanted.children else ""),
                tags=wanted.tags or {},
                text=_in_small_letters(wanted.text or ""),
                fields=FIELDS,
            )
        looked += CANDIDATES_A_CALL
        found += rows
    following = None if is_over else f"{newest}-{before}"
    searched = None if is_over or len(found) >= limit else instant(newest)
    return Listed(tuple(_read_rows(store, found)), following, searched)


def last_runs(store: Store, flows: Collection[str], *, limit: int) -> dict[str, tuple[RunRow, ...]]:
    """Return the newest runs of flows, at most so many of each among its last 1,000, in three round trips at most.

    Children are among them.

    Raises:
        StoreError: Redis.
    """
    if not flows:
        return {}
    groups = {flow: _groups(store, Filter(flow, children=True)) for flow in flows}
    with store.guarded():
        answers = store.scripts.list_runs_of(
            groups,
            candidates=CANDIDATES_A_CALL,
            wanted=limit,
            newest="+inf",
            oldest="-inf",
            before="",
            parent=ANY,
            fields=FIELDS,
        )
    found: dict[str, list[RunRow]] = {flow: [] for flow in flows}
    for row in _read_rows(store, [each for *_, rows in answers for each in rows]):
        found[row.flow].append(row)
    return {flow: tuple(rows) for flow, rows in found.items()}


def _in_small_letters(text: str) -> str:
    """As the script has them: it knows the letters of ASCII only."""
    return "".join(letter.lower() if letter.isascii() else letter for letter in text)


def _begin(wanted: Filter, cursor: str | None) -> tuple[str, str]:
    if cursor is not None:
        place = CURSOR.fullmatch(cursor)
        if place is None:
            raise ValueError(f"{cursor!r} is not the cursor of a page; use RunPage.cursor as it came")
        return place[1], place[2]
    if wanted.until is None:
        return "+inf", ""
    return f"({_ms(wanted.until)}", ""


def _oldest(wanted: Filter) -> str:
    return "-inf" if wanted.since is None else str(_ms(wanted.since))


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def _groups(store: Store, wanted: Filter) -> list[list[str]]:
    """Indexes to choose from: every run that passes is in some index of each group."""
    keys, statuses = store.keys, wanted.statuses or tuple(RunStatus)
    open_ones = [status for status in statuses if status in OPEN]
    families = (CHILD,) if wanted.parent is not None else _families(children=wanted.children)
    ended = [str(status) for status in statuses if status not in OPEN]
    parts = [family + group for family in families for group in (*["open"] * bool(open_ones), *ended)]
    groups = [[keys.by_tag(name, (wanted.tags or {})[name])] for name in _indexed_tags(store, wanted)]
    if wanted.parent is not None:
        groups.append([keys.children(wanted.parent)])
    if wanted.flow is not None:
        flow = wanted.flow
        groups.append([*(keys.by_flow(flow, part) for part in parts), keys.older_by_flow(flow)])
    else:
        older = [status for status in open_ones if status != "paused"]  # as version 0.1.0 has them
        groups.append([*map(keys.by_status, parts), *map(keys.by_status, older)])
    return groups


def _families(*, children: bool) -> tuple[str, ...]:
    return ("", CHILD) if children else ("",)


def _indexed_tags(store: Store, wanted: Filter) -> list[str]:
    return [name for name in wanted.tags or {} if name in store.settings.indexed_tags]


def _read_rows(store: Store, found: Sequence[list[str]]) -> list[RunRow]:
    runs = [(values[0], dict(zip(FIELDS, values[1:], strict=True))) for values in found]
    plans = store.plans({stored["plan"] for _, stored in runs})
    records = _open_records(store, runs, plans)
    return [_row(store, run_id, stored, plans.get(stored["plan"]), records.get(run_id, {})) for run_id, stored in runs]


def _open_records(
    store: Store, runs: Iterable[tuple[str, Mapping[str, str]]], plans: Mapping[str, Plan]
) -> dict[str, dict[str, dict[str, Any]]]:
    asked: list[tuple[str, tuple[str, ...]]] = []
    for run_id, stored in runs:
        plan, position = plans.get(stored["plan"]), int(stored["position"])
        if plan is not None and position != END and not RunStatus(stored["status"]).is_final:
            asked.append((run_id, plan.steps[position].nodes[:LOOKED_AT]))
    if not asked:
        return {}
    with store.guarded():
        pipe = store.client.pipeline(transaction=False)
        for run_id, names in asked:
            pipe.hmget(store.keys.nodes(run_id), names)
        answers = pipe.execute(raise_on_error=False)
        return {run_id: _readable(names, answer) for (run_id, names), answer in zip(asked, answers, strict=True)}


def _readable(names: Sequence[str], answer: Any) -> dict[str, dict[str, Any]]:
    """The records of one run that can be read: what is damaged of it must not hide the other runs of a list."""
    if isinstance(answer, redis.RedisError):
        if str(answer).startswith("WRONGTYPE"):
            return {}
        raise answer
    return {name: read_record(text) for name, text in zip(names, answer, strict=True) if text}


def read_record(text: bytes) -> dict[str, Any]:
    """Return the record of a node; one that is damaged has a state of its own, so that the rest of its run is shown."""
    try:
        record: dict[str, Any] = json.loads(text)
    except ValueError:
        return {"state": "unreadable"}
    return record


def row_of(store: Store, run_id: str, stored: Mapping[str, str], records: Mapping[str, dict[str, Any]]) -> RunRow:
    """Return the row of one run, whose fields and records are read."""
    return _row(store, run_id, stored, store.plan(stored["plan"]), records)


def _row(
    store: Store, run_id: str, stored: Mapping[str, str], plan: Plan | None, records: Mapping[str, dict[str, Any]]
) -> RunRow:
    status, position = RunStatus(stored["status"]), int(stored["position"])
    created, error = instant(stored["created"]), stored.get("error")
    assert created is not None  # noqa: S101 - start.lua always writes it
    steps = len(plan.steps) if plan else 0
    done = steps if status is RunStatus.SUCCEEDED or position == END else min(position, steps)
    return RunRow(
        id=run_id,
        flow=stored["flow"],
        status=status,
        created=created,
        finished=instant(stored.get("finished")),
        tags=store.redaction.value(json.loads(stored["tags"])),
        key=stored.get("key") or None,
        error=store.redaction.failure_of(error) if error else None,
        epoch=count_of(int(stored["epoch"])),
        priority=priority_of(int(stored["epoch"])),
        parent=stored.get("parent") or None,
        plan=stored["plan"],
        position=END if status is RunStatus.SUCCEEDED else position,
        steps=steps,
        done_steps=done,
        nodes_running=int(stored["running"]),
        waits_for="" if status.is_final or plan is None else _waits_for(plan, position, stored, records),
        parent_node=stored.get("parent_node") or None,
    )


def _waits_for(plan: Plan, position: int, stored: Mapping[str, str], records: Mapping[str, dict[str, Any]]) -> str:
    if stored.get("held"):
        return "somebody to resume it" + (f": {stored['paused_for']}" if stored.get("paused_for") else "")
    if stored.get("verdict"):
        running = int(stored["running"])
        return f"{running} running nodes, then compensations" if running else "compensations"
    step = plan.steps[position]
    if step.rules.is_map:
        return f"{step.nodes[0]} ({int(stored['open']):,} of {int(stored['map_count']):,} items are open)"
    told = [f"{name} ({doing})" for name in step.nodes[:LOOKED_AT] if (doing := _doing(records.get(name)))]
    left = int(stored["open"]) - min(len(told), SHOWN)
    return ", ".join(told[:SHOWN]) + (f" and {left} more" if left > 0 and told else "")


def _doing(record: Mapping[str, Any] | None) -> str:
    state = "" if record is None else str(record["state"])
    if record is None or state not in {"ready", "running", "parked", "waiting", "paused"}:
        return ""
    if state == "waiting":
        return str(record.get("waits", state))
    if state == "paused":
        return f"stands after attempt {record['attempt']}"
    if state != "parked":
        return state
    return f"limit {record['bucket']}" if record.get("bucket") else f"retry after attempt {record['attempt']}"


def count_runs(
    store: Store,
    flows: Collection[str],
    *,
    children: bool = False,
    since: datetime | None = None,
    until: datetime | None = None,
) -> tuple[FlowCounts, ...]:
    """Return counts of flows by status, in one round trip.

    Args:
        store: Where they are.
        flows: Names of flows.
        children: Whether children are counted too.
        since: Only runs created at or after this instant; aware.
        until: Only runs created before this instant; aware.
    """
    names = sorted(flows)
    between = "-inf" if since is None else str(_ms(since)), "+inf" if until is None else f"({_ms(until)}"
    counts = _cards(store, [partial(store.keys.by_flow, flow) for flow in names], children=children, between=between)
    return tuple(FlowCounts(flow, *found) for flow, found in zip(names, counts, strict=True))


def count_all(store: Store, *, children: bool = False) -> FlowCounts:
    """Return counts of all runs by status, of children too if they are asked for; the flow is empty. One round trip."""
    return FlowCounts("", *_cards(store, [store.keys.by_status], children=children, between=("-inf", "+inf"))[0])


def _cards(
    store: Store, indexes: Sequence[Callable[[str], str]], *, children: bool, between: tuple[str, str]
) -> list[list[int]]:
    """Return of each index how many runs every group has in a range of instants."""
    if not indexes:
        return []
    families = _families(children=children)
    with store.guarded():
        pipe = store.client.pipeline(transaction=False)
        for index in indexes:
            for group in GROUPS:
                for family in families:
                    pipe.zcount(index(family + group), *between)
        cards: list[int] = pipe.execute()
    sums = [sum(cards[at : at + len(families)]) for at in range(0, len(cards), len(families))]
    return [sums[at : at + len(GROUPS)] for at in range(0, len(sums), len(GROUPS))]


def run_of_key(store: Store, flow: str, key: str) -> str | None:
    """Return the run that an idempotency key of a flow started, as long as its record lives."""
    with store.guarded():
        found: bytes | None = store.client.hget(store.keys.idempotency(flow, key), "run")
    return None if found is None else found.decode()
