"""Reconciler: makes every lost message harmless, by due timers, wait queues, expired leases and runs without progress.

It runs in every worker, with one leader at a time, and only repeats what a message would have done. Each step is a
script that does nothing where there is nothing to do, so two leaders publish twice at worst.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from orchestrator.errors import NodeFailure, RunTimeout, StoreError, StoreFull, StoreUnavailable
from orchestrator.fault_points import fault_point
from orchestrator.liveness.leases import INLINE, end_claim, end_holder
from orchestrator.messaging.queue_inspection import QueueHead, look_at_queue
from orchestrator.sparing_log import log_error_sparingly, warn_sparingly
from orchestrator.store.run_store import Claim
from orchestrator.store.statistics import Measurer

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.definition.plan import Plan
    from orchestrator.engine import Engine
    from orchestrator.maintenance.run_events import Monitor

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")
LONGEST_NAP_MS = 100
"""Longest sleep of the timer loop: a timer that is set meanwhile may be due earlier than all it knew of."""
ROWS_AT_ONCE = 500
"""Runs, timers and index entries in one round."""
LOOK_AGAIN_MS = 1000
"""Time until the next look at a run."""
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
        self._id = uuid.uuid4().hex
        self._period_s = engine.settings.reconcile_every.total_seconds()
        self._leads_until = 0.0
        self._calm_until = 0.0
        self._stopped = threading.Event()
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
        while not self._stopped.is_set():
            self.monitor.note_watching()  # in every worker: its own pool processes send the events of their nodes
            self._guarded(self._sweep_if_leader)
            self._stopped.wait(self._period_s)

    def _timer_loop(self) -> None:
        while not self._stopped.is_set():
            nap_ms = LONGEST_NAP_MS
            if time.monotonic() < self._leads_until:
                nap_ms = self._guarded(self.fire_due) or 0
            self._stopped.wait(max(nap_ms, 5) / 1000)  # what is due and fails stays due, which must not spin

    def _guarded(self, step: Callable[[], Answer]) -> Answer | None:
        """Do a step; an error is logged, and the next round tries again."""
        try:
            with self.store.guarded():
                return step()
        except StoreFull as error:
            # Attempts whose commit Redis refuses wait past their deadline; before any is ended they get one lease to
            # commit.
            self._calm_until = time.monotonic() + self.engine.settings.lease.total_seconds()
            warn_sparingly(logger, "reconciler: %s", error)
        except StoreError as error:
            warn_sparingly(logger, "reconciler: %s", error)
        except Exception as error:  # noqa: BLE001 - the next round tries again
            log_error_sparingly(logger, error, "reconciler: a step failed")
        return None

    def _for_run(self, run_id: str, step: Callable[[], object]) -> None:
        """Do a step for one run; what is wrong with that run must not keep the others waiting.

        Raises:
            StoreFull: No other run gets further either.
            StoreUnavailable: As above.
        """
        try:
            with self.store.guarded():
                step()
        except (StoreFull, StoreUnavailable):
            raise
        except StoreError as error:
            warn_sparingly(logger, "reconciler: run %s: %s", run_id, error)
        except Exception as error:  # noqa: BLE001 - as above
            log_error_sparingly(logger, error, "reconciler: run %s: a step failed", run_id)

    def _sweep_if_leader(self) -> None:
        lock_ms = round(2000 * self._period_s)  # two periods: a sweep that takes longer than one keeps its lead
        if not self.store.upkeep.lead(self._id, lock_ms=lock_ms):
            self._leads_until = 0.0
            return
        self._leads_until = time.monotonic() + lock_ms / 1000
        self.sweep()

    def sweep(self) -> None:
        """Do one round of what the leader does every `Settings.reconcile_every`."""
        fault_point("sweep")
        # After a gap between sweeps nobody may have been able to renew: the script forbids to end leases for one lease.
        now, may_end, went_back = self.store.scripts.sweep_tick(lease_ms=self.store.lease_ms)
        if went_back:
            logger.error("Redis's clock or state went back: was an older copy restored, or did a replica take over?")
        if may_end and time.monotonic() > self._calm_until:
            self._end_leases(now)
        self._look_at_runs(now)
        self.store.scripts.mend_indexes(at_most=ROWS_AT_ONCE)
        self.store.upkeep.clean_indexes(now, count=ROWS_AT_ONCE)
        self.monitor.forward()
        self._measurer.measure()

    def _end_leases(self, now: int) -> None:
        for holder, lease_end in self.store.upkeep.holders():
            if lease_end < now:
                # The lease is checked once more before the holder is forgotten: it may be renewed while its claims end.
                end_holder(self.engine, holder, "its worker did not renew its lease", only_late=True)
                continue
            margin = INLINE_HANGS_AFTER_MS if holder.endswith(INLINE) else HANGS_AFTER_MS
            for claim in self.store.claims(holder):
                if claim.deadline + margin < now:
                    end_claim(self.engine, claim, "it did not stop", timed_out=True)

    def _look_at_runs(self, now: int) -> None:
        heads: dict[str, QueueHead] = {}
        for run_id in self.store.upkeep.runs_to_look_at(now, count=ROWS_AT_ONCE):
            self._for_run(run_id, partial(self._look_at, run_id, heads, now))

    def _look_at(self, run_id: str, heads: dict[str, QueueHead], now: int) -> None:
        pinned = self.engine.pinned(run_id)
        if pinned is None:
            self.store.upkeep.forget_live(run_id)
            return
        record, plan = pinned
        epoch, findings = self.store.scripts.inspect_run(run_id, plan.hash, again_ms=LOOK_AGAIN_MS)
        again = []
        for seen in findings:
            if seen.kind == "ready":
                # Published again only if its message cannot be in the queue any more, so that a long queue is never
                # multiplied.
                queue = plan.nodes[seen.node].queue
                head = heads.get(queue) or heads.setdefault(queue, look_at_queue(self.engine.app, queue))
                if head.may_have_lost(int(seen.detail), now):
                    again.append(seen.node)
            elif seen.kind == "awake":  # parked, but neither a timer nor a wait queue knows of it
                self.engine.wake(record, plan, seen.node)
            else:
                end_claim(self.engine, Claim(run_id, seen.node, seen.detail, 0), "its worker is gone", timed_out=False)
        if again:
            moved = self.store.scripts.republish(run_id, plan.hash, epoch, again)
            fault_point("after_republish")
            self.engine.publish(plan, run_id, epoch, moved.work)

    def fire_due(self) -> int:
        """Publish what timers and wait queues release; return milliseconds to the next due instant."""
        wait, timers, buckets = self.store.scripts.due_timers(at_most_ms=LONGEST_NAP_MS, count=ROWS_AT_ONCE)
        for bucket in buckets:
            next_look, members = self.store.scripts.release(bucket)
            # A leader that dies here leaves members that no wait queue holds: inspect_run reports them as awake.
            fault_point("after_release")
            timers += members
            wait = min(wait, next_look) if next_look >= 0 else wait
        for member in timers:
            run_id, node = member.split("|")
            self._for_run(run_id, partial(self._fire, run_id, node))
        return wait

    def _fire(self, run_id: str, node: str) -> None:
        pinned = self.engine.pinned(run_id)
        if pinned is None:
            self.store.upkeep.forget_timer(run_id, node)
            return
        record, plan = pinned
        if node:
            self.engine.wake(record, plan, node)
            return
        end_late_run(self.engine, run_id, plan)


def end_late_run(engine: Engine, run_id: str, plan: Plan) -> None:
    """End a run that is past the time that its flow gives it."""
    # Checked again by the script: a resume meanwhile gives the run another deadline.
    error = RunTimeout(f"the run did not end within {plan.timeout_ms / 1000:g} s")
    engine.end_run(run_id, verdict="failed", failure=NodeFailure.of(error, flow_name=plan.flow), only_late=True)
