"""Leases of processes that may hold claims: renewed while a process lives, ended when it dies.

In a prefork pool the main process renews for its children, because a function that holds the interpreter stops every
thread of a child. The scripts decide what happens to a claim that ended.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

import billiard
import redis

from orchestrator.definition.plan import FORMAT, node_of
from orchestrator.errors import (
    NodeFailure,
    NodeTimeout,
    OutcomeUnknown,
    RunError,
    StoreError,
    StoreFull,
    StoreRefused,
)
from orchestrator.fault_points import fault_point
from orchestrator.liveness.fork_gate import gate
from orchestrator.liveness.pool_processes import in_pool_process, missing_flows, new_processes, tokens_of
from orchestrator.sparing_log import log_error_sparingly, warn_sparingly
from orchestrator.store.refusals import concerns_all

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from orchestrator.definition.plan import Plan
    from orchestrator.engine import Engine
    from orchestrator.store.run_store import Claim
    from orchestrator.store.scripts.results import Moved

logger = logging.getLogger(__name__)
WATCH_EVERY_S = 0.25
"""Time between two looks at the pool processes; that much later a death is noticed."""
LOOK_EVERY_S = 1.0
"""Time between two looks for claims that no process executes."""
BUSY_FOR_S = 5.0
"""Time after its last attempt for which a worker looks that often."""
ANNOUNCE_EVERY_S = 2.0
"""Shortest time between two announcements of a worker whose state changes; else it announces with its leases."""
SEEN_AFTER_MS = 1000
"""Time from the announcement of a worker to when every other one knows of it."""
LOOKS_AT_ONCE = 1000
REPLACES_FOR_S = 5.0
"""Time from the replacement of a pool process within which messages that wait for one are not taken for lost."""
WORKER_VARIABLE = "ORCHESTRATOR_WORKER_ID"
FOLLOWS = {
    "again": "attempt {} of {} follows at once",
    "parked": "attempt {} of {} follows in {:g} s",
    "ended": "no attempt follows",
    "paused": "no attempt follows, until somebody says what becomes of it",
    "fenced": "it had committed or was ended before",
}
"""What follows an attempt that was lost, by the answer of the script."""
INLINE = "inline"
"""Suffix of the holder of a worker without pool processes, in which nothing can interrupt a function."""

_missing: set[str] = set()
_names: dict[int, str] = {}  # by process id: a forked process does not go on under its parent's name


def name_worker() -> None:
    """Give this worker an identity that its pool processes inherit and that no later worker has."""
    os.environ[WORKER_VARIABLE] = uuid.uuid4().hex
    _names.clear()


def forget_worker() -> None:
    """Take this process's identity as a worker away."""
    os.environ.pop(WORKER_VARIABLE, None)
    _names.clear()


def holder_of(pid: int) -> str:
    """Return the holder that a pool process of this worker is."""
    return f"{os.environ.get(WORKER_VARIABLE, 'none')}/{pid}"


def holder_name() -> str:
    """Return the holder that this process is."""
    pid = os.getpid()
    if (name := _names.get(pid)) is None:
        name = _names[pid] = holder_of(pid) if in_pool_process() else f"{holder_of(pid)}/{INLINE}"
    return name


def note_missing(task: str) -> None:
    """Note that a pool process of this worker does not have a task that its main process has."""
    _missing.add(task)


