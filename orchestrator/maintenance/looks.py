"""Looks at unfinished runs: what a lost message would have done is done, what an index has lost is put back.

A run of which something is gone that nothing can put back ends with an error that says so. A missing plan is put back
by any process that has it; only after one lease without it, in which leases could be ended, does its run end.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import redis

from orchestrator.definition.plan import node_of
from orchestrator.errors import RunError, UnknownRun
from orchestrator.fault_points import fault_point
from orchestrator.lazy import lazy
from orchestrator.liveness.leases import end_claim
from orchestrator.messaging.priorities import sent_with
from orchestrator.messaging.queue_inspection import QueueHead, look_at_queue
from orchestrator.store.broken_runs import NODES_AT_ONCE, abandon_run, loss_of
from orchestrator.store.run_store import Claim
from orchestrator.store.scripts import LONGEST_BACK_OFF_MS, UNFINISHED
from orchestrator.store.scripts.results import MORE, Work

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.definition.plan import Plan
    from orchestrator.engine import Engine
    from orchestrator.maintenance.broken_parts import BrokenParts
    from orchestrator.store.scripts.results import Look, Moved, Seen

RUNS_AT_ONCE = 500
UNKNOWN_MS = 2**53
"""Where nobody has asked when a worker came last: it may have come just now."""
MIXED_BACK_OFF_MS = 2000
"""Longest time between two messages for a ready node, where some workers have code that fits and others have not."""


class Lost(NamedTuple):
    """Nodes of a run whose messages may be lost."""

    run_id: str
    plan: Plan
    epoch: int
    nodes: list[str]


class Underway:
    """Messages that wait in a queue, or for a new process of a live worker, as far as one round of looks asks for them.

    Args:
        engine: The engine.
        now: Redis's clock in ms.
    """

    def __init__(self, engine: Engine, now: int) -> None:
        self._engine = engine
        self._now = now
        self._heads: dict[str, QueueHead] = {}

    @lazy
    def _received(self) -> frozenset[str]:
        return self._engine.store.upkeep.received(self._now)

    def may_have_lost(self, plan: Plan, run_id: str, epoch: int, ready: Seen) -> bool:
        """Whether a ready node's message may be in neither any more, so that no long queue is multiplied."""
        # Without a node: the message of a whole step, of which this node may be a member.
        if not self._received.isdisjoint((f"{run_id}|{ready.node}", f"{run_id}|")):
            return False
        queue = plan.nodes[node_of(ready.node)].queue  # the compensation of a map's item is ready by itself
        if queue not in self._heads:
            self._heads[queue] = look_at_queue(self._engine.app, queue)
        priority = sent_with(self._engine.app, plan, ready.node, epoch)
        return self._heads[queue].may_have_lost(int(ready.detail), self._now, priority)


