"""Statistics of flows: how many runs ended, how and in which hour, and how long runs and nodes took.

Every end is counted by the script that ends a run. Durations are a sample: the leading reconciler reads some of the
runs that have ended and adds them to buckets whose bounds grow by a fifth, one hash for each flow and day.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from orchestrator.store.queries import as_json
from orchestrator.store.standing import RUN_ID
from orchestrator.store.tagged_ends import count_tagged_ends
from orchestrator.store.totals import KEPT_S, RunEnd, duration_fields, end_field

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from orchestrator.definition.plan import Plan
    from orchestrator.store.run_store import Store

DAY_S, HOUR_S = 86_400, 3_600
MOST_HOURS = 7 * 24
A_DOUBLING = 4
"""Buckets from a duration to twice as much."""
EVENTS_AT_ONCE, READS_AT_MOST = 500, 20
SAMPLE = 50
"""Ended runs whose nodes are read in one sweep."""
NODES_AT_MOST = 50
FIELDS_AT_MOST = 1500
"""Fields of one flow's day: each has at most some 40 bytes, so that it stays under 64 KB."""
PLACE = "measured"


@dataclass(frozen=True)
class Durations:
    """How long something took: how many were measured, and what half and 95 of 100 of them did not exceed."""

    count: int
    p50: timedelta | None
    p95: timedelta | None


@dataclass(frozen=True)
class HourEnds:
    """How many runs ended with a status in the hour that begins at an instant."""

    hour: datetime
    status: str
    count: int


@dataclass(frozen=True)
class FlowStatistics:
    """What became of a flow's runs lately.

    Attributes:
        flow: The flow.
        ends: Every status with which runs ended, and how many did.
        by_hour: The same by hour, oldest first; exact.
        runs: Durations of the runs that were measured.
        nodes: The same of each node, from its start to its end; of a map and of compensations there are none.
        sampled: Share of the ended runs whose nodes were measured, from 0 to 1.
    """

    flow: str
    ends: Mapping[str, int]
    by_hour: tuple[HourEnds, ...]
    runs: Durations
    nodes: Mapping[str, Durations]
    sampled: float

    def to_json(self) -> dict[str, Any]:
        """Return the statistics as JSON values."""
        return as_json(self)


def bucket_of(duration_ms: float) -> int:
    """Return the number of the bucket that a duration belongs to."""
    return math.ceil(math.log2(max(1.0, duration_ms)) * A_DOUBLING)


def longest_in(bucket: int) -> timedelta:
    """Return the longest duration of a bucket."""
    return timedelta(milliseconds=round(2 ** (bucket / A_DOUBLING)))


def durations_of(buckets: Mapping[int, int]) -> Durations:
    """Return what buckets with so many durations each come to."""
    count = sum(buckets.values())
    return Durations(count, *(_share(buckets, count, part) for part in (0.5, 0.95)))


def _share(buckets: Mapping[int, int], count: int, part: float) -> timedelta | None:
    below = 0
    for bucket in sorted(buckets):
        below += buckets[bucket]
        if below >= part * count:
            return longest_in(bucket)
    return None