def end_claim(engine: Engine, claim: Claim, why: str, *, timed_out: bool) -> None:
    """End a claim whose attempt will never finish, and publish what follows from it."""
    pinned = engine.pinned(claim.run_id)
    if pinned is None:
        if not engine.store.has_run(claim.run_id):
            drop_claim(engine, claim, "its run is gone")
            return
        raise RunError("its plan is gone", run_id=claim.run_id, node_name=claim.node)
    record, plan = pinned
    attempts = plan.nodes[node_of(claim.node)].attempts
    node = engine.store.node(claim.run_id, claim.node)
    attempt = node.get("attempt", 0)
    where: dict[str, Any] = {"flow_name": plan.flow, "node_name": claim.node, "attempt": attempt}
    error: OutcomeUnknown | NodeTimeout = OutcomeUnknown(f"{why}; whether its effects happened is not known")
    delay = 0
    if timed_out:
        error = NodeTimeout(f"the attempt {_overrun(plan, claim, node)}: {why}")
        delay = plan.delay_ms(claim.node, max(attempt, 1))
    failure = NodeFailure.of(error, **where)
    fault_point("before_lose", claim.node)

    def expire() -> Moved:
        # The token fences it: an attempt that commits meanwhile wins, and the script does nothing.
        with engine.store.guarded():
            return engine.store.scripts.expire_claim(
                claim.run_id,
                plan.hash,
                claim.node,
                claim.token,
                failure=failure.model_dump_json(),
                timed_out=timed_out,
                delay_ms=delay,
            )

    try:
        moved = expire()
    except StoreRefused:
        # The script fails where the plan is gone from Redis; this process has kept it.
        if not engine.put_back(plan):
            raise
        moved = expire()
    outcome = FOLLOWS.get(moved.outcome, moved.outcome).format(attempt + 1, attempts, delay / 1000)
    logger.warning(
        "flow %s run %s node %s: attempt %d has ended: %s; %s",
        plan.flow, claim.run_id, claim.node, attempt, why, outcome,
    )  # fmt: skip
    fault_point("after_lose", claim.node)
    engine.publish(plan, claim.run_id, record.epoch, moved.work)
    if moved.outcome in {"fenced", "unknown"}:
        drop_claim(engine, claim, "its run knows nothing of it")


def _overrun(plan: Plan, claim: Claim, record: Mapping[str, Any]) -> str:
    """Say which limit an attempt is past; its node's deadline may leave it less than the timeout."""
    node = plan.nodes[node_of(claim.node)]
    ends = record.get("deadline", 0)
    if node.heartbeat_ms and claim.deadline < ends:
        return f"has reported no heartbeat for {node.heartbeat_ms / 1000:g} s"
    limit_ms = min(node.timeout_ms, ends - record["started"]) if "ends" in record and ends else node.timeout_ms
    return f"was past its timeout of {limit_ms / 1000:g} s"


def drop_claim(engine: Engine, claim: Claim, why: str) -> None:
    """Take a claim that nothing ends any more out of the record of its process, which would never be forgotten."""
    with engine.store.guarded():
        is_dropped = engine.store.scripts.drop_claim(claim.holder, claim.run_id, claim.node, claim.token)
    if is_dropped:
        logger.warning("run %s node %s: a claim of %s is dropped: %s", claim.run_id, claim.node, claim.holder, why)


def end_holder(engine: Engine, holder: str, why: str, *, only_late: bool = False) -> None:
    """End every claim of a process that is gone, then forget it; a claim that cannot be ended keeps no other waiting.

    Raises:
        StoreFull: No claim can be ended now.
        StoreUnavailable: As above.
    """
    with engine.store.guarded():
        now = engine.store.now_ms()
        claims = engine.store.claims(holder)
    for claim in claims:
        try:
            # A lost attempt past its deadline has timed out, and is retried with the delay of its policy.
            end_claim(engine, claim, why, timed_out=claim.deadline < now)
        except Exception as error:  # whatever else it is, it is about this run alone
            if concerns_all(error):
                raise
            log_error_sparingly(logger, error, "run %s node %s: its claim cannot be ended", claim.run_id, claim.node)
    with engine.store.guarded():
        engine.store.scripts.forget_holder(holder, only_late=only_late)