class RunLooks:
    """Looks at the runs that are due, for the leading reconciler."""

    def __init__(self, engine: Engine, parts: BrokenParts) -> None:
        self.engine = engine
        self.store = engine.store
        self._parts = parts
        self._found_some = False

    def look(self, now: int, *, until: float, may_end: bool) -> None:
        """Look at every run that is due, oldest first.

        Args:
            now: Redis's clock in ms.
            until: Instant of the monotonic clock at which the rest is left to the next round.
            may_end: Whether runs may be ended because something of them is gone.
        """
        is_full = True
        while is_full and time.monotonic() < until:
            # Not asked for at rest: the first run that was sent again gets a full look in any case.
            joined_ms = self.engine.fleet.joined_ms() if self._found_some else UNKNOWN_MS
            is_full, due = self.store.scripts.due_looks(count=RUNS_AT_ONCE, joined_ms=joined_ms)
            self._found_some = bool(due)
            # Anew for each portion: what it has read of a queue is out of date once messages were sent again.
            underway = Underway(self.engine, now)
            asked = [(run_id, plan_hash, self._joined_ms(plan_hash)) for run_id, plan_hash, look in due if look is None]
            inspected = iter(self.store.scripts.inspect_runs(asked))
            lost: list[Lost] = []
            for run_id, plan_hash, look in due:
                looked = next(inspected) if look is None else look
                step = partial(self._act, run_id, plan_hash, looked, underway, lost, now=now, may_end=may_end)
                self._parts.attempt("run", run_id, step)
            self._send_again(lost)

    def _act(
        self,
        run_id: str,
        plan_hash: str,
        looked: Look | redis.RedisError,
        underway: Underway,
        lost: list[Lost],
        *,
        now: int,
        may_end: bool,
    ) -> None:
        """Do what the findings of a look ask for, and look on where many nodes are open."""
        if isinstance(looked, redis.RedisError):
            raise looked
        look: Look | None = looked
        while look is not None:
            self._act_on(run_id, plan_hash, look, underway, lost, now=now, may_end=may_end)
            look = self.store.scripts.look_further(run_id, plan_hash, look, self._joined_ms(plan_hash))

    def _act_on(
        self,
        run_id: str,
        plan_hash: str,
        looked: Look,
        underway: Underway,
        lost: list[Lost],
        *,
        now: int,
        may_end: bool,
    ) -> None:
        if looked.outcome == "unknown" or (looked.outcome == "looked" and not looked.findings):
            return
        if looked.outcome == "no plan":
            self._miss_plan(run_id, plan_hash, now=now, may_end=may_end)
            return
        plan = self.store.plan(plan_hash)
        if plan is None:
            raise RunError(f"its plan {plan_hash} cannot be read", run_id=run_id)
        ready = [seen for seen in looked.findings if seen.kind == "ready"]
        for seen in looked.findings:
            if seen.kind == "gone":
                if may_end:
                    self._end(run_id, seen.detail)
            elif seen.kind not in {"ready", MORE}:
                self._mend(plan, run_id, looked.epoch, seen)
        nodes = [seen.node for seen in ready if underway.may_have_lost(plan, run_id, looked.epoch, seen)]
        if nodes:
            lost.append(Lost(run_id, plan, looked.epoch, nodes))

    def _send_again(self, lost: Sequence[Lost]) -> None:
        """Send the messages of runs again, all of them in few round trips."""
        fleet, asked = self.engine.fleet, []
        for each in lost:
            # Where only some workers have code that fits, the others may take the message from under its nose.
            is_mixed = any(fleet.is_mixed(each.plan, node) for node in each.nodes)
            most_ms = MIXED_BACK_OFF_MS if is_mixed else LONGEST_BACK_OFF_MS
            joined_ms = fleet.joined_ms(each.plan.flow)
            asked.append((each.run_id, each.plan.hash, each.epoch, most_ms, joined_ms, *each.nodes))
        works: list[tuple[Plan, str, int, Work]] = []

        def keep(each: Lost, moved: Moved | redis.RedisError) -> None:
            if isinstance(moved, redis.RedisError):
                raise moved
            works.append((each.plan, each.run_id, each.epoch, moved.work))

        for each, moved in zip(lost, self.store.scripts.republish_runs(asked), strict=True):
            self._parts.attempt("run", each.run_id, partial(keep, each, moved))
        if works:
            # Noted as sent by now: if this process dies here, the next message of each comes when its back-off is over.
            fault_point("after_republish")
            self.engine.publisher.publish_all(works)

    def _joined_ms(self, plan_hash: str) -> int:
        """The instant at which a worker with a plan's flow came last; any worker if this process has not read it."""
        plan = self.store.known_plan(plan_hash)
        return self.engine.fleet.joined_ms("" if plan is None else plan.flow)

    def _mend(self, plan: Plan, run_id: str, epoch: int, seen: Seen) -> None:
        if seen.kind == "awake":  # parked, but neither a timer nor a wait queue knows of it
            self.engine.wake(plan, run_id, epoch, seen.node)
        elif seen.kind == "unfinished":  # the process that began it has died
            self.engine.publish(plan, run_id, epoch, self.engine.complete(plan, run_id, Work(MORE)))
        elif seen.kind == "limit":
            self.store.define_limits(plan)
        elif seen.kind == "unjudged":
            self.engine.publisher.ask_judge(plan, run_id, epoch, plan.nodes[seen.node].gate["of"])
        elif seen.kind == "items":
            items = [name for name in self.store.node_names(run_id) if node_of(name) == seen.node != name]
            for first in range(0, len(items), NODES_AT_ONCE):
                self.store.scripts.note_open_items(run_id, plan.hash, items[first : first + NODES_AT_ONCE])
        else:
            end_claim(self.engine, Claim(run_id, seen.node, seen.detail, 0), "its worker is gone", timed_out=False)

    def _miss_plan(self, run_id: str, plan_hash: str, *, now: int, may_end: bool) -> None:
        plan = self.engine.known_plan(plan_hash)
        if plan is not None:
            self.engine.put_back(plan)
            return
        missed = self.store.aside.get("plan", plan_hash)
        if missed is not None and may_end and now - missed.since.timestamp() * 1000 > self.store.lease_ms:
            self._end(run_id, f"plan {plan_hash}")
            return
        error = RunError(
            f"it is gone from Redis, runs need it, {run_id} for example; a process that has it puts it back"
        )
        self._parts.set_aside("plan", plan_hash, error)

    def _end(self, run_id: str, lost: str) -> None:
        try:
            record = self.store.run(run_id)
        except UnknownRun:
            return
        failure = loss_of(record, lost)
        if lost.startswith(("plan", "records")):
            abandon_run(self.store, record, verdict="failed", failure=failure)
        else:  # what succeeded can still be undone
            self.engine.end_run(run_id, verdict="failed", failure=failure)

    def mend_index(self, now: int) -> None:
        """Put unfinished runs back into the index of what is to be looked at; some of them are not in it."""
        for status in UNFINISHED:
            first = 0
            while self.store.upkeep.put_back_live(now, status=status, first=first, count=RUNS_AT_ONCE):
                first += RUNS_AT_ONCE
