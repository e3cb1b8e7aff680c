"""Run store: reads what Redis keeps of runs, and gives access to the scripts that change it.

Transitions are the scripts', reached through `store.scripts`; this module holds the connection, reads records back into
named values, keeps plans at hand, and gives Redis's errors their meaning.
"""

from __future__ import annotations

import json
import os
import weakref
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import redis

from orchestrator.definition.fitting import RUN_INPUT
from orchestrator.definition.plan import Plan
from orchestrator.definition.policies import MICROSECONDS, numbers_text
from orchestrator.definition.priority import priority_of
from orchestrator.definition.state import NodeFailure, RunStatus
from orchestrator.lazy import lazy
from orchestrator.redaction import Redaction
from orchestrator.store.completion_listener import Listener
from orchestrator.store.guard import Guard
from orchestrator.store.history import read_entries
from orchestrator.store.keys import Keys, limit_of
from orchestrator.store.output_parts import OutputParts
from orchestrator.store.scripts import Scripts
from orchestrator.store.set_aside import AsideList
from orchestrator.store.shared_listener import SharedListener
from orchestrator.store.standing import FIELDS, RUN_ID, read_standing, standing_of, unknown_run
from orchestrator.store.upkeep import Upkeep

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import timedelta

    from orchestrator.errors import UnknownRun
    from orchestrator.settings import Settings
    from orchestrator.store.address import Address
    from orchestrator.store.history import Entry
    from orchestrator.store.standing import Standing

ITEMS_AT_ONCE = 1000
STAGED_MS = 3_600_000
INPUT = RUN_INPUT  # the field of the run's input among its outputs; no output key can have this name


def instant(milliseconds: str | float | None) -> datetime | None:
    """Return an aware datetime from milliseconds since the epoch, or None."""
    return datetime.fromtimestamp(float(milliseconds) / 1000, UTC) if milliseconds else None


def milliseconds(span: timedelta) -> int:
    """Return whole milliseconds of a timedelta."""
    return round(span.total_seconds() * 1000)


@dataclass(frozen=True)
class RunRecord:
    """A run as stored, without its outputs.

    Attributes:
        run_id: The run.
        flow: Name of its flow.
        plan: Hash of the plan it pins.
        status: Where it stands.
        epoch: Rises with each resume; of a run with a priority it has that, too, see `definition/priority.py`.
        error: Its first failure, or None.
        tags: What `start` was given.
        created: When it was started.
        finished: When it ended, or None.
        fields: Everything else, as text.
    """

    run_id: str
    flow: str
    plan: str
    status: RunStatus
    epoch: int
    error: NodeFailure | None
    tags: Mapping[str, str]
    created: datetime
    finished: datetime | None
    fields: Mapping[str, str] = field(repr=False)

    @property
    def priority(self) -> int | None:
        """The broker's number with which its messages are sent; None if its start gave none."""
        return priority_of(self.epoch)


@dataclass(frozen=True)
class Claim:
    """An open claim: the run, the node, the token that fences it, the end of its time in ms, and its process."""

    run_id: str
    node: str
    token: str
    deadline: int
    holder: str = ""