def is_running(pid: int) -> bool:
    """Return whether a pool process of this worker runs; a zombie does not."""
    try:
        # WNOWAIT leaves the exit status where it is: Celery's pool has to reap its children itself.
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        # A fork server's children are not this process's; the server reaps them at once.
        return billiard.get_start_method() == "forkserver" and _exists(pid)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class LeaseRenewer(threading.Thread):
    """Renews the leases of a worker's processes and ends those of the dead, in a thread of the main process."""

    def __init__(
        self,
        engine: Engine,
        describe: Callable[[], dict[str, Any]] = dict,
        waiting: Callable[[], Collection[str]] = list,
    ) -> None:
        """Take what there is to say of the worker beside its queues and flows, as JSON values, and of its messages.

        Args:
            engine: The engine.
            describe: Called for the former.
            waiting: Called for the nodes whose message waits for a pool process.
        """
        super().__init__(name="orchestrator-leases", daemon=True)
        self.engine = engine
        self._describe, self._waiting = describe, waiting
        self._began = 0  # the instant at which it was announced first, on Redis's clock
        self._announced: dict[str, Any] = {}
        self._announced_at = 0.0
        self.known: dict[int, int] = {}  # process id to place in the pool; the watchdog's thread reads it
        self._replaced = float("-inf")
        self._renewed = 0.0
        self._looked = 0.0
        self._busy = time.monotonic()
        self._suspects: dict[str, float] = {}
        self._ended = threading.Event()

    # In a thread: Celery's timers stop in a warm shutdown, while the children still work under these leases.
    def run(self) -> None:
        """Renew until it is ended, also while a warm shutdown waits for the children."""
        while not self._ended.is_set():
            with gate.closed():
                self._beat_guarded()
            self._ended.wait(WATCH_EVERY_S)

    def _beat_guarded(self) -> None:
        try:
            self.beat()
        except StoreError as error:
            warn_sparingly(logger, "leases are not renewed: %s", error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next beat tries again
            log_error_sparingly(logger, error, "leases are not renewed")

    def end(self) -> None:
        """Stop renewing."""
        self._ended.set()

    def holders(self) -> dict[str, int | None]:
        """Return the holders of this worker, with their places in the pool; without a pool, this process."""
        return {holder_of(pid): index for pid, index in self.known.items()} or {holder_name(): None}

    def beat(self) -> None:
        """Renew what is due; end the claims of children that died, and those that no process executes."""
        self.engine.close_deserted()
        born = new_processes()
        self.known |= born  # first: a process that died since it began has to be missed too
        if born:
            self._replaced = time.monotonic()
        for pid in [pid for pid in self.known if not is_running(pid)]:
            end_holder(self.engine, holder_of(pid), f"its worker process {pid} died")
            del self.known[pid]  # only now: an error of Redis in the line above makes the next beat try again
        lease_s = self.engine.settings.lease.total_seconds()
        # A third of the lease, so that two renewals may fail before it ends.
        if time.monotonic() - self._renewed >= lease_s / 3:
            with self.engine.store.guarded():
                self.engine.store.scripts.renew(list(self.holders()), lease_ms=self.engine.store.lease_ms)
                self._announce(flows=True)
            self._renewed = time.monotonic()
        elif time.monotonic() - self._announced_at >= ANNOUNCE_EVERY_S and self._state() != self._announced:
            with self.engine.store.guarded():
                self._announce()
        # A worker at rest asks once in a lease: it can hold a claim only because an answer was lost.
        tokens = (token for index in self.holders().values() for token in tokens_of(index))
        if self._suspects or any(token.strip("0") for token in tokens):  # a place without an attempt has zeros
            self._busy = time.monotonic()
        is_busy = time.monotonic() - self._busy < BUSY_FOR_S
        if time.monotonic() - self._looked >= (LOOK_EVERY_S if is_busy else max(LOOK_EVERY_S, lease_s)):
            self._end_forgotten()
            self._looked = time.monotonic()
        if time.monotonic() - self._replaced < REPLACES_FOR_S:
            self._note_received()

    def _note_received(self) -> None:
        """Keep the leader from sending what waits here again: each copy would cost one more process.

        A message behind a long task is not kept from being sent again: another worker may be idle.
        """
        try:
            if waiting := self._waiting():
                with self.engine.store.guarded():
                    self.engine.store.upkeep.note_received(waiting, self.engine.store.now_ms())
        except (RuntimeError, StoreFull) as error:  # the next beat says it
            logger.debug("what waits in this worker is not noted: %s", error)

    def _end_forgotten(self) -> None:
        """End claims that their process does not execute, once they were seen so twice."""
        suspects: dict[str, float] = {}
        holders = self.holders()
        with self.engine.store.guarded():
            claims = self.engine.store.claims(*holders)
        for claim in claims:
            # The claims are read before the tokens: one that ends in between looks forgotten, but only once.
            if claim.token in tokens_of(holders[claim.holder]):
                continue
            suspects[claim.token] = self._suspects.get(claim.token, time.monotonic())
            if time.monotonic() - suspects[claim.token] >= LOOK_EVERY_S:
                self._end_forgotten_claim(claim)
        self._suspects = suspects

    def _end_forgotten_claim(self, claim: Claim) -> None:
        try:
            end_claim(self.engine, claim, "its process does not execute it any more", timed_out=False)
        except Exception as error:  # as in end_holder: leases have to be renewed whatever becomes of it
            if concerns_all(error):
                raise
            log_error_sparingly(logger, error, "run %s node %s: its claim cannot be ended", claim.run_id, claim.node)

    def _state(self) -> dict[str, Any]:
        flows = self.engine.registry.flows
        missing = {node.task for name in missing_flows() & flows.keys() for node in flows[name].plan.nodes.values()}
        return {
            "queues": list(self.engine.app.amqp.queues.consume_from),
            "flows": {name: list(entry.plan.nodes) for name, entry in flows.items()},
            "versions": {name: entry.plan.hash for name, entry in flows.items()},
            "began": self._began,
            "format": FORMAT,
            "missing": sorted(missing | _missing),
            **self._describe(),
        }

    def _announce(self, *, flows: bool = False) -> None:
        """Announce what this worker consumes, has code for and is busy with; a full Redis may refuse it.

        Args:
            flows: Also announce flows whose announcement is gone: Redis was emptied, or an older copy was restored.
        """
        is_new = not self._began
        self._began = self._began or self.engine.store.now_ms()
        state = self._state()
        try:
            if flows:
                self._put_back_plans()
            announced = self.engine.store.announced() if flows else state["flows"]
            for name, entry in self.engine.registry.flows.items():
                if name not in announced:
                    self.engine.announce(entry)
            # Its clock is no part of the state, which would differ each time.
            self.engine.store.announce_worker(os.environ[WORKER_VARIABLE], state | {"clock": time.time()})
            if is_new:  # what waits for its code is looked at when the leader has seen it
                began = self._began
                self.engine.store.upkeep.bring_looks_forward(began, to=began + SEEN_AFTER_MS, count=LOOKS_AT_ONCE)
            self._announced, self._announced_at = state, time.monotonic()
        except (redis.OutOfMemoryError, StoreFull):  # only `explain` misses it: leases are renewed in a full Redis too
            warn_sparingly(logger, "Redis is full: this worker is not announced")

    def _put_back_plans(self) -> None:
        """Store plans again that a leader has missed, if this process has them."""
        for part in self.engine.store.aside.parts():
            if part.kind == "plan" and (plan := self.engine.known_plan(part.name)) is not None:
                self.engine.put_back(plan)

    def withdraw(self) -> None:
        """Withdraw what this worker announced."""
        try:
            with self.engine.store.guarded():
                self.engine.store.withdraw_worker(os.environ[WORKER_VARIABLE])
        except StoreError as error:
            logger.warning("this worker is announced until its lease ends: %s", error)

    def stop_children(self, why: str) -> None:
        """Kill the children that still run, then give their claims back, and this process's own."""
        # Also those whose birth no beat has read yet: they would go on beside the attempts that take their place.
        running = [pid for pid in {**self.known, **new_processes()} if is_running(pid)]
        # Killed before their claims are given back: another worker may start those attempts at once.
        for pid in running:
            # Not SIGTERM: a function may catch it, or hold the interpreter, and go on beside the attempt that takes its
            # place.
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while any(map(is_running, running)) and time.monotonic() < deadline:
            time.sleep(0.01)
        self.give_back([holder_of(pid) for pid in running] + [holder_name()], why)

    def give_back(self, holders: Iterable[str], why: str) -> None:
        """End the claims of processes of this worker."""
        for holder in holders:
            try:
                end_holder(self.engine, holder, why)
            except StoreError as error:
                logger.warning("claims of %s are left to their lease: %s", holder, error)
