"""One attempt of a node, decision or compensation: claim it, run its function under its limits, record how it ended.

What the record leads to (retry, join, saga) is decided by the scripts; how the outcome looks to Celery, by the task.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import logging
import os
import random
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from celery.exceptions import TaskPredicate

from orchestrator.definition.context import NodeContext, running_attempt
from orchestrator.definition.plan import END, IN_LINE, node_of
from orchestrator.definition.signature import MISSING
from orchestrator.definition.state import FlowState
from orchestrator.errors import (
    HiddenDependencyError,
    InvalidInput,
    InvalidOutput,
    MissingOutputError,
    NodeFailure,
    NodeTimeout,
    PaginationError,
    PayloadTooLarge,
    RateLimited,
    RetryLater,
    RunError,
    StoreError,
    Terminal,
)
from orchestrator.execution.attempt_handle import OpenClaim
from orchestrator.execution.keyed_limits import Input, admit, buckets_of
from orchestrator.execution.map_items import items_of
from orchestrator.execution.prefetched_outputs import Reading
from orchestrator.fault_points import fault_point
from orchestrator.liveness.interruption import end_if_told, raise_interruption
from orchestrator.liveness.leases import holder_name, is_draining
from orchestrator.liveness.pool_processes import AT_ONCE, working_on
from orchestrator.liveness.time_limit import time_limit
from orchestrator.store.run_store import IN_PARTS, INPUT, instant, milliseconds
from orchestrator.store.scripts.results import Claimed, Moved

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from orchestrator.definition.node import Node
    from orchestrator.definition.plan import NodePlan, Plan
    from orchestrator.definition.registry import Registered
    from orchestrator.engine import Engine
    from orchestrator.store.scripts.results import Call, Work

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")
NO_FURTHER = -1
_tokens = random.Random()  # noqa: S311 - unique is all that they have to be
os.register_at_fork(after_in_child=_tokens.seed)
GoOn: TypeAlias = "Callable[[Attempt, int | None], tuple[Attempt, ...]]"
ShortWay: TypeAlias = "Callable[[Attempt, bytes], Moved | None]"
UNDECIDED = {"", "sleep", "no limit"}
LOCATED = (InvalidInput, InvalidOutput, MissingOutputError, HiddenDependencyError)
TERMINAL = (*LOCATED, PaginationError, PayloadTooLarge, RateLimited, Terminal)
# What Celery takes for an order instead of a failure: a MemoryError ends its whole worker, Reject puts a message back.
ORDERS = (MemoryError, TaskPredicate)


@dataclass(frozen=True)
class Ended:
    """How an attempt looks to its task.

    Attributes:
        kind: "stored", "turned" (a page is stored, and there are more), "excused" (failed in a step that goes on),
            "done" (somebody else did it), "left" (nothing to do here now), "back" (the worker is shutting down: the
            message has to go back), "parked" (failed, the node waits for its next attempt), or "failed".
        error: With "parked" and "failed": the real exception.
    """

    kind: str
    error: BaseException | None = None


class Attempt:
    """One try at one node; at a map's node, at whichever item is next."""

    def __init__(
        self, engine: Engine, plan: Plan, node: str, *, run_id: str, epoch: int, go_on: GoOn, short_way: ShortWay
    ) -> None:
        self.engine = engine
        self.store = engine.store
        self.plan = plan
        self.name = node
        self.facts: NodePlan = plan.nodes[node_of(node)]
        self.run_id = run_id
        self.epoch = epoch
        self.follows = False  # Celery goes on behind this message
        self.go_on = go_on
        self.token = f"{_tokens.getrandbits(128):032x}"
        self.claimed = Claimed("")
        self.ahead: tuple[Attempt, ...] = ()  # what follows in this message, claimed with this one's commit
        self.publish: Callable[[Work], None] = partial(engine.publish, plan, run_id, epoch)
        self.short_way = short_way  # to store what a plain attempt returned; None where it does not do
        self.reading = Reading(plan, self.facts)
        self._pushed = ""  # the node whose message goes with the commit, where it is known how it looks
        self._undone: bytes | None = None  # of a compensation: what its node returned
        self._items: list[bytes] = []  # that a map is to be made of
        self._input: Input | None = None
        self._buckets: Sequence[str] = ()  # that depend on the input, and others
        self._is_pure = False  # what it is doing now

    def run(self) -> Ended:
        """Do the attempt, if there is one to do."""
        with working_on(self.token):
            made = self.make()
            if isinstance(made, Ended):
                return made
            output, choice = made
            moved = self.surely(lambda: self._commit(output, choice))
            return self.leave(moved, Ended(moved.outcome))

    def make(self) -> Ended | tuple[bytes, int | None]:
        """Claim it, if nobody has, and run its function; returns what is to be stored, or how it ended without that."""
        end_if_told()
        entry = self.engine.registry.entry_for(self.plan, self.facts)
        if entry is None:
            logger.warning("flow %s run %s node %s: this worker has no code for it", *self._place())
            return Ended("left")
        if (ended := self._hold()) is not None:
            return ended
        if self.facts.kind == "item":
            self.name = f"{self.facts.name}[{self.claimed.index}]"
        fault_point("after_claim", self.facts.name)
        token = running_attempt.set((self.run_id, self.name))
        try:
            if self.claimed.outcome == "admit" and (turned_away := self._admit(entry)):
                return turned_away
            made = self._execute(entry)
        except BaseException as error:  # noqa: BLE001 - whatever a node function raises is the node's failure
            raise_interruption(error)
            return self._fail(error, entry.nodes.get(self.facts.name))
        finally:
            running_attempt.reset(token)
        fault_point("before_store", self.facts.name)
        if self._items:
            self.surely(lambda: self.store.stage_items(self.run_id, self.token, self._items))
        return made

    def _hold(self) -> Ended | None:
        """Claim it, if that was not done; returns how it ended if it is not to be made here."""
        if is_draining() and not self.claimed.is_held:
            return Ended("back")
        fault_point("before_claim", self.facts.name)
        if self.claimed.outcome in UNDECIDED:
            try:
                self.claimed = self._claim()
            except StoreError as error:
                logger.warning("flow %s run %s node %s: not claimed: %s", *self._place(), error)
                return Ended("left")
        if self.claimed.is_held:
            return None
        return Ended("done" if self.claimed.outcome == "done" else "left")

    def _commit(self, output: bytes, choice: int | None) -> Moved:
        """Store the output, and ask for what follows in the same round trip."""
        self.ahead = self.ahead or self.go_on(self, choice)
        return self.short_way(self, output) or self._send(self.commit_call(output, choice))

    def commit_call(self, output: bytes, choice: int | None = None) -> Call[Moved]:
        """The commit of this attempt, with the message of what follows if it can go with it."""
        follows = self.follows or bool(self.ahead)
        self._pushed = "" if self.ahead else self._behind(choice)
        message = ("", "")
        if self._pushed and not follows:
            message = self.engine.publisher.known_message(self.plan, self.run_id, self._pushed, self.epoch)
        return self.store.scripts.commit_call(
            *self._node(),
            self.token,
            output=output,
            choice=choice,
            follows=follows,
            message=(self._pushed, *message),
            plain=self.plan.to_commit(self.facts),
        )

    def _behind(self, choice: int | None) -> str:
        """The node whose message may go with the commit, if what follows is one node."""
        if self.facts.kind == "item":
            return self.facts.name
        position = self.plan.follower(self.facts, choice)
        step = self.plan.steps[position] if position != END else None
        return step.nodes[0] if step is not None and step.kind in IN_LINE else ""

    def _send(self, call: Call[Moved]) -> Moved:
        """Store what this attempt did, and claim what is ahead, as far as one process works on it at once."""
        scripts, ahead = self.store.scripts, self.ahead[:AT_ONCE]
        if not ahead:
            return scripts.send(call)
        moved, claimed = scripts.send_with_claims(call, [attempt.claim_call() for attempt in ahead])
        for attempt, answer in zip(ahead, claimed, strict=True):
            attempt.claimed = answer
        return moved

    def _place(self) -> tuple[str, str, str]:
        return self.plan.flow, self.run_id, self.name

    def _node(self) -> tuple[str, str, str]:
        return self.run_id, self.plan.hash, self.name

    def _claim(self) -> Claimed:
        """Claim the node, sleeping once for a token that comes soon; gives up after `Settings.claim_patience`."""
        call = self.claim_call()
        while True:
            claimed = self._patiently(partial(self.store.scripts.send, call))
            if claimed.outcome == "sleep":
                time.sleep(claimed.sleep / 1_000_000)
                call = self.claim_call(arrived=claimed.arrived, may_sleep=False)
            elif claimed.outcome == "no limit":
                # The bucket's numbers are gone (a flushed key): the run's plan still has them.
                self._patiently(partial(self.store.define_limits, self.plan))
            else:
                return claimed

    def claim_call(self, **options: Any) -> Call[Claimed]:
        """The claim of this attempt; options as of `Scripts.claim_call`."""
        return self.store.scripts.claim_call(
            *self._node(),
            epoch=self.epoch,
            token=self.token,
            holder=holder_name(),
            lease_ms=self.store.lease_ms,
            reads=self.reading.to_ask(),
            plain=self.plan.to_claim(self.facts),
            **options,
        )

    def _patiently(self, call: Callable[[], Answer]) -> Answer:
        deadline = time.monotonic() + self.engine.settings.claim_patience.total_seconds()
        while True:
            try:
                with self.store.guarded():
                    return call()
            except StoreError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.25)

    def surely(self, call: Callable[[], Answer]) -> Answer:
        """Repeat a call until Redis answers: what a function did must not be forgotten, nor be its failure."""
        while True:
            try:
                with self.store.guarded():
                    return call()
            except StoreError as error:
                logger.warning("flow %s run %s node %s: waits until Redis is back: %s", *self._place(), error)
                time.sleep(0.25)

    def leave(self, moved: Moved, ended: Ended) -> Ended:
        """Publish what the end of the attempt made ready."""
        if moved.outcome in {"fenced", "unknown"}:
            logger.warning("flow %s run %s node %s: a later attempt holds the node; dropped", *self._place())
            return Ended("left")
        fault_point("after_store", self.facts.name)
        self.publish(moved.work)
        if self._pushed:
            self.engine.publisher.learn(self.plan, self._pushed, self.epoch)
        self.engine.release_slots(self.plan, self.facts.name)
        fault_point("after_publish", self.facts.name)
        return ended

    def _execute(self, entry: Registered) -> tuple[bytes, int | None]:
        """Run the function under its time limit; returns the output to store, or the choice of a decision."""
        limit, expired = self.facts.timeout_ms / 1000, self._expired
        state = None if self.facts.kind == "item" or self._input else self._state(entry)
        with time_limit(limit, expired):
            if self.facts.kind == "branch":
                return b"", self._decide(entry, state)
            if self.facts.kind == "expand":
                self._items = self._expand(entry, state)
                return b"", len(self._items)
            node = entry.nodes[self.facts.name]
            result = self._call(node, state, limit, expired)
            if self.facts.kind == "compensation":
                return b"", None
            output = self._dump(node, result)
        largest = self.engine.settings.max_payload_bytes
        if len(output) > largest:
            raise PayloadTooLarge(f"output of node {self.name}", len(output), largest)
        return output, None

    def _dump(self, node: Node[Any, Any], result: object) -> bytes:
        return node.contract.output.dump(result)

    def _expired(self) -> NodeTimeout:
        limit = self.facts.timeout_ms / 1000
        return NodeTimeout(f"the attempt took longer than its timeout of {limit:g} s", **self._where())

    def _admit(self, entry: Registered) -> Ended | None:
        """Compute the input and its buckets, and take their tokens; None when the attempt may start."""
        node = entry.nodes[self.facts.name]
        state = None if self.facts.kind == "item" else self._state(entry)
        with time_limit(self.facts.timeout_ms / 1000, self._expired):
            given = self._given(node, state)
            asked = state if given is MISSING else given
            self._buckets = buckets = self._purely(buckets_of, self.facts, node, self.plan.flow, asked)
        self._input = Input(given)
        claim = (*self._node(), self.token)
        admitted = self.surely(lambda: admit(self.store, self.plan, claim, buckets=buckets, follows=self.follows))
        if admitted.outcome == "run":
            return None
        return self.leave(Moved(admitted.outcome, admitted.work), Ended("parked"))

    def _expand(self, entry: Registered, state: Any) -> list[bytes]:
        """Compute the items of a map as JSON."""
        step = entry.sources[self.facts.name]
        return items_of(step, self._purely(step.over, state), largest=self.engine.settings.max_payload_bytes)

    def _decide(self, entry: Registered, state: Any) -> int:
        block = entry.decisions[self.facts.name]
        choices = (index for index, predicate in enumerate(block.predicates) if predicate(state))
        choice: int = self._purely(next, choices, len(block.predicates))
        return choice

    def _call(self, node: Node[Any, Any], state: Any, limit: float, expired: Callable[[], NodeTimeout]) -> Any:
        contract = node.contract
        given = self._input.value if self._input else self._given(node, state)
        context = self._context(node) if contract.takes_context else None
        result = contract.invoke(context, given, *self._cursor())
        if not inspect.isawaitable(result):
            return result

        async def limited() -> Any:
            try:
                async with asyncio.timeout(limit) as scope:
                    return await result
            except TimeoutError:
                if scope.expired():
                    raise expired() from None
                raise

        return asyncio.run(limited())

    def _cursor(self) -> tuple[str | None, ...]:
        """Where the page begins, of a node that fetches pages."""
        return ()

    def _given(self, node: Node[Any, Any], state: Any) -> Any:
        """What the function takes, validated: the item, or from its input function, its constant, or what it undoes."""
        contract = node.contract
        if self.facts.kind == "item":
            return contract.load(self.claimed.item)
        if node.input_func is not None:
            return contract.read(self._purely(node.input_func, state))
        if node.input is not MISSING:
            return contract.read(copy.deepcopy(node.input))  # a function may change what it is given
        if self.facts.undoes and contract.style != "none":
            return contract.load(b"null" if self._undone is None else self._undone)
        return contract.read(MISSING)

    def _state(self, entry: Registered) -> FlowState:
        values = {key: value and self._whole(value) for key, value in self.reading.values(self.claimed.values).items()}
        if self.name != self.facts.name:
            index = int(self.name.partition("[")[2].rstrip("]"))
            self._undone = self.surely(lambda: self.store.result(self.run_id, self.facts.undoes, index))
        elif self.facts.undoes:
            self._undone = values[self.plan.nodes[self.facts.undoes].key]
        state = FlowState(
            run_id=self.run_id,
            flow_name=self.plan.flow,
            input=values.pop(INPUT) or None,
            input_codec=entry.flow.input_codec,
            load=self._load,
            load_failure=lambda name: self.surely(lambda: self.store.failure(self.run_id, name)),
            load_failures=lambda name: self.surely(lambda: self.store.item_failures(self.run_id, name)),
            list_keys=self.plan.list_keys,
            prefetched=values,
            visible=self.plan.visible(self.facts.name),
            hidden=self.plan.hidden(self.facts.name),
        )
        if self.facts.step == 0 and entry.flow.input_codec is not None:
            state.input()  # a client without the flow's code could not check it
        return state

    def _whole(self, value: bytes) -> bytes:
        if not value.startswith(IN_PARTS):
            return value
        return self.surely(lambda: self.store.whole(self.run_id, value))

    def _load(self, keys: Collection[str] | None) -> Mapping[str, bytes]:
        wanted = None if keys is None else {other for key in keys for other in self.plan.beside(key)}
        return self.surely(lambda: self.store.outputs(self.run_id, wanted))

    def _context(self, _node: Node[Any, Any]) -> NodeContext:
        where = {"flow": self.plan.flow, "run": self.run_id, "node": self.name, "attempt": self.claimed.attempt}
        is_undo = self.facts.kind == "compensation"
        claim = OpenClaim(self.store, self.plan, self.run_id, self.name, self.token, self._buckets, undoes=is_undo)
        return NodeContext(
            run_id=self.run_id,
            flow_name=self.plan.flow,
            node_name=self.name,
            attempt=self.claimed.attempt,
            scheduled_for=instant(self.claimed.scheduled),
            idempotency_key=f"{self.run_id}/{self.name}/{self.claimed.generation}",
            logger=logging.LoggerAdapter(logging.getLogger(f"orchestrator.flow.{self.plan.flow}"), where),
            ask_cancelled=claim.is_cancelled,
            report=claim.report,
            take=claim.take,
        )

    def _where(self) -> dict[str, Any]:
        return {
            "flow_name": self.plan.flow,
            "run_id": self.run_id,
            "node_name": self.name,
            "attempt": self.claimed.attempt,
        }

    def _purely(self, function: Callable[..., Answer], *given: Any) -> Answer:
        """Call an input function or predicate: it is pure, so what it raises ends the node, but for the time limit."""
        self._is_pure = True
        answer = function(*given)
        self._is_pure = False
        return answer

    def _located(self, error: BaseException) -> BaseException:
        """The same error; one about a value says which flow, run and node it is about."""
        if not isinstance(error, LOCATED) or type(error) not in LOCATED:  # a user's own class may take other arguments
            return error
        if error.flow_name not in {None, self.plan.flow} or error.run_id not in {
            None,
            self.run_id,
        }:  # about another run
            return error
        located = type(error)(error.message, **self._where())
        located.__cause__ = error
        return located.with_traceback(error.__traceback__)

    def _fail(self, error: BaseException, node: Node[Any, Any] | None) -> Ended:
        error = self._located(error)
        failure = NodeFailure.of(error, flow_name=self.plan.flow, node_name=self.name, attempt=self.claimed.attempt)
        delay = self._delay(error, node)
        longest = self.engine.settings.max_throttle
        throttled = isinstance(error, RetryLater) and error.freeze and delay != NO_FURTHER
        if self.facts.kind == "item":
            self.ahead = self.ahead or self.go_on(self, None)
        fault_point("before_fail", self.facts.name)
        moved = self.surely(
            lambda: self.store.scripts.fail(
                *self._node(),
                self.token,
                failure=failure.model_dump_json(),
                delay_ms=delay,
                follows=self.follows or bool(self.ahead),
                max_throttle_ms=milliseconds(longest) if throttled else None,
            )
        )
        if moved.outcome == "exhausted":
            message = (
                f"the other side told it to wait for longer than max_throttle, {longest.total_seconds():g} s in all"
            )
            return self._fail(RateLimited(message, **self._where()), node)
        logger.info(
            "flow %s run %s node %s: attempt %d failed, %s: %r",
            *self._place(), self.claimed.attempt, moved.outcome, failure.type,
        )  # fmt: skip
        if moved.outcome == "excused":
            return self.leave(moved, Ended("excused"))
        if not isinstance(error, Exception) or isinstance(error, ORDERS):  # SystemExit would end the pool process
            message = f"the node function raised {failure.type}: {failure.message}"
            error = RunError(message, **self._where()).with_traceback(error.__traceback__)
        return self.leave(moved, Ended("parked" if moved.outcome == "parked" else "failed", error))

    def _delay(self, error: BaseException, node: Node[Any, Any] | None) -> int:
        """Milliseconds to the next attempt, or NO_FURTHER: the verdict of a failure."""
        if isinstance(error, TERMINAL) or (self._is_pure and not isinstance(error, NodeTimeout)):
            return NO_FURTHER
        if node is None:
            return self.plan.delay_ms(self.facts.name, self.claimed.attempt)
        if isinstance(error, RetryLater):
            return milliseconds(error.after)
        if node.error_classifier is not None:
            try:
                verdict = node.error_classifier(error)
            except Exception:
                logger.exception("flow %s run %s node %s: its error classifier raised", *self._place())
                verdict = "terminal"
            if verdict != "retryable":
                return NO_FURTHER
        if isinstance(error, node.retry.non_retryable):
            return NO_FURTHER
        return self.plan.delay_ms(self.facts.name, self.claimed.attempt)