class Store:
    """Runs, plans and indexes in one Redis, under one prefix.

    Opens no connection before its first use. Safe to use after a fork and from several threads.
    """

    def __init__(self, address: Address, settings: Settings) -> None:
        self.address = address
        self.settings = settings
        self.keys = Keys(settings.prefix)
        self.retention_ms = milliseconds(settings.retention)
        self.lease_ms = milliseconds(settings.lease)
        # Any: redis-py's hints leave open whether an answer is text; without decode_responses it is bytes.
        self.client: Any = redis.Redis(connection_pool=self.address.new_pool(self.settings))
        _stores.add(self)
        self.scripts = Scripts(self.client, self.keys)
        self.upkeep = Upkeep(self.client, self.keys)
        self.parts = OutputParts(self.client, self.keys)
        self.aside = AsideList(self.client, self.keys)
        self.listener = Listener(self.client)
        self.shared_listener = SharedListener(self.client, self.keys.done, self.standings, self.guarded)
        # By a hash of their content, so that none is ever out of date.
        self._plans: dict[str, Plan] = {}

    def begin_in_fork(self) -> None:
        """Take new connections: a lock of the parent's pool may be held by a thread that the child does not have."""
        # In place: the scripts, the upkeep and the listeners hold this very client.
        self.client.connection_pool = self.address.new_pool(self.settings)
        self.scripts.wire.begin()
        self.listener.begin()
        self.shared_listener.begin()

    def guarded(self) -> Guard:
        """Turn Redis's errors in a block into those of the store."""
        return self._guard

    @lazy
    def _guard(self) -> Guard:
        return Guard(self.place, self.address.setting, self.settings.prefix)

    @lazy
    def redaction(self) -> Redaction:
        """Hides what is never shown of a run."""
        return Redaction(self.settings.redact)

    @property
    def place(self) -> str:
        """Server and database for messages, without any password."""
        return self.address.place

    def plan(self, plan_hash: str) -> Plan | None:
        """Return a stored plan by its hash; kept in memory once it was read."""
        plan = self._plans.get(plan_hash)
        if plan is None:
            with self.guarded():
                text = self.client.hget(self.keys.plan(plan_hash), "text")
            if text is None:
                return None
            plan = self._plans[plan_hash] = Plan.from_text(text)
        return plan

    def plans(self, hashes: Collection[str]) -> dict[str, Plan]:
        """Return stored plans by hash, those that are there; at most one round trip for those not read before."""
        missing = [each for each in hashes if each not in self._plans]
        if missing:
            with self.guarded():
                pipe = self.client.pipeline(transaction=False)
                for each in missing:
                    pipe.hget(self.keys.plan(each), "text")
                texts = pipe.execute()
            self._plans |= {each: Plan.from_text(text) for each, text in zip(missing, texts, strict=True) if text}
        return {each: self._plans[each] for each in hashes if each in self._plans}

    def known_plan(self, plan_hash: str) -> Plan | None:
        """Return a plan that this process has read before, wherever it is now."""
        return self._plans.get(plan_hash)

    def pins(self, run_ids: Sequence[str]) -> list[tuple[str, int]]:
        """Return the hash of the plan that each run pins, and its epoch; ("", 0) for a run that is gone."""
        with self.guarded():
            pipe = self.client.pipeline(transaction=False)
            for run_id in run_ids:
                pipe.hmget(self.keys.run(run_id), "plan", "epoch")
            return [((plan or b"").decode(), int(epoch or 0)) for plan, epoch in pipe.execute()] if run_ids else []

    def define_limits(self, plan: Plan) -> None:
        """Write the numbers of a plan's buckets if they are missing."""
        for name, numbers in plan.limits.items():
            # NX: an old run's plan must not undo an operator's numbers, or those of newer code.
            self.client.hsetnx(self.keys.limits, name, numbers_text(numbers))

    def is_ending(self, run_id: str) -> bool:
        """Return whether a run is ending, has ended, or is gone."""
        status = self.client.hget(self.keys.run(run_id), "status")
        return status is None or status.decode() not in {"pending", "running"}

    def server_info(self, section: str) -> Mapping[str, Any]:
        """Return a section of what the server says of itself.

        Raises:
            redis.ResponseError: It does not tell this user.
        """
        told: Mapping[str, Any] = self.client.info(section)
        return told

    def put_back(self, queue: str, message: bytes) -> None:
        """Put a message back at the old end of a queue."""
        # kombu pushes on the left and pops on the right: here it is the next one to be received.
        self.client.rpush(queue, message)

    def now_ms(self) -> int:
        """Return Redis's clock in milliseconds."""
        seconds, micros = self.client.time()
        return int(seconds * 1000 + micros // 1000)

    def claims(self, *holders: str) -> list[Claim]:
        """Return the open claims of processes."""
        found = []
        for holder, record in zip(holders, self.scripts.open_claims(holders), strict=True):
            for member, value in record.items():
                run_id, node = member.decode().split("|")
                token, deadline = value.decode().split("|")
                found.append(Claim(run_id, node, token, int(deadline), holder))
        return found

    def announce_worker(self, worker: str, state: Mapping[str, Any]) -> None:
        """Store for one lease what a worker announces of itself: "queues", "flows" to their nodes, and more."""
        self.scripts.announce_worker(worker, json.dumps(state), lease_ms=self.lease_ms)

    def withdraw_worker(self, worker: str) -> None:
        """Forget what a worker announced, when it ends."""
        pipe = self.client.pipeline(transaction=False)
        pipe.delete(self.keys.worker(worker))
        pipe.zrem(self.keys.workers, worker)
        pipe.execute()

    def workers(self) -> list[dict[str, Any]]:
        """Return what every live worker has announced, as given to `announce_worker`."""
        with self.guarded():
            now = self.now_ms()
            names = self.client.zrangebyscore(self.keys.workers, now, "+inf")
            texts = self.client.mget([self.keys.worker(name.decode()) for name in names]) if names else []
        # One that has withdrawn between the two reads has no text any more.
        return [json.loads(text) for text in texts if text]

    def lease_end(self, holder: str) -> int | None:
        """Return the end of a process's lease in ms, or None if it has none."""
        with self.guarded():
            score = self.client.zscore(self.keys.holders, holder)
        return None if score is None else int(score)

    def place_in_queue(self, bucket: str, run_id: str, node: str) -> tuple[int | None, int | None]:
        """Return a node's rank in a bucket's wait queue and about when it is released, in ms; None if not in it."""
        tat_key, line_key, _, frozen_key = self.keys.bucket(bucket)
        with self.guarded():
            pipe = self.client.pipeline(transaction=False)
            pipe.zrank(line_key, f"{run_id}|{node}")
            pipe.hget(self.keys.limits, limit_of(bucket))
            pipe.get(tat_key)
            pipe.get(frozen_key)
            pipe.hget(self.keys.pace(bucket), "interval")
            rank, numbers, tat, frozen, pace = pipe.execute()
            now_us = self.now_ms() * 1000
        if rank is None or numbers is None:
            return None, None
        if numbers[:1].isalpha():  # only the kinds without a word are rates that can be told ahead
            return rank, None
        interval, burst, *bounds = map(int, numbers.split())
        if bounds and pace:
            interval = round(float(pace))
        if not interval:  # slots: nobody knows when one is free
            return rank, None
        free = max(now_us, int(tat or 0) + interval - burst * interval, int(frozen or 0))
        return rank, (free + rank * interval) // 1000

    def pace(self, bucket: str) -> float | None:
        """Return the starts a second that an adaptive bucket allows now; None for others and before any wait."""
        with self.guarded():
            interval = self.client.hget(self.keys.pace(bucket), "interval")
        return MICROSECONDS / float(interval) if interval else None

    def announced(self) -> dict[str, str]:
        """Return the announced flow names, each with the hash of its plan."""
        return {name.decode(): plan.decode() for name, plan in self.client.hgetall(self.keys.flows).items()}

    def announced_plan(self, flow: str) -> Plan | None:
        """Return the plan that workers announced last for a flow."""
        plan_hash = self.client.hget(self.keys.flows, flow)
        return self.plan(plan_hash.decode()) if plan_hash else None

    def children(self, run_id: str) -> list[str]:
        """Return the runs that nodes of a run have started, oldest first."""
        with self.guarded():
            return [each.decode() for each in self.client.zrange(self.keys.children(run_id), 0, -1)]

    def forks(self, run_id: str) -> list[str]:
        """Return the runs that are forks of a run, oldest first."""
        with self.guarded():
            return [each.decode() for each in self.client.lrange(self.keys.forks(run_id), 0, -1)]

    def has_run(self, run_id: str) -> bool:
        """Return whether there is a record of a run."""
        with self.guarded():
            return bool(self.client.exists(self.keys.run(run_id)))

    def run(self, run_id: str) -> RunRecord:
        """Read a run.

        Raises:
            UnknownRun: No such run, or its retention is over.
            StoreUnavailable: Redis did not answer.
        """
        raw: dict[bytes, bytes] = {}
        if RUN_ID.fullmatch(str(run_id)):  # anything else could name another key
            with self.guarded():
                raw = self.client.hgetall(self.keys.run(run_id))
        if not raw:
            raise unknown_run(run_id)
        fields = {name.decode(): value.decode() for name, value in raw.items()}
        error = fields.get("error")
        created = instant(fields["created"])
        assert created is not None  # noqa: S101 - start.lua always writes it
        return RunRecord(
            run_id=run_id,
            flow=fields["flow"],
            plan=fields["plan"],
            status=RunStatus(fields["status"]),
            epoch=int(fields["epoch"]),
            error=self.redaction.failure_of(error) if error else None,
            tags=json.loads(fields["tags"]),
            created=created,
            finished=instant(fields.get("finished")),
            fields=fields,
        )

    def standing(self, run_id: str) -> Standing:
        """Read the part of a run by which a wait recognises its end; raises as `run`."""
        if not RUN_ID.fullmatch(str(run_id)):
            raise unknown_run(run_id)
        with self.guarded():
            return standing_of(run_id, self.client.hmget(self.keys.run(run_id), FIELDS), self.redaction)

    def standings(self, run_ids: Sequence[str]) -> dict[str, Standing | UnknownRun]:
        """Read many at once; a run without a record has an error in its place."""
        with self.guarded():
            pipe = self.client.pipeline(transaction=False)
            for run_id in run_ids:
                pipe.hmget(self.keys.run(run_id), FIELDS)
            found = pipe.execute()
        runs = zip(run_ids, found, strict=True)
        return {run_id: read_standing(run_id, values, self.redaction) for run_id, values in runs}

    def nodes(self, run_id: str) -> dict[str, dict[str, Any]]:
        """Return the record of every node that was ever ready, by node name."""
        with self.guarded():
            raw = self.client.hgetall(self.keys.nodes(run_id))
        return {name.decode(): json.loads(text) for name, text in raw.items()}

    def node(self, run_id: str, name: str) -> dict[str, Any]:
        """Return the record of one node; empty if it was never ready."""
        with self.guarded():
            text = self.client.hget(self.keys.nodes(run_id), name)
        found: dict[str, Any] = json.loads(text) if text else {}
        return found

    def node_names(self, run_id: str) -> list[str]:
        """Return the names of all nodes with a record, also of a record that cannot be read."""
        with self.guarded():
            # A set: HSCAN may return a field twice while the hash grows.
            names = {name.decode() for name, _ in self.client.hscan_iter(self.keys.nodes(run_id), count=ITEMS_AT_ONCE)}
        return sorted(names)

    def outputs(self, run_id: str, keys: Collection[str] | None) -> dict[str, bytes]:
        """Return stored JSON by output key; None asks for every key."""
        with self.guarded():
            if keys is None:
                raw = self.client.hgetall(self.keys.outputs(run_id))
                return {
                    key.decode(): self.parts.whole(run_id, value) for key, value in raw.items() if key != INPUT.encode()
                }
            wanted = list(keys)
            values = self.client.hmget(self.keys.outputs(run_id), wanted) if wanted else []
            return {
                key: self.parts.whole(run_id, value)
                for key, value in zip(wanted, values, strict=True)
                if value is not None
            }

    def cursor(self, flow: str, source: str) -> str | None:
        """Return the cursor at which the last successful run of a flow left a source."""
        with self.guarded():
            stored: bytes | None = self.client.hget(self.keys.cursors, f"{flow}|{source}")
        kept: str | None = None if stored is None else json.loads(stored.partition(b" ")[2])
        return kept

    def stage_items(self, run_id: str, token: str, items: Sequence[bytes]) -> None:
        """Write the items of a map beside the run, for the commit with this token to take over."""
        key = self.keys.staged(run_id, token)
        with self.guarded():
            # A call that is repeated after a lost answer begins anew: what it wrote before may be of other lengths.
            self.client.delete(key)
            for first in range(0, len(items), ITEMS_AT_ONCE):
                part = items[first : first + ITEMS_AT_ONCE]
                pipe = self.client.pipeline(transaction=False)
                pipe.hset(key, mapping={str(first + number): item for number, item in enumerate(part)})
                # With each part: a crash between two of them leaves nothing behind that lasts.
                pipe.pexpire(key, STAGED_MS)
                pipe.execute()

    def result(self, run_id: str, node: str, index: int) -> bytes | None:
        """Return the output of one item of a map."""
        with self.guarded():
            found: bytes | None = self.client.hget(self.keys.results(run_id, node), str(index))
        return found

    def item_failures(self, run_id: str, node: str) -> dict[int, bytes]:
        """Return NodeFailure JSON of the failed items of a map, by index."""
        with self.guarded():
            # `[[]` is a bracket as it stands: alone it would begin a class of characters.
            found = dict(self.client.hscan_iter(self.keys.failures(run_id), match=f"{node}[[]*", count=ITEMS_AT_ONCE))
        return {int(name.decode().partition("[")[2].rstrip("]")): text for name, text in found.items()}

    def input(self, run_id: str) -> bytes | None:
        """Return the run's input as JSON; None when it was started without one."""
        with self.guarded():
            stored: bytes | None = self.client.hget(self.keys.outputs(run_id), INPUT)
        return stored or None

    def failures(self, run_id: str) -> dict[str, NodeFailure]:
        """Return the last failure of every node that ended failed or unknown."""
        ended = {name for name, record in self.nodes(run_id).items() if _has_failed(record)}
        with self.guarded():
            raw = self.client.hgetall(self.keys.failures(run_id))
        return {name.decode(): self.redaction.failure_of(text) for name, text in raw.items() if name.decode() in ended}

    def last_failure(self, run_id: str, node: str) -> NodeFailure | None:
        """Return the failure of a node's last attempt that did not succeed, whatever became of the node."""
        with self.guarded():
            text = self.client.hget(self.keys.failures(run_id), node)
        return self.redaction.failure_of(text) if text else None

    def failure(self, run_id: str, node: str) -> bytes | None:
        """Return the failure of a node as JSON, if it ended failed or unknown."""
        with self.guarded():
            pipe = self.client.pipeline(transaction=False)
            pipe.hget(self.keys.nodes(run_id), node)
            pipe.hget(self.keys.failures(run_id), node)
            answers: list[bytes | None] = pipe.execute()
        record, text = answers
        return text if record and _has_failed(json.loads(record)) else None

    def history(self, run_id: str) -> list[Entry]:
        """Return a run's history, oldest first."""
        with self.guarded():
            pipe = self.client.pipeline(transaction=False)
            pipe.lrange(self.keys.history(run_id), 0, -1)
            pipe.xrange(self.keys.older_history(run_id))
            texts, older = pipe.execute()
        return read_entries(texts, older)

    def version(self, run_id: str) -> str:
        """Return a text that is another one whenever the run's history has grown."""
        with self.guarded():
            pipe = self.client.pipeline(transaction=False)
            pipe.llen(self.keys.history(run_id))
            # The list is capped: from then on its length stays, and only its last entry tells that it has grown.
            pipe.lindex(self.keys.history(run_id), -1)
            length, last = pipe.execute()
        return f"{length}-{(last or b'').decode('utf-8', 'replace')}"


# Weak, for what is registered below stays as long as the process: it must not keep every store that there ever was.
_stores: weakref.WeakSet[Store] = weakref.WeakSet()


def _begin_in_fork() -> None:
    for store in list(_stores):
        store.begin_in_fork()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_begin_in_fork)


def _has_failed(record: Mapping[str, Any]) -> bool:
    return record["state"] in {"failed", "unknown"} or record.get("ended_as") in {"failed", "unknown"}
