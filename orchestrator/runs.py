"""Run as its caller sees it: follow it, read what it stored, cancel it, resume it.

Every answer is read from Redis when it is asked for; a notification only makes a wait end sooner.
"""

from __future__ import annotations

import math
import secrets
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, overload

from orchestrator import answers
from orchestrator.definition.context import running_attempt
from orchestrator.definition.state import FlowState, RunStatus
from orchestrator.errors import InvalidInput, NodeFailure, RunCancelled, RunError, RunFailed, StoreUnavailable
from orchestrator.explain import Waiting, explain_run
from orchestrator.forks import UNCHANGED, fork_run
from orchestrator.maintenance.eager_runs import fire_due
from orchestrator.store.blocking_calls import call_in_thread
from orchestrator.store.history import Event
from orchestrator.store.run_view import RunView, show_run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from orchestrator.definition.node import Node
    from orchestrator.definition.plan import Plan
    from orchestrator.engine import Engine
    from orchestrator.store.run_store import RunRecord
    from orchestrator.store.standing import Standing

T = TypeVar("T")
READ_AGAIN_S = 1.0
OUTAGE_S = 60.0
PLAN_GONE = "the run cannot be taken up again: its plan is gone from Redis"


@dataclass(frozen=True)
class RunTree:
    """A run and what is below it, read one after the other.

    Attributes:
        run: The run.
        flow: Name of its flow.
        node: Node of the parent that started it; None at the top.
        status: The run's status.
        children: The runs that its nodes have started, oldest first.
    """

    run: FlowRun
    flow: str
    node: str | None
    status: RunStatus
    children: tuple[RunTree, ...]


