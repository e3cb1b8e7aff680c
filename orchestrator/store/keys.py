"""The name, type and lifetime of every Redis key.

Names that a user chose are either checked by `build()` or hashed here, so that no name can reach another key.

| key | type | lifetime |
|---|---|---|
| run:<id> | hash: status, position, join count, verdict, error, tags | until retention after the run's end |
| run:<id>:nodes | hash: node name to its record (JSON) | as the run |
| run:<id>:outputs | hash: output key to JSON; `:input` is the run's input | as the run |
| run:<id>:failures | hash: node name to its last failure (JSON); `:log` has lines of ctx.logger | as the run |
| run:<id>:told | list, capped: what happened to the run, see history.py | as the run |
| run:<id>:history | stream, capped: the same, as version 0.1.0 wrote it | as the run |
| run:<id>:items:<node> | hash: index to JSON of the items of a map | as the run |
| run:<id>:results:<node> | hash: index to JSON of the outputs of a map, or of pages; see pages.lua | as the run |
| run:<id>:open | set: items of the present map that have begun and not ended | as the run |
| run:<id>:again | list: items of the present map to be repeated | as the run |
| run:<id>:saga | list: compensations in order | as the run |
| run:<id>:inbox | hash: what was sent for signals and not taken yet, see gates.lua | as the run |
| run:<id>:children | hash: node to how many children it has started, and the last one, see children.lua | as the run |
| run:<id>:forks | list: runs that are forks of it, by their start | as the run |
| run:<id>:order | sorted set: compensations by the order of completion of their nodes | until all are in order |
| run:<id>:listed | list: what is in order so far | until it is the saga |
| run:<id>:staged:<token> | hash: items of a map that are being written | until they are taken over, or an hour |
| idem:<flow>:<sha256 of the key> | hash: run id and digest of the input | as the run |
| plan:<hash> | hash: the plan's text and its facts for the scripts | while announced or a run pins it, then retention |
| flows | hash: flow name to its announced plan hash | for ever, one field a flow |
| limits | hash: limit to interval, burst, bounds; slots to 0 and number | for ever, a field a limit and none a key |
| limits:set | hash: limit whose numbers an operator has set, to the code's numbers | until the code has others |
| limits:tat:<bucket> | string: theoretical arrival time of GCRA, microseconds | until the bucket is full again |
| limits:line:<bucket> | sorted set: run and node in the wait queue, by first arrival | while something waits |
| limits:released:<bucket> | sorted set: run and node released from the wait queue | while one has not claimed |
| limits:frozen:<bucket> | string: frozen until, microseconds | until then |
| limits:asking:<bucket> | sorted set: run, node and token of attempts that ask within, by last time | two seconds |
| limits:pace:<bucket> | hash: interval that an adaptive bucket has found, microseconds | a day after its last use |
| limits:held:<slots> | sorted set: run, node and token of each claim with a slot, by its start | while one is held |
| lines | sorted set: buckets with a wait queue that is not empty, by next look | while something waits |
| index:status:<group> | sorted set: run ids by creation: `open`, `failed`..., `child_open`... | entries as the runs |
| index:flow:<flow>:<group> | sorted set: the same of one flow | entries as the runs |
| index:tag:<hash of name and value> | sorted set: the same with a tag of Settings.indexed_tags | entries as the runs |
| index:children:<id> | sorted set: run ids of a run's children by creation | entries as the runs |
| index:lane:<lane> | sorted set: runs that go on in a lane, see lanes.lua, by admission | while there are any |
| index:lane:<lane>:queued | sorted set: runs that wait for their turn, by their start | while there are any |
| index:waiting:<kind> | sorted set: run and node that wait for somebody outside, by since when | while they wait |
| index:expiring_tags | sorted set: index by tag and run by the end of its retention | entries until then |
| index:flow:<flow>, index:status:<pending...> | as version 0.1.0 has them | until mend_indexes.lua moves them |
| stats:<flow>:<day> | hash: node and bucket to how many durations, see statistics.py | 8 days |
| stats:tags | sorted set: tag and value (JSON) that have totals, by the last run's end | 8 days after the last |
| stats:tags:<hash of tag and value> | hash: ends and durations, see tagged_ends.py | 8 days after the last |
| stats:<flow>:total | hash: ends and durations, never taken back, see totals.py | 8 days after the last |
| events:nodes | stream, capped: nodes that wait, and ends of nodes without a process | for ever |
| events:attempts:<flow> | hash: outcome and node to attempts without an output | 8 days after the last |
| events:<day> | hash: hour, flow and status to how many runs ended so | 8 days |
| index:expiring | sorted set: ended runs by the end of their retention | entries until then |
| live | sorted set: unfinished runs by the next look of the reconciler | entries until the run's end |
| timers | sorted set: run and node (empty: the run's deadline) by due instant | entries until due |
| timers:wake | list of at most one: something that comes soon was stored | until a leader has read it |
| holders | sorted set: pool processes by the end of their lease | entries until the process is gone |
| holders:<id> | hash: run, node to token and deadline of an open claim | while it has one |
| received | sorted set: run and node whose message waits in a worker that replaces processes, by until when | seconds |
| workers | sorted set: workers by the end of their lease | entries until the worker is gone |
| workers:<id> | string: queues and nodes of a worker (JSON) | one lease and ten minutes |
| aside | hash: kind and name to what is wrong with a part that is set aside (JSON) | until it works or is gone |
| sweep | hash: last tick of the reconciler | for ever |
| sweep:<worker> | string: number and instant of its last sweep, and events by then | a day |
| lost | string: writes that are gone, see lost_writes.py (JSON) | a day |
| evicts | string: why no run is started, for the server throws keys of live runs away | a while, set again and again |
| leader | string: who reconciles | two periods of the reconciler |
| cursors | hash: flow and source to version and cursor (JSON) | for ever, one field a source |
| slots | hash: schedule to its last instant | while the schedule is in the code |
| events | stream, capped: starts and ends of runs, for monitors | for ever |
| done:<id> | channel: the run has ended | |
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from redis.crc import key_slot

from orchestrator.lazy import lazy

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


CHILD = "child_"
"""What groups of children in the indexes begin with."""


def bucket_of(limit: str, key: str) -> str:
    """The bucket that a limit has for a key; nothing of the key is in its name but a hash."""
    # surrogatepass: half of a surrogate pair, which is a legal text in Python and JSON, cannot be encoded and would
    # raise.
    return f"{limit}#{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def tag_indexes(tags: Mapping[str, str], indexed: Collection[str]) -> list[str]:
    """The ends of the names of the indexes of a run's tags; nothing of a value is in them but a hash."""
    # As a list, not joined: two pairs that read alike when they are put together must not share an index.
    found = [json.dumps([name, tags[name]]).encode() for name in indexed if name in tags]
    return [f"tag:{hashlib.sha256(each).hexdigest()[:32]}" for each in found]


