"""Engine: the registry, store and publisher that the parts of one process share for a Celery app.

It belongs to the app and is found through it, so that every task of the app reaches the same one.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

from orchestrator.definition.plan import FIRST_FORMAT, FORMAT
from orchestrator.definition.policies import SLOTS
from orchestrator.definition.priority import first_epoch
from orchestrator.errors import ConfigurationError, NodeFailure, RunCancelled, StoreError, StoreRefused, UnknownRun
from orchestrator.fault_points import fault_point
from orchestrator.messaging.priorities import refuse_priority
from orchestrator.messaging.publisher import Publisher
from orchestrator.messaging.start_checks import StartChecks, refuse_old_workers, refused_eviction
from orchestrator.middleware import Middlewares
from orchestrator.store.broken_runs import abandon_run
from orchestrator.store.fleet import Fleet
from orchestrator.store.idle_connections import close_deserted
from orchestrator.store.refusals import was_refused
from orchestrator.store.scripts.results import (
    ELSEWHERE,
    MORE,
    RESUME_CHILD,
    UNDO_CHILD,
    WAKE_NEXT,
    WAKE_PARENT,
    Moved,
    Started,
    Work,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from celery import Celery

    from orchestrator.definition.plan import Plan
    from orchestrator.definition.registry import Registered, Registry
    from orchestrator.discovery import Discovery
    from orchestrator.settings import Settings
    from orchestrator.store.run_store import RunRecord, Store
    from orchestrator.store.scripts.children import FirstClaim, Spawned

    Keep: TypeAlias = Callable[[Plan, str, int, Work], bool]

logger = logging.getLogger(__name__)
STARTS: Final = {"started", "exists", "conflict"}
"""Answers that are the end of a start without a schedule."""
DESERTED_EVERY_S = 10.0
MOST_FOLLOWED = 100
"""Steps in other runs that one process makes behind one transition."""


@dataclass
class Engine:
    """One app's share of the engine.

    Attributes:
        app: The Celery app.
        settings: The settings.
        registry: The flows of this process.
        store: The run store.
        publisher: Sends messages through the app.
        middlewares: What is wrapped around the call of every node.
        discovery: Where flows are searched.
        fleet: The workers that announced themselves.
    """

    app: Celery
    settings: Settings
    registry: Registry
    store: Store
    publisher: Publisher = field(init=False)
    middlewares: Middlewares = field(default_factory=Middlewares)
    discovery: Discovery = field(init=False)
    fleet: Fleet = field(init=False)
    _deserted_at: float = field(init=False, default=0.0)

    ATTRIBUTE: ClassVar[str] = "_orchestrator_engine"

    def __post_init__(self) -> None:
        """Make the publisher of the app, and the view of its workers."""
        self._checks = StartChecks(self.app, self.store)
        self.publisher = Publisher(self.app, self.store)
        self.fleet = Fleet(self.store)

    def pinned(self, run_id: str) -> tuple[RunRecord, Plan] | None:
        """Return a run with the plan it pins; None when either is gone."""
        try:
            record = self.store.run(run_id)
        except UnknownRun:
            return None
        plan = self.store.plan(record.plan)
        return (record, plan) if plan else None

    def close_deserted(self) -> None:
        """Close this process's idle connections that the other side has closed; looks for them every ten seconds."""
        if time.monotonic() >= self._deserted_at:
            self._deserted_at = time.monotonic() + DESERTED_EVERY_S
            close_deserted(self.store.client.connection_pool)
            self.publisher.close_deserted()

    def publish(self, plan: Plan, run_id: str, epoch: int, work: Work, *, keep: Keep | None = None) -> None:
        """Do what is left of a transition in portions, and in other runs of its tree, then send what that left.

        Args:
            plan: The plan that the run pins.
            run_id: The run.
            epoch: Its epoch.
            work: What the transition left.
            keep: Answers whether it takes over what became ready in another run; the rest is sent.
        """
        try:
            if (own := self.complete(plan, run_id, work)).kind in ELSEWHERE:
                left = self.resolve(plan, run_id, epoch, own)
                self.publisher.publish_all(each for each in left if keep is None or not keep(*each))
            else:
                self.publisher.publish(plan, run_id, epoch, own)
        except StoreError as error:
            logger.warning("flow %s run %s: a transition is left to the reconciler: %s", plan.flow, run_id, error)

    def resolve(self, plan: Plan, run_id: str, epoch: int, work: Work) -> Iterator[tuple[Plan, str, int, Work]]:
        """Do what is left of a transition in portions, and what it asks of other runs of its tree, one after the other.

        Yields:
            Plan, run, epoch and work, where something is to be published.

        Raises:
            StoreError: As `complete`.
        """
        work = self.complete(plan, run_id, work)
        for _ in range(MOST_FOLLOWED):  # behind that many the leader goes on, by the timers that the scripts wrote
            if work.kind not in ELSEWHERE:
                yield plan, run_id, epoch, work
                return
            parent = run_id
            run_id, node, plan_hash, stored_epoch = work.names
            if (pinned := self.store.plan(plan_hash)) is None:
                return
            plan, epoch = pinned, int(stored_epoch)
            fault_point(f"before_{work.kind}", node)
            with self.store.guarded():
                moved = MOVES[work.kind](self.store, run_id, plan, node, f"{parent}/{node}/{epoch}")
            fault_point(f"after_{work.kind}", node)
            # Both begin a new epoch, and messages of the one before would do nothing.
            epoch += moved.outcome in {"undone", "resumed"}
            work = self.complete(plan, run_id, moved.work)

    def complete(self, plan: Plan, run_id: str, work: Work) -> Work:
        """Do the portions that are left of a transition which touches more records than one script may.

        Returns:
            What is to be published then.

        Raises:
            StoreError: Redis refused a portion, or did not answer; the reconciler goes on.
        """
        while work.kind == MORE:
            fault_point("between_portions")
            with self.store.guarded():
                work = self.store.scripts.go_on(run_id, plan.hash).work
        return work

    def start(
        self,
        plan: Plan,
        input_json: bytes,
        *,
        run_id: str,
        tags: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        schedule: str = "",
        scheduled_ms: int | None = None,
        overlap: str = "allow",
        begins: str = "",
        traceparent: str = "",
        priority: int | None = None,
    ) -> Started:
        """Create a run and send its first message; a repeat answers with the existing run and sends nothing.

        With `begins`, as start.lua has it, the leader sends it when that instant has come.

        Raises:
            InvalidInput, ConfigurationError: As of `refuse`; nothing was written.
            StoreFull, StoreUnavailable: Redis; the same `run_id` or idempotency key again is safe.
        """
        self.refuse(plan, priority, is_newer=overlap == "queue")
        epoch = first_epoch(priority)
        given: dict[str, Any] = {"tags": tags, "idempotency_key": idempotency_key}
        given |= {"traceparent": traceparent, "epoch": epoch}
        fault_point("before_start")
        # The plan goes along only where the store says that it lacks it: it is larger than the rest of a start.
        for send_plan in (False, True):
            options = self._start_options(plan, run_id, input_json, **given)
            options |= {"schedule": schedule, "scheduled_ms": scheduled_ms, "overlap": overlap, "begins": begins}
            options["send_plan"] = send_plan
            with self.store.guarded():
                started = self.store.scripts.start(run_id, plan, **options)
            if started.outcome != "no plan":
                break
            plan = self._as_announced(plan)
        fault_point("after_start")
        if started.outcome == "evicts":
            raise ConfigurationError(refused_eviction(plan.flow, started.run_id))
        if started.outcome == "started":
            # The run is stored: what is lost from here on, its message as well, the reconciler does.
            self.publisher.publish_first(plan, run_id, epoch, started.work)
        return started

    def spawn(
        self,
        run_id: str,
        plan: Plan,
        node: str,
        token: str,
        child: Plan,
        *,
        priority: int | None,
        keep: Keep | None = None,
        claim_of: Callable[..., FirstClaim | None] | None = None,
        **options: Any,
    ) -> Spawned:
        """Start a run of another flow for a node that waits for it from then on, and send its first message.

        Args:
            run_id: The run of the node.
            plan: The plan that it pins.
            node: The node.
            token: The token of its claim.
            child: The plan of the other flow.
            priority: That of the run, which the other one has, too.
            keep: As of `publish`; with it, the script that starts the run sends nothing.
            claim_of: Says of plan, id and epoch of the other run what is claimed with its start.
            options: What spawn.lua takes besides, and `input_json`.

        Raises:
            ConfigurationError: The child would hang, as the app's settings or the store show; nothing was written.
            StoreError: Redis; the same call again is safe.
        """
        self.refuse(child)
        begun = first_epoch(priority)
        given = self._start_options(
            child, "", options.pop("input_json"), tags=None, idempotency_key=None, traceparent="", epoch=begun
        )
        # It names the child, whose id is not known before the store has said its number: `message_of` makes it then.
        del given["message"]
        message_of = (lambda *_: ("", "")) if keep else partial(self.publisher.first_message, epoch=begun)
        options |= given | {"message_of": message_of, "number": 1}
        options["claim_of"] = partial(claim_of, epoch=begun) if claim_of else None
        child, spawned = self._spawn((run_id, plan.hash, node, token), child, options)
        if spawned.outcome == "evicts":
            raise ConfigurationError(refused_eviction(child.flow, spawned.detail))
        if spawned.started is not None:
            fault_point("after_spawn", node)
            started = (child, spawned.started.run_id, begun, spawned.started.work)
            if not spawned.is_claimed and (keep is None or not keep(*started)):
                self.publisher.publish_first(*started)
        return spawned

    def _spawn(self, claim: tuple[str, str, str, str], child: Plan, options: dict[str, Any]) -> tuple[Plan, Spawned]:
        """Call spawn.lua with the number of the child and the plan that it asks for; returns the child's plan, too."""
        while True:
            with self.store.guarded():
                spawned = self.store.scripts.children.spawn(*claim, child_plan=child, **options)
            if spawned.outcome == "number":  # it has started some before
                options["number"] = int(spawned.detail)
            elif spawned.outcome == "no plan" and not options["send_plan"]:
                child = self._as_announced(child)
                # A repeated call begins with the other plan, and would not know what was claimed under this one.
                options |= {"send_plan": True, "claim_of": None}
            else:
                return child, spawned

    def fork(self, plan: Plan, run_id: str, source: RunRecord, *, input_json: bytes, **options: Any) -> Moved:
        """Begin a fork of an ended run with what was copied beside it, and send its first messages.

        Args:
            plan: The plan that both pin.
            run_id: The fork; a second call under the same id changes nothing.
            source: The run.
            input_json: The input of the fork.
            options: What `Forking.fork` takes besides, `tags` and `traceparent`.

        Raises:
            StoreError: Redis; the same call again is safe.
        """
        epoch = first_epoch(source.priority)
        given: dict[str, Any] = {"tags": options.pop("tags"), "traceparent": options.pop("traceparent")}
        given = self._start_options(plan, "", input_json, **given, idempotency_key=None, epoch=epoch)
        given["send_plan"] = True
        with self.store.guarded():
            moved = self.store.scripts.forking.fork(run_id, plan, source, **given, **options)
        fault_point("after_fork")
        if moved.outcome == "started":
            self.publish(plan, run_id, epoch, moved.work)
        return moved

    def start_many(
        self, plan: Plan, given: Mapping[str, Mapping[str, Any]], *, priority: int | None
    ) -> list[Started | None]:
        """Create runs in one round trip and send their first messages.

        Args:
            plan: The plan of their flow.
            given: By run id: `input_json`, `tags`, `idempotency_key` and `traceparent`.
            priority: Of all of them; `refuse` has let it pass.

        Returns:
            For each what was answered; None if it has to be started alone, as the server refused it or lacks the plan.

        Raises:
            StoreUnavailable: Redis did not answer; the same run ids or idempotency keys again are safe.
        """
        epoch = first_epoch(priority)
        starts = {run_id: self._start_options(plan, run_id, **each, epoch=epoch) for run_id, each in given.items()}
        with self.store.guarded():
            answers = self.store.scripts.start_many(plan, starts)
        fault_point("after_starts")
        made = [each if isinstance(each, Started) and each.outcome in STARTS else None for each in answers]
        for run_id, started in zip(given, made, strict=True):
            if started is not None and started.outcome == "started":
                self.publisher.publish_first(plan, run_id, epoch, started.work)
        return made

    def refuse(self, plan: Plan, priority: int | None = None, *, is_newer: bool = False) -> None:
        """Refuse to start runs of a plan that would hang, or whose priority the broker would not keep.

        Args:
            plan: The plan.
            priority: Of the runs.
            is_newer: Whether older workers do not know what their records say, whatever the plan says.

        Raises:
            InvalidInput: The priority is none of the broker's.
            ConfigurationError: The app's settings or the store show it.
        """
        if priority is not None:
            self.refuse_priority(plan, priority)
        self._checks.refuse(plan, is_registered=plan.flow in self.registry.flows)
        needed = FORMAT if is_newer else plan.needed_format
        if needed > FIRST_FORMAT:
            refuse_old_workers(plan, self.fleet.workers(), needed)

    def refuse_priority(self, plan: Plan, priority: int) -> None:
        """Refuse a priority that the broker would not keep, as the app's settings show; raises as `refuse`."""
        refuse_priority(self.app, plan, priority, all_of_them=plan.flow in self.registry.flows)

    def _start_options(
        self,
        plan: Plan,
        run_id: str,
        input_json: bytes,
        *,
        tags: Mapping[str, str] | None,
        idempotency_key: str | None,
        traceparent: str,
        epoch: int,
    ) -> dict[str, Any]:
        return {
            "input_json": input_json,
            "tags": tags or {},
            "retention_ms": self.store.retention_ms,
            "history_limit": self.settings.history_limit,
            "chords": self.publisher.has_chords,
            "idempotency_key": idempotency_key,
            "message": self.publisher.first_message(plan, run_id, epoch) if run_id else ("", ""),
            "indexed_tags": self.settings.indexed_tags,
            "traceparent": traceparent,
            "epoch": epoch,
            "send_plan": False,
        }

    def _as_announced(self, plan: Plan) -> Plan:
        """Return the plan on the queue of the flow's workers, if this process has another default queue."""
        with self.store.guarded():
            announced = self.store.announced_plan(plan.flow)
        return (announced and self.registry.adopt_queue(announced)) or plan

    def wake(self, plan: Plan, run_id: str, epoch: int, node: str) -> None:
        """Make a parked node ready, and publish it."""
        fault_point("before_wake", node)
        moved = self.store.scripts.wake(run_id, plan.hash, node)
        fault_point("after_wake", node)
        self.publish(plan, run_id, epoch, moved.work)

    def release_slots(self, plan: Plan, node: str) -> None:
        """Wake nodes waiting for slots this attempt freed; the reconciler is the fallback."""
        for slots in (name for name in plan.nodes[node].limits if name.startswith(SLOTS)):
            try:
                with self.store.guarded():
                    for member in self.store.scripts.release(slots)[1]:
                        run_id, waiting = member.split("|")
                        if pinned := self.pinned(run_id):
                            record, pinned_plan = pinned
                            self.wake(pinned_plan, run_id, record.epoch, waiting)
            except StoreError as error:
                logger.warning("flow %s node %s: its slot is left to the reconciler: %s", plan.flow, node, error)

    def has_other_code(self, plan: Plan, node: str) -> bool:
        """Return whether workers of another version than this process take a node's messages and have code that fits.

        Raises:
            StoreUnavailable: Redis did not answer.
        """
        entry = self.registry.flows.get(plan.flow)
        return bool(self.fleet.fitting(plan, node, besides=entry.plan.hash if entry else ""))

    def announce(self, entry: Registered) -> None:
        """Announce to every process that this one has the code of a flow."""
        with self.store.guarded():
            self.store.scripts.announce_flow(entry.plan, retention_ms=self.store.retention_ms)

    def end_run(self, run_id: str, *, verdict: str, failure: NodeFailure, only_late: bool = False) -> Moved:
        """Give a run its verdict from outside, and publish its compensations if nothing runs any more."""
        try:
            record = self.store.run(run_id)
        except UnknownRun:
            return Moved("unknown")
        plan = self.store.plan(record.plan) or self.known_plan(record.plan)

        def cancel() -> Moved:
            with self.store.guarded():
                return self.store.scripts.cancel(
                    run_id, record.plan, verdict=verdict, failure=failure.model_dump_json(), only_late=only_late
                )

        try:
            moved = cancel()
            if moved.outcome == "broken" and plan is not None and self.put_back(plan):
                moved = cancel()
        except StoreRefused as error:  # a script that fails on a record that it cannot read
            if was_refused(error):  # Redis lets nobody in for a while
                raise
            moved = Moved("broken")
        if moved.outcome == "broken":
            return Moved(abandon_run(self.store, record, verdict=verdict, failure=failure))
        if plan is not None:
            self.publish(plan, run_id, record.epoch, moved.work)
        return moved

    def known_plan(self, plan_hash: str) -> Plan | None:
        """Return a plan that this process has registered or read, wherever it is now."""
        plans = (entry.plan for entry in self.registry.flows.values())
        return next((plan for plan in plans if plan.hash == plan_hash), None) or self.store.known_plan(plan_hash)

    def put_back(self, plan: Plan) -> bool:
        """Store a plan again that the store has lost; returns whether it had."""
        with self.store.guarded():
            was_gone = self.store.scripts.restore_plan(plan)
            if was_gone:
                self.store.aside.clear("plan", plan.hash)
        if was_gone:
            logger.warning("flow %s: its plan %s was gone from Redis and is put back", plan.flow, plan.hash)
        return was_gone


def _wake(store: Store, run_id: str, plan: Plan, node: str, _token: str) -> Moved:
    return store.scripts.wake(run_id, plan.hash, node)


def _undo_child(store: Store, run_id: str, plan: Plan, _node: str, token: str) -> Moved:
    failure = NodeFailure.of(RunCancelled("the run that started it is rolled back"), flow_name=plan.flow)
    return store.scripts.undo(run_id, plan.hash, token=token, failure=failure.model_dump_json())


def _resume_child(store: Store, run_id: str, plan: Plan, _node: str, token: str) -> Moved:
    return store.scripts.resume(run_id, plan.hash, token=token)


MOVES: Final = {WAKE_PARENT: _wake, WAKE_NEXT: _wake, UNDO_CHILD: _undo_child, RESUME_CHILD: _resume_child}
"""What is done to another run, by the kind of the work; the token is the same if it is asked again in its epoch."""


def engine_of(app: Celery) -> Engine:
    """Return the engine of an app; every task of the engine runs on an app that has one."""
    engine: Engine = getattr(app, Engine.ATTRIBUTE)
    return engine