class FlowRun:
    """One run of a flow, by its id. Holds no copy of its state.

    Attributes:
        id: The run's id.
    """

    def __init__(self, engine: Engine, run_id: str) -> None:
        self._engine = engine
        self.id = run_id

    def __repr__(self) -> str:
        """Show the id."""
        return f"FlowRun({self.id!r})"

    @property
    def _is_eager(self) -> bool:
        return bool(self._engine.app.conf.task_always_eager)

    def _record(self) -> RunRecord:
        return self._engine.store.run(self.id)

    @property
    def flow_name(self) -> str:
        """Name of the run's flow."""
        return self._record().flow

    @property
    def status(self) -> RunStatus:
        """The run's status now."""
        return self._engine.store.standing(self.id).status

    @property
    def error(self) -> NodeFailure | None:
        """The first failure of the run, or None."""
        return self._engine.store.standing(self.id).error

    @property
    def tags(self) -> Mapping[str, str]:
        """The tags given at the run's start."""
        return self._record().tags

    @property
    def priority(self) -> int | None:
        """The broker's number with which all of its messages are sent, or None if its start gave none."""
        return self._record().priority

    @property
    def created_at(self) -> datetime:
        """When the run was started, on Redis's clock."""
        return self._record().created

    @property
    def finished_at(self) -> datetime | None:
        """When the run ended, or None while it has not."""
        return self._record().finished

    @property
    def parent(self) -> FlowRun | None:
        """The run that started this one for a node of its flow; None of a run that stands at the top."""
        found = self._record().fields.get("parent")
        return FlowRun(self._engine, found) if found else None

    @property
    def forked_from(self) -> FlowRun | None:
        """The run that this one is a fork of; None of one that is none. Its record may be gone by now."""
        found = self._record().fields.get("forked_from")
        return FlowRun(self._engine, found) if found else None

    def forks(self) -> list[FlowRun]:
        """Return the runs that are forks of this one, oldest first; without those whose records are gone."""
        store = self._engine.store
        return [FlowRun(self._engine, each) for each in store.forks(self.id) if store.has_run(each)]

    def children(self) -> list[FlowRun]:
        """Return the runs that nodes of this one have started, oldest first."""
        return [FlowRun(self._engine, each) for each in self._engine.store.children(self.id)]

    def tree(self) -> RunTree:
        """Return this run with all runs below it."""
        record = self._record()
        below = tuple(child.tree() for child in self.children() if self._engine.store.has_run(child.id))
        return RunTree(self, record.flow, record.fields.get("parent_node"), record.status, below)

    def wait(self, timeout: float | timedelta | None = None) -> RunStatus:
        """Wait until the run has ended, however it ended; under `task_always_eager` run the retries that are due.

        Args:
            timeout: Seconds or timedelta; None waits without limit.

        Raises:
            TimeoutError: The run has not ended by then.
            InvalidInput: The timeout is neither.
            RunError: Called inside a node, where it would block a pool process.
            StoreUnavailable: Redis did not answer up to the timeout, or for a minute if there is none.
            UnknownRun: The run's record is gone.
        """
        return self._ended(timeout).status

    def _ended(self, timeout: float | timedelta | None) -> Standing:
        _refuse_inside_node(self.id)
        deadline = None if timeout is None else time.monotonic() + _seconds(timeout)
        down_since: float | None = None
        while True:
            try:
                standing = self._engine.store.standing(self.id)
                down_since = None
                return standing if standing.status.is_final else self._end(deadline, timeout)
            except StoreUnavailable:
                now = time.monotonic()
                down_since = down_since or now
                if now > (down_since + OUTAGE_S if deadline is None else deadline):
                    raise
                time.sleep(0.25)

    def _end(self, deadline: float | None, timeout: float | timedelta | None) -> Standing:
        store = self._engine.store
        with store.guarded(), store.listener.subscribed(store.keys.done(self.id), patience=READ_AGAIN_S) as hear:
            # Read behind the subscription: an end before it would have been published to nobody.
            while not (standing := store.standing(self.id)).status.is_final:
                left = READ_AGAIN_S if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"run {self.id} has not ended within {timeout} s: it is {standing.status}")
                hear(min(left, fire_due(self._engine, self.id) if self._is_eager else READ_AGAIN_S))
        return standing

    @overload
    def result(self, kind: type[T], timeout: float | timedelta | None = None) -> T: ...
    @overload
    def result(self, kind: Any = Any, timeout: float | timedelta | None = None) -> Any: ...
    def result(self, kind: Any = Any, timeout: float | timedelta | None = None) -> Any:
        """Wait for the run and return its result, validated against a type.

        Args:
            kind: Type of the result; Any takes the JSON as it is.
            timeout: As for `wait`.

        Returns:
            The output that the flow returns; None for a flow that returns none.

        Raises:
            RunFailed: The run did not succeed; `.error` is its first failure.
            TimeoutError: As `wait`.
        """
        return self._result(self._ended(timeout), kind)

    def _result(self, ended: Standing, kind: Any) -> Any:
        if ended.status is not RunStatus.SUCCEEDED:
            message = f"the run ended {ended.status}"
            error = ended.error or NodeFailure(
                flow_name=ended.flow, node_name=None, attempt=0, type="RunFailed", message=message
            )
            raise RunFailed(error, self.id)
        plan = self._engine.store.plan(ended.plan)
        key = plan.result_key if plan else ""
        return self._state(ended, None).get_or(key, kind, None) if key else None

    def output(self, key: str | Node[Any, Any], kind: Any = Any) -> Any:
        """Return one stored output, validated against a type.

        Args:
            key: Output key, or the node.
            kind: Type of the output.

        Raises:
            MissingOutputError: It is not stored; the message names the keys that are.
            InvalidInput: It does not fit the type.
        """
        return self.state().get(key, kind) if isinstance(key, str) else self.state().get(key)

    def state(self) -> FlowState:
        """Return everything the run has stored by now."""
        store = self._engine.store
        return self._state(store.standing(self.id), store.input(self.id))

    def _state(self, standing: Standing, given: bytes | None) -> FlowState:
        store = self._engine.store
        plan = store.plan(standing.plan)
        entry = self._engine.registry.flows.get(standing.flow)
        return FlowState(
            run_id=self.id,
            flow_name=standing.flow,
            input=given,
            input_codec=entry.flow.input_codec if entry else None,
            load=lambda keys: store.outputs(self.id, keys),
            load_failure=lambda node: store.failure(self.id, node),
            load_failures=lambda node: store.item_failures(self.id, node),
            list_keys=plan.list_keys if plan else frozenset(),
        )

    def failures(self) -> Mapping[str, NodeFailure]:
        """Return the failure of every node that ended failed or unknown, by node name."""
        return self._engine.store.failures(self.id)

    def history(self) -> list[Event]:
        """Return the run's events, oldest first; over `Settings.history_limit` the oldest are dropped."""
        store = self._engine.store
        return [
            Event(
                *(entry.at, entry.event, entry.node, entry.attempt),
                *(store.redaction.prose(entry.detail), entry.holder, store.redaction.prose(entry.error)),
            )
            for entry in store.history(self.id)
        ]

    def explain(self) -> list[Waiting]:
        """Return for every node that has not ended what it waits for: limiter, retry, holder, queue, code, parents."""
        record = self._record()
        return explain_run(self._engine, record)

    def cancel(self, reason: str = "") -> None:
        """Stop the run: nothing new starts, what succeeded is compensated, and it ends `cancelled`.

        Does nothing to a run that is ending or has ended.

        Raises:
            UnknownRun: There is no such run.
            StoreUnavailable: Redis did not answer; it is safe to try again.
        """
        record = self._record()
        failure = NodeFailure.of(RunCancelled(reason or "the run was cancelled"), flow_name=record.flow)
        self._engine.end_run(self.id, verdict="cancelled", failure=failure)

    def pause(self, reason: str = "") -> None:
        """Hold the run: what runs is finished, and nothing of it starts until `resume`.

        Timers, wait queues, timeouts and the run's own timeout go on; `cancel` works. A second call changes nothing.

        Raises:
            RunError: The run is ending or has ended.
            UnknownRun: There is no such run.
            StoreFull: Redis is full; nothing was changed.
            StoreUnavailable: Redis did not answer; it is safe to try again.
        """
        record, store = self._record(), self._engine.store
        with store.guarded():
            outcome = store.scripts.pause(self.id, record.plan, reason=reason)
        if outcome != "paused":
            message = f"the run is {self.status}; only a run that is neither ending nor ended can be paused"
            raise RunError(message, run_id=self.id, flow_name=record.flow)

    def resume(self) -> None:
        """Continue a run that is paused or has ended.

        A paused run goes on, with fresh attempts for the nodes that stand because theirs are exhausted. A failed or
        cancelled run goes forward from what succeeded and was not compensated, with fresh attempts. A run that ended
        compensation_failed repeats only the compensations that failed.

        Raises:
            RunError: The run is neither paused nor ended, or it succeeded.
            UnknownRun: There is no such run.
            StoreUnavailable: Redis did not answer; the status says whether the run was resumed.
        """
        record, plan = self._record_and_plan()
        if record.status is not RunStatus.PAUSED:
            _refuse_child(record, "resumed")
        with self._engine.store.guarded():
            # By its token a call that is repeated after a lost answer is known; else it would be refused as done.
            moved = self._engine.store.scripts.resume(self.id, record.plan, token=secrets.token_hex(16))
        if moved.outcome not in {"resumed", "continued"}:
            resumable = "only a paused, failed, cancelled or compensation_failed run can be resumed"
            raise RunError(f"the run is {self.status}; {resumable}", run_id=self.id, flow_name=record.flow)
        epoch = record.epoch + (moved.outcome == "resumed")
        self._engine.publish(plan, self.id, epoch, moved.work)

    def undo(self, reason: str = "") -> None:
        """Undo a run that has succeeded: what it did is compensated, last completed first, and it ends `cancelled`.

        A cursor that its success has moved stays. What is undone can be done again by `resume`.

        Raises:
            RunError: The run has not succeeded; a run that goes on is cancelled, and others have been undone.
            UnknownRun: There is no such run.
            StoreUnavailable: Redis did not answer; the status says whether the run is being undone.
        """
        record, plan = self._record_and_plan()
        _refuse_child(record, "undone")
        failure = NodeFailure.of(RunCancelled(reason or "the run was undone"), flow_name=record.flow)
        with self._engine.store.guarded():
            moved = self._engine.store.scripts.undo(
                self.id, record.plan, token=secrets.token_hex(16), failure=failure.model_dump_json()
            )
        if moved.outcome != "undone":
            message = f"the run is {self.status}; only a run that succeeded can be undone"
            raise RunError(message, run_id=self.id, flow_name=record.flow)
        self._engine.publish(plan, self.id, record.epoch + 1, moved.work)

    def fork(
        self,
        at: str | Node[Any, Any],
        *,
        input: Any = UNCHANGED,
        outputs: Mapping[Any, Any] | None = None,
    ) -> FlowRun:
        """Start a new run at a step of this one, which has ended; what was done before the step is taken over.

        The new run has the plan, tags and priority of this one and, unless another one is given, its input. It takes
        over the outputs, decisions and gates before the step, and never compensates them; children stay this run's.

        Args:
            at: The node, or its name or that of its step; of a parallel step or a map the whole step is done again.
            input: Another input.
            outputs: By output key or node before the step: outputs in place of this run's.

        Raises:
            RunError: The run has not ended, did not come by the step, or was started by another run; or an output
                before the step was compensated or is missing, and not given.
            InvalidInput: There is no such node or output key, or a value does not fit, as far as this process has the
                flow's code.
            PayloadTooLarge: A value is over `Settings.max_payload_bytes`.
            UnknownRun: There is no such run.
            ConfigurationError, StoreFull, StoreUnavailable: As of `Orchestrator.start`; without an answer the new run
                may have been started, and is among the `forks` then.
        """
        record, plan = self._record_and_plan()
        _refuse_child(record, "forked")
        return FlowRun(self._engine, fork_run(self._engine, record, plan, at=at, given=input, outputs=outputs))

    def _record_and_plan(self) -> tuple[RunRecord, Plan]:
        """What the run is, and its plan, which is put back where it is gone from Redis and known here."""
        record, store = self._record(), self._engine.store
        with store.guarded():
            plan = store.plan(record.plan) or self._engine.known_plan(record.plan)
            if plan is None:
                raise RunError(PLAN_GONE, run_id=self.id, flow_name=record.flow)
            self._engine.put_back(plan)
        return record, plan

    def signal(self, name: str, value: Any = None, *, key: str | None = None) -> None:
        """Send a signal to the run: the gate that waits longest for it takes it, else it is kept until one comes.

        A process that has the flow's code checks the value; else a worker does, and notes in the history what does not
        fit.

        Args:
            name: Name of the signal.
            value: Its value.
            key: A key counts once for each name in the life of the run: a signal that is sent again does nothing.

        Raises:
            SignalRefused: No gate waits for it or will, 100 of the name are kept, or the run is ending or has ended.
            InvalidInput: The value does not fit the gate's type.
            PayloadTooLarge: The value is over `Settings.max_payload_bytes`.
            UnknownRun: There is no such run.
            StoreUnavailable: Redis did not answer; with a key it is safe to try again.
        """
        answers.send_signal(self._engine, self.id, name, value, key=key)

    def approve(self, name: str, *, by: str, reason: str = "") -> None:
        """Vote for an approval that is open.

        Args:
            name: The approval, as its node is called.
            by: Who votes; the caller says it, nothing verifies it.
            reason: Why.

        Raises:
            ApprovalRefused: It is not open, or this person may not vote or has voted.
            InvalidInput: `by` or the reason is no text, or too long.
            UnknownRun: There is no such run.
            StoreUnavailable: Redis did not answer; a vote that was counted is refused as voted when it is tried again.
        """
        answers.vote(self._engine, self.id, name, verb="approve", by=by, reason=reason)

    def reject(self, name: str, *, by: str, reason: str = "") -> None:
        """Reject an approval that is open, which fails its node as `Rejected`; arguments and errors as `approve`."""
        answers.vote(self._engine, self.id, name, verb="reject", by=by, reason=reason)

    def delete(self) -> None:
        """Delete the record of a run that has ended: outputs, history, idempotency key, and its place in every list.

        Raises:
            RunError: The run has not ended; cancel it first. Or the run at the top of its tree has not.
            UnknownRun: There is no such run.
            StoreUnavailable: Redis did not answer; it is safe to try again.
        """
        record, store = self._record(), self._engine.store
        with store.guarded():
            outcome = store.scripts.delete_run(self.id, record.plan)
        if outcome == "kept":
            _refuse_child(record, "deleted")
        if outcome == "not ended":
            message = f"the run is {record.status}; only a run that has ended can be deleted, so cancel it first"
            raise RunError(message, run_id=self.id, flow_name=record.flow)

    async def wait_async(self, timeout: float | timedelta | None = None) -> RunStatus:  # noqa: ASYNC109 - as `wait`
        """Wait as `wait` does; neither the event loop nor a thread is held meanwhile, however many runs are waited for.

        A wait whose task is cancelled ends at once.
        """
        return (await self._ended_async(timeout)).status

    async def result_async(self, kind: Any = Any, timeout: float | timedelta | None = None) -> Any:  # noqa: ASYNC109
        """Return the result as `result` does, without blocking the event loop."""
        return await call_in_thread(self._result, await self._ended_async(timeout), kind)

    async def _ended_async(self, timeout: float | timedelta | None) -> Standing:  # noqa: ASYNC109 - as `wait`
        if self._is_eager:  # what is due runs in the thread that waits
            return await call_in_thread(self._ended, timeout)
        _refuse_inside_node(self.id)
        patience = OUTAGE_S if timeout is None else math.inf
        with self._engine.store.shared_listener.waiting(self.id, patience=patience) as waiter:
            return await waiter.end(None if timeout is None else _seconds(timeout))

    def show(self) -> RunView:
        """Return everything that the run's record says at this instant: nodes, attempts, outputs cut, failures.

        Raises:
            UnknownRun: There is no such run.
        """
        return show_run(self._engine.store, self.id)


def _seconds(span: Any) -> float:
    seconds: Any = span.total_seconds() if isinstance(span, timedelta) else span
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or math.isnan(seconds):
        raise InvalidInput(f"a timeout is a number of seconds, a timedelta, or None, not {span!r}")
    return seconds


def _refuse_child(record: RunRecord, verb: str) -> None:
    """Refuse what is done to a run through the one at the top of its tree."""
    if parent := record.fields.get("parent"):
        message = f"the run was started by run {parent}; it is {verb} with the run {record.fields['root']} at the top"
        raise RunError(message, run_id=record.run_id, flow_name=record.flow)


def _refuse_inside_node(run_id: str) -> None:
    inside = running_attempt.get()
    if inside is not None:
        message = (
            f"a node must not wait for run {run_id}, because it would block its pool process; start the run and return"
        )
        raise RunError(message, run_id=inside[0], node_name=inside[1])