def child_id(parent: str, node: str, number: int) -> str:
    """The id of a node's child by its number: a UUID of version 8, as no other run has."""
    digest = hashlib.sha256(f"{parent}/{node}/{number}".encode()).hexdigest()
    variant = "89ab"[int(digest[15], 16) % 4]
    return f"{digest[:8]}-{digest[8:12]}-8{digest[12:15]}-{variant}{digest[16:19]}-{digest[19:31]}"


def is_child(run_id: str) -> bool:
    """Whether a run's id is that of a child."""
    return run_id[13:15] == "-8"


def family_of(run_id: str) -> str:
    """What the names of a run's groups in the indexes begin with, as family.lua has it."""
    return CHILD if is_child(run_id) else ""


def limit_of(bucket: str) -> str:
    """The limit whose numbers a bucket has."""
    return bucket.partition("#")[0]


@dataclass(frozen=True)
class Keys:
    """Every key under one prefix."""

    prefix: str

    def _named(self, *parts: str) -> str:
        return ":".join((self.prefix, *parts))

    def shares_slot(self, key: str) -> bool:
        """Whether a script on a run may write a key that is not one of these: of another slot, a cluster refuses it."""
        return "{" not in self.prefix or key_slot(key.encode()) == key_slot(self.prefix.encode())

    @lazy
    def runs(self) -> str:
        """The part that the names of all runs begin with."""
        return self._named("run")

    def run(self, run_id: str) -> str:
        """The run's own hash."""
        return self._named("run", run_id)

    def nodes(self, run_id: str) -> str:
        """Records of the run's nodes."""
        return self._named("run", run_id, "nodes")

    def outputs(self, run_id: str) -> str:
        """Outputs of the run's nodes, and its input."""
        return self._named("run", run_id, "outputs")

    def failures(self, run_id: str) -> str:
        """Last failure of each node."""
        return self._named("run", run_id, "failures")

    def results(self, run_id: str, node: str) -> str:
        """Outputs of a map's items."""
        return self._named("run", run_id, "results", node)

    def staged(self, run_id: str, token: str) -> str:
        """Items of a map before they are the run's."""
        return self._named("run", run_id, "staged", token)

    def history(self, run_id: str) -> str:
        """What happened to the run."""
        return self._named("run", run_id, "told")

    def older_history(self, run_id: str) -> str:
        """What version 0.1.0 wrote of it."""
        return self._named("run", run_id, "history")

    def forks(self, run_id: str) -> str:
        """Runs that are forks of it."""
        return self._named("run", run_id, "forks")

    def started(self, run_id: str) -> str:
        """The children that nodes have started last."""
        return self._named("run", run_id, "children")

    def done(self, run_id: str) -> str:
        """Channel on which the run's end is told."""
        return self._named("done", run_id)

    @lazy
    def plans(self) -> str:
        """The part that the names of plans begin with."""
        return self._named("plan")

    def plan(self, plan_hash: str) -> str:
        """A published plan."""
        return self._named("plan", plan_hash)

    def idempotency(self, flow: str, key: str) -> str:
        """Which run an idempotency key of a flow started."""
        return self._named("idem", flow, hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest())

    def holder(self, holder: str) -> str:
        """Open claims of one process."""
        return self._named("holders", holder)

    def by_flow(self, flow: str, group: str) -> str:
        """Runs of a flow that are "open", "paused" among them, or that ended with a status."""
        return self._named("index", "flow", flow, group)

    def by_status(self, group: str) -> str:
        """Runs that are "open", "paused" among them, or that ended with a status."""
        return self._named("index", "status", group)

    def older_by_flow(self, flow: str) -> str:
        """Runs of a flow that version 0.1.0 started."""
        return self._named("index", "flow", flow)

    def by_tag(self, name: str, value: str) -> str:
        """Runs with an indexed tag."""
        return self._named("index", *tag_indexes({name: value}, (name,)))

    def children(self, run_id: str) -> str:
        """Children of a run."""
        return self._named("index", "children", run_id)

    def lane(self, lane: str) -> str:
        """Runs that go on in a lane."""
        return self._named("index", "lane", lane)

    def queued(self, lane: str) -> str:
        """Runs that wait for their turn in a lane."""
        return self._named("index", "lane", lane, "queued")

    def waiting(self, kind: str) -> str:
        """What waits for somebody outside, by kind."""
        return self._named("index", "waiting", kind)

    def inbox(self, run_id: str) -> str:
        """What was sent for signals of a run."""
        return self._named("run", run_id, "inbox")

    def durations(self, flow: str, day: int) -> str:
        """Durations of a flow's runs and nodes that ended on a day, counted from 1970."""
        return self._named("stats", flow, str(day))

    def totals(self, flow: str) -> str:
        """Ends and durations of a flow's runs and nodes, never taken back."""
        return self._named("stats", flow, "total")

    @lazy
    def tag_values(self) -> str:
        """Values of tags that have totals of their own."""
        return self._named("stats", "tags")

    def tagged(self, pair: str) -> str:
        """Totals of a tag's value, given as JSON; nothing of it is in the name but a hash."""
        return self._named("stats", "tags", hashlib.sha256(pair.encode()).hexdigest()[:32])

    def attempts(self, flow: str) -> str:
        """Attempts of a flow's nodes that did not succeed, by outcome."""
        return self._named("events", "attempts", flow)

    def ends(self, day: int) -> str:
        """How many runs ended on a day, counted from 1970, by hour, flow and status."""
        return self._named("events", str(day))

    def bucket(self, name: str) -> list[str]:
        """Return the keys of a bucket: arrival time, wait queue, released members, frozen mark."""
        return [self._named("limits", part, name) for part in ("tat", "line", "released", "frozen")]

    def pace(self, bucket: str) -> str:
        """What an adaptive bucket has found."""
        return self._named("limits", "pace", bucket)

    def held(self, slots: str) -> str:
        """Claims that hold one of some slots."""
        return self._named("limits", "held", slots)

    @lazy
    def index(self) -> str:
        """Prefix of the indexes by flow and status."""
        return self._named("index")

    @lazy
    def expiring(self) -> str:
        """Ended runs by the end of their retention."""
        return self._named("index", "expiring")

    @lazy
    def expiring_tags(self) -> str:
        """Indexes by tag and run, by the end of its retention."""
        return self._named("index", "expiring_tags")

    @lazy
    def flows(self) -> str:
        """Announced flows."""
        return self._named("flows")

    @lazy
    def limits(self) -> str:
        """Numbers of the buckets."""
        return self._named("limits")

    @lazy
    def set_limits(self) -> str:
        """Limits whose numbers an operator has set."""
        return self._named("limits", "set")

    @lazy
    def wait_queues(self) -> str:
        """Buckets with a wait queue."""
        return self._named("lines")

    @lazy
    def live(self) -> str:
        """Unfinished runs."""
        return self._named("live")

    @lazy
    def timers(self) -> str:
        """Durable timers."""
        return self._named("timers")

    @lazy
    def holders(self) -> str:
        """Leases."""
        return self._named("holders")

    @lazy
    def received(self) -> str:
        """Nodes whose message waits in a worker that replaces its processes."""
        return self._named("received")

    @lazy
    def workers(self) -> str:
        """Workers that announced themselves."""
        return self._named("workers")

    def worker(self, worker: str) -> str:
        """What a worker announced of itself."""
        return self._named("workers", worker)

    def sweep_mark(self, worker: str) -> str:
        """What a leading worker has left with its last sweep."""
        return self._named("sweep", worker)

    @lazy
    def lost(self) -> str:
        """Writes that are gone."""
        return self._named("lost")

    @lazy
    def evicts(self) -> str:
        """Why no run is started."""
        return self._named("evicts")

    @lazy
    def sweep(self) -> str:
        """The reconciler's last tick."""
        return self._named("sweep")

    @lazy
    def wake(self) -> str:
        """Tells a leader that waits of what comes soon."""
        return self._named("timers", "wake")

    @lazy
    def aside(self) -> str:
        """What the reconciler has set aside."""
        return self._named("aside")

    @lazy
    def leader(self) -> str:
        """The reconciler's lock."""
        return self._named("leader")

    @lazy
    def slots(self) -> str:
        """Last instant of each schedule."""
        return self._named("slots")

    @lazy
    def cursors(self) -> str:
        """Where successful runs left their sources."""
        return self._named("cursors")

    @lazy
    def events(self) -> str:
        """Starts and ends of runs."""
        return self._named("events")

    @lazy
    def node_events(self) -> str:
        """Nodes that wait, and ends of nodes in no process of an attempt."""
        return self._named("events", "nodes")

    @lru_cache(maxsize=256)  # noqa: B019 - as below
    def of_fast_path(self, run_id: str, plan_hash: str) -> tuple[str, ...]:
        """The first ones of them, which a step from node to node needs: each key costs the server time."""
        return self.of_run(run_id, plan_hash)[:7]

    def of_start(self, run_id: str, plan_hash: str) -> tuple[str, ...]:
        """The keys that start.lua gets, in the order in which it binds them; behind them those that few starts need."""
        return (
            *(self.run(run_id), self.nodes(run_id), self.outputs(run_id), self.history(run_id), self.plan(plan_hash)),
            *(self.live, self.timers, self.events, self.index, self.limits, self.evicts),
        )

    @lru_cache(maxsize=256)  # noqa: B019 - there are as many of these objects as prefixes
    def of_run(self, run_id: str, plan_hash: str) -> tuple[str, ...]:
        """The keys that every transition of a run gets, in the order in which keys.lua binds them."""
        return (
            self.run(run_id),
            self.nodes(run_id),
            self.outputs(run_id),
            self.history(run_id),
            self.plan(plan_hash),
            self.live,
            self.holders,
            self.failures(run_id),
            self.timers,
            self.expiring,
            self.events,
            self.index,
            self.limits,
            self.wait_queues,
            self.done(run_id),
            self.cursors,
        )
