"""Reconciler: makes every lost message harmless, by due timers, wait queues, expired leases and runs without progress.

It runs in every worker, with one leader at a time, and only repeats what a message would have done. Each step is a
script that does nothing where there is nothing to do, so two leaders publish twice at worst.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from orchestrator.definition.policies import SLOTS
from orchestrator.errors import NodeFailure, RunCancelled, RunTimeout, StoreError, StoreRefused, UnknownRun
from orchestrator.fault_points import fault_point
from orchestrator.liveness.fork_gate import gate
from orchestrator.liveness.leases import INLINE, end_claim, end_holder
from orchestrator.maintenance.broken_parts import BrokenParts
from orchestrator.maintenance.eviction_watch import EvictionWatch
from orchestrator.maintenance.looks import RunLooks
from orchestrator.maintenance.lost_writes import SweepMemory
from orchestrator.maintenance.wakes import Wakes
from orchestrator.sparing_log import log_error_sparingly, warn_sparingly
from orchestrator.store.refusals import was_refused
from orchestrator.store.statistics import Measurer

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.engine import Engine
    from orchestrator.maintenance.run_events import Monitor

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")
LONGEST_NAP_MS = 1000
"""Longest wait of the timer loop; scripts wake it for what is due earlier than that."""
LONGEST_UNWAKED_MS = 100
"""The same where its user may not wait in Redis: what is stored meanwhile may be due earlier than all it knew of."""
SHORTEST_WAIT_MS = 5
FOLLOWS_MS = 100
"""Time between two looks of the timer loop whether it leads."""
FOLLOWER_PERIODS = 3.0
"""Periods of the reconciler between two tries of a worker to lead."""
HOLDERS_AT_ONCE = 250
AT_REST_S = 10.0
"""Time between two looks for events at rest."""
ROWS_AT_ONCE = 500
"""Runs, timers and index entries in one round."""
SHORTEST_NAP_S = 0.05
SLOTS_AT_ONCE = 100
FREE_SLOTS_EVERY_S = 5.0
HANGS_AFTER_MS = 4000
"""Time past its deadline at which an attempt of a pool process is ended; the watchdog kills the process 3 s past it."""
INLINE_HANGS_AFTER_MS = 1000
"""The same in pools where nothing can interrupt a function."""


class Reconciler:
    """The two loops of one worker; they act only while it leads."""

    def __init__(self, engine: Engine, monitor: Monitor) -> None:
        self.engine = engine
        self.store = engine.store
        self.monitor = monitor
        self._measurer = Measurer(engine.store)
        self.evictions = EvictionWatch(engine)
        self._memory = SweepMemory(engine.store)
        self._id = uuid.uuid4().hex
        self._period_s = engine.settings.reconcile_every.total_seconds()
        # Two threads, so each has its own.
        self._parts, self._timed_parts = BrokenParts(engine.store), BrokenParts(engine.store)
        self._looks = RunLooks(engine, self._parts)
        self._wakes = Wakes(engine, self._timed_parts)
        self._slots_at: dict[str, float] = {}
        self._can_wait = True
        # The pop answers only after that long: nearer to the socket's own limit it would be taken for a server that is
        # away.
        self._longest_wait_s = min(1.0, engine.settings.socket_timeout.total_seconds() / 2)
        self._last_event, self._events_until, self._events_at = "", 0.0, 0.0
        self._leads_until = 0.0
        self._calm_until = 0.0
        self._has_ticked = False
        self._stopped = threading.Event()
        # Two: a timer is promised within 100 ms, and a sweep may be busy with thousands of runs or a slow broker.
        # Threads: Celery's event loop would stand still while one of them waits for Redis.
        loops = {"sweep": self._sweep_loop, "timers": self._timer_loop}
        self.threads = [
            threading.Thread(target=loop, name=f"orchestrator-{name}", daemon=True) for name, loop in loops.items()
        ]

    def start(self) -> None:
        """Start both loops."""
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        """Stop both loops and let another worker lead at once; again does nothing."""
        if not self._stopped.is_set():
            self._stopped.set()
            self._guarded(self._step_down)

    def _step_down(self) -> None:
        self.store.upkeep.step_down(self._id)

    def _sweep_loop(self) -> None:
        tries_at = 0.0
        while not self._stopped.is_set():
            # In every worker: its own pool processes send the events of their nodes.
            self._guarded(self.monitor.note_watching)
            began = time.monotonic()
            if began >= tries_at:
                self._guarded(self._sweep_if_leader)
                # Guarded as every part is: an error would end the thread in silence, and with it all recovery by this
                # worker.
                self._guarded(partial(self.evictions.look, leads=time.monotonic() < self._leads_until))
                # Half a period less: this loop wakes once a period, and would miss its turn by a hair and wait for one
                # more.
                tries_at = began if self._leads_until else began + (FOLLOWER_PERIODS - 0.5) * self._period_s
            self._stopped.wait(max(began + self._period_s - time.monotonic(), SHORTEST_NAP_S))

    def _timer_loop(self) -> None:
        while not self._stopped.is_set():
            if time.monotonic() >= self._leads_until:
                self._stopped.wait(FOLLOWS_MS / 1000)
                continue
            nap_ms = self._guarded(self.fire_due)
            if nap_ms is None:  # a Redis that refuses everything is asked less often
                self._stopped.wait(LONGEST_UNWAKED_MS / 1000)
            elif nap_ms <= SHORTEST_WAIT_MS:
                self._stopped.wait(SHORTEST_WAIT_MS / 1000)  # what is due and fails stays due, which must not spin
            elif not self._guarded(partial(self._await_wake, nap_ms / 1000), waits=True):
                self._stopped.wait(min(nap_ms, LONGEST_UNWAKED_MS) / 1000)

    def _await_wake(self, seconds: float) -> bool:
        """Wait for the next due instant, or for an earlier one that a script stores meanwhile."""
        self._can_wait = self._can_wait and self.store.upkeep.await_wake(min(seconds, self._longest_wait_s))
        self._stopped.wait(SHORTEST_WAIT_MS / 1000)
        return self._can_wait

    def _guarded(self, step: Callable[[], Answer], *, waits: bool = False) -> Answer | None:
        """Do a step; an error is logged, and the next round tries again. One that `waits` lets forks begin."""
        try:
            with nullcontext() if waits else gate.closed(), self.store.guarded():
                return step()
        except Exception as error:  # noqa: BLE001 - the next round tries again
            with gate.closed():
                self._note(error)
        return None

    def _note(self, error: Exception) -> None:
        if isinstance(error, StoreError):
            # Attempts whose commit Redis refuses wait past their deadline; before any is ended they get one lease to
            # commit. Not where a later part of a sweep is refused for good: then no claim would ever be ended.
            if was_refused(error) and not (self._has_ticked and isinstance(error, StoreRefused)):
                self._calm_until = time.monotonic() + self.engine.settings.lease.total_seconds()
            warn_sparingly(logger, "reconciler: %s", error)
        else:
            log_error_sparingly(logger, error, "reconciler: a step failed")

    def _sweep_if_leader(self) -> None:
        self._has_ticked = False
        lock_ms = round(2000 * self._period_s)  # two periods: a sweep that takes longer than one keeps its lead
        if not self.store.scripts.lead(self._id, lock_ms=lock_ms):
            self._leads_until = 0.0
            self._memory.end(self._id)
            return
        if not self._leads_until:
            # A part that failed under the leader before is not logged as news by this one.
            self._parts.begin()
            self._timed_parts.begin()
        # Counted from the answer, so that it ends a moment behind the lock: two leaders are harmless.
        self._leads_until = time.monotonic() + lock_ms / 1000
        self.sweep()

    def sweep(self) -> None:
        """Do one round of what the leader does every `Settings.reconcile_every`."""
        fault_point("sweep")
        until = time.monotonic() + self._period_s
        # After a gap between sweeps nobody may have been able to renew: the script forbids to end leases for one lease.
        tick = self.store.scripts.sweep_tick(
            lease_ms=self.store.lease_ms, worker=self._id, number=self._memory.next_number
        )
        self._has_ticked = True
        if tick.mark is not None:
            self._memory.note(tick.before, tick.mark)
        if tick.went_back:
            logger.error("Redis's clock went back")
        may_end = tick.may_end and time.monotonic() > self._calm_until
        if may_end:
            self._end_leases()
        # First: an ended run that an older version has left among the open ones is not to be looked at again.
        self._parts.attempt("index", "open", partial(self.store.scripts.mend_indexes, at_most=ROWS_AT_ONCE))
        if tick.has_lost_index:
            self._parts.attempt("index", "unfinished", partial(self._looks.mend_index, tick.now))
        if tick.has_looks or tick.has_lost_index:
            look = partial(self._looks.look, tick.now, until=until, may_end=may_end)
            self._parts.attempt("index", "live", look)
        if tick.has_old:
            until = max(until, time.monotonic() + self._period_s / 2)  # as fast as runs end, also beside many looks
            self._parts.attempt("index", "expiring", partial(self._clean_indexes, tick.now, until=until))
        self._parts.forget_old()
        self._parts.attempt("events", "of runs", partial(self._follow_events, tick.last_event))

    def _clean_indexes(self, now: int, *, until: float) -> None:
        """Take runs whose retention is over off the indexes, until an instant of the monotonic clock."""
        while self.store.upkeep.clean_indexes(now, count=ROWS_AT_ONCE) and time.monotonic() < until:
            pass

    def _follow_events(self, last: str) -> None:
        """Forward and count events; at rest that is asked for now and then."""
        now = time.monotonic()
        if last != self._last_event or self.monitor.is_watched():
            self._last_event, self._events_until = last, now + AT_REST_S
        if now < self._events_until or now > self._events_at + AT_REST_S:
            self._events_at = now
            self.monitor.forward()
            self._measurer.measure()

    def _end_leases(self) -> None:
        first, looked = 0, HOLDERS_AT_ONCE
        # Ended behind the walk: a holder that is forgotten would shift the ranks that it goes by.
        due: list[tuple[str, bool]] = []
        while looked == HOLDERS_AT_ONCE:
            looked, found = self.store.scripts.due_holders(
                first=first,
                count=HOLDERS_AT_ONCE,
                margin_ms=HANGS_AFTER_MS,
                inline_margin_ms=INLINE_HANGS_AFTER_MS,
                inline=INLINE,
            )
            due += found
            first += looked
        for holder, is_over in due:
            self._parts.attempt("holder", holder, partial(self._check_holder, holder, is_over=is_over))

    def _check_holder(self, holder: str, *, is_over: bool) -> None:
        if is_over:
            # The lease is checked once more before the holder is forgotten: it may be renewed while its claims end.
            end_holder(self.engine, holder, "its worker did not renew its lease", only_late=True)
            return
        margin = INLINE_HANGS_AFTER_MS if holder.endswith(INLINE) else HANGS_AFTER_MS
        now = self.store.now_ms()
        for claim in self.store.claims(holder):
            if claim.deadline + margin < now:
                end = partial(end_claim, self.engine, claim, "it did not stop", timed_out=True)
                self._parts.attempt("claim", f"{claim.run_id}|{claim.node}", end)

    def fire_due(self) -> int:
        """Publish what timers and wait queues release; return milliseconds to the next due instant."""
        wait, timers, buckets = self.store.scripts.due_timers(at_most_ms=LONGEST_NAP_MS, count=ROWS_AT_ONCE)
        waits = [wait]
        for bucket in buckets:
            self._timed_parts.attempt("line", bucket, partial(self._release, bucket, timers, waits))
        # Behind the buckets: what they have let go is among the timers by now.
        for member in timers:
            if member.endswith("|"):
                end = partial(end_late_run, self.engine, member.removesuffix("|"))
                self._timed_parts.attempt("timer", member, end)
        self._wakes.wake([member for member in timers if not member.endswith("|")])
        return min(waits)

    def _release(self, bucket: str, timers: list[str], waits: list[int]) -> None:
        next_look, members = self.store.scripts.release(bucket)
        # A leader that dies here leaves members that no wait queue holds: inspect_run reports them as awake.
        fault_point("after_release")
        timers += members
        if next_look >= 0:
            waits.append(next_look)
        if not members and bucket.startswith(SLOTS) and time.monotonic() > self._slots_at.get(bucket, 0.0):
            self._slots_at[bucket] = time.monotonic() + FREE_SLOTS_EVERY_S
            self._free_slots(bucket)

    def _free_slots(self, bucket: str) -> None:
        """Free slots whose claim has ended, or whose run is gone: nothing else would."""
        for run_id, node, token in self.store.upkeep.holders_of_slots(bucket, count=SLOTS_AT_ONCE):
            # Read behind the list: what is claimed meanwhile is not in it, so that no slot of a claim that lives is
            # freed.
            if self.store.node(run_id, node).get("token") != token:
                self.store.upkeep.free_slot(bucket, run_id, node, token)
                logger.warning("%s: a slot that run %s node %s held is free again", bucket, run_id, node)


def end_late_run(engine: Engine, run_id: str) -> None:
    """End a run that is past the time that its flow gives it; forget the timer of a run that is gone."""
    try:
        record = engine.store.run(run_id)
    except UnknownRun:
        engine.store.upkeep.forget_timer(run_id, "")
        return
    # Checked again by the script: a resume meanwhile gives the run another deadline.
    error: RunTimeout | RunCancelled
    if "parent_ends" in record.fields:
        verdict, error = "cancelled", RunCancelled(f"run {record.fields['parent']}, which started it, is ending")
    else:
        verdict = "failed"
        error = RunTimeout(f"the run did not end within {int(record.fields['timeout']) / 1000:g} s")
    engine.end_run(run_id, verdict=verdict, failure=NodeFailure.of(error, flow_name=record.flow), only_late=True)