def read_statistics(store: Store, flows: Collection[str], *, hours: int) -> tuple[FlowStatistics, ...]:
    """Return the statistics of flows over the last hours, in two round trips."""
    with store.guarded():
        now_s = store.now_ms() // 1000
        first = now_s // HOUR_S - hours + 1
        days = range(first * HOUR_S // DAY_S, now_s // DAY_S + 1)
        pipe = store.client.pipeline(transaction=False)
        for day in days:
            pipe.hgetall(store.keys.ends(day))
        for flow in flows:
            for day in days:
                pipe.hgetall(store.keys.durations(flow, day))
        answers = pipe.execute()
    by_flow: dict[str, list[HourEnds]] = {flow: [] for flow in flows}
    for rows in answers[: len(days)]:
        for name, count in rows.items():
            hour, flow, status = name.decode().split("|")
            if int(hour) >= first and flow in by_flow:
                by_flow[flow].append(HourEnds(datetime.fromtimestamp(int(hour) * HOUR_S, UTC), status, int(count)))
    measured = answers[len(days) :]
    return tuple(
        _statistics_of(flow, ends, measured[at * len(days) : (at + 1) * len(days)])
        for at, (flow, ends) in enumerate(by_flow.items())
    )


def _statistics_of(flow: str, by_hour: list[HourEnds], days: Sequence[Mapping[bytes, bytes]]) -> FlowStatistics:
    buckets: dict[str, Counter[int]] = {}
    totals: Counter[str] = Counter()
    for rows in days:
        for name, count in rows.items():
            what, _, bucket = name.decode().rpartition("|")
            if what:
                buckets.setdefault(what, Counter())[int(bucket)] += int(count)
            else:
                totals[bucket] += int(count)
    ends: Counter[str] = Counter()
    for each in by_hour:
        ends[each.status] += each.count
    runs = buckets.pop(":run", Counter())
    return FlowStatistics(
        flow=flow,
        ends=dict(sorted(ends.items())),
        by_hour=tuple(sorted(by_hour, key=lambda each: (each.hour, each.status))),
        runs=durations_of(runs),
        nodes={name: durations_of(counts) for name, counts in sorted(buckets.items())},
        sampled=min(1.0, totals["sampled"] / totals["seen"]) if totals["seen"] else 0.0,
    )


@dataclass(frozen=True)
class NodeSpan:
    """How long a node of an ended run took, and how long it had been ready before, in ms; and its queue."""

    node: str
    queue: str
    duration_ms: int
    wait_ms: int


class Measurer:
    """Adds the durations of runs that have ended to the statistics; the leading reconciler calls it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def measure(self) -> None:
        """Add what ended since any leader last did: of every run its duration, of some the durations of nodes."""
        ends = list(self._new_ends())
        if not ends:
            return
        counts: dict[str, Counter[str]] = {}
        keys = self._store.keys

        def add(key: str, fields: Mapping[str, int]) -> None:
            counts.setdefault(key, Counter()).update(fields)

        for end in ends:
            day, total = keys.durations(end.flow, end.at_s // DAY_S), keys.totals(end.flow)
            add(day, {f":run|{bucket_of(end.duration_ms)}": 1, "seen": 1})
            add(total, {end_field(end.status): 1} | duration_fields("run", "", end.duration_ms))
        for end, nodes in self._nodes_of(ends[:: max(1, math.ceil(len(ends) / SAMPLE))]):
            day, total = keys.durations(end.flow, end.at_s // DAY_S), keys.totals(end.flow)
            add(day, {"sampled": 1})
            for each in nodes:
                add(day, {f"{each.node}|{bucket_of(each.duration_ms)}": 1})
                add(total, duration_fields("node", each.node, each.duration_ms))
                add(total, duration_fields("wait", each.queue, each.wait_ms))
        self._add(counts)
        count_tagged_ends(self._store, ends)

    def _new_ends(self) -> Iterator[RunEnd]:
        store = self._store
        last = store.client.hget(store.keys.sweep, PLACE)
        if last is None:  # what ended before anybody measured is left out
            newest = store.client.xrevrange(store.keys.events, count=1)
            store.client.hset(store.keys.sweep, PLACE, newest[0][0] if newest else b"0")
            return
        for _ in range(READS_AT_MOST):
            entries = store.client.xrange(store.keys.events, min=b"(" + last, count=EVENTS_AT_ONCE)
            for entry, row in entries:
                if row[b"event"] not in {b"started", b"resumed"}:
                    event, flow, run_id = (row[name].decode() for name in (b"event", b"flow", b"run"))
                    yield RunEnd(int(entry.split(b"-")[0]) // 1000, flow, event, float(row[b"detail"] or 0), run_id)
            if entries:
                last = entries[-1][0]
                # Before any of them is added: a crash in between loses some of a sample, and none is ever counted
                # twice.
                store.client.hset(store.keys.sweep, PLACE, last)
            if len(entries) < EVENTS_AT_ONCE:  # at rest, one read is all
                return

    def _nodes_of(self, ends: Sequence[RunEnd]) -> Iterator[tuple[RunEnd, list[NodeSpan]]]:
        store = self._store
        known = [end for end in ends if RUN_ID.fullmatch(end.run_id)]
        pipe = store.client.pipeline(transaction=False)
        for end in known:
            pipe.hget(store.keys.run(end.run_id), "plan")
        hashes = [found.decode() if found else "" for found in pipe.execute()]
        plans = store.plans(set(hashes) - {""})
        asked = [(end, plans[plan]) for end, plan in zip(known, hashes, strict=True) if plan in plans]
        pipe = store.client.pipeline(transaction=False)
        names = [[name for step in plan.steps for name in step.nodes][:NODES_AT_MOST] for _, plan in asked]
        for (end, _), own in zip(asked, names, strict=True):
            pipe.hmget(store.keys.nodes(end.run_id), own)
        for (end, plan), own, texts in zip(asked, names, pipe.execute() if asked else (), strict=True):
            yield end, list(_spans(plan, zip(own, texts, strict=True)))

    def _add(self, counts: Mapping[str, Counter[str]]) -> None:
        client = self._store.client
        pipe = client.pipeline(transaction=False)
        for key in counts:
            pipe.hlen(key)
        sizes = pipe.execute()
        pipe = client.pipeline(transaction=False)
        for (key, counted), size in zip(counts.items(), sizes, strict=True):
            for name, count in counted.items():
                # The size was read before: two leaders may add a few fields more, which does no harm.
                if size < FIELDS_AT_MOST or name.startswith(":run") or "|" not in name or "|run|" in name:
                    pipe.hincrby(key, name, count)
            pipe.pexpire(key, KEPT_S * 1000)
        pipe.execute()


def _spans(plan: Plan, records: Iterator[tuple[str, bytes | None]]) -> Iterator[NodeSpan]:
    for name, text in records:
        record = json.loads(text) if text else {}
        if "started" in record and "ended" in record:
            started, queue = record["started"], plan.nodes[name].queue
            wait_ms = max(0, started - record.get("since", started))
            yield NodeSpan(name, queue, max(0, record["ended"] - started), wait_ms)
