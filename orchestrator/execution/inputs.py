"""Read what an attempt needs: the state that its functions see, its input, and its context.

Input and key functions and predicates are user code and run here, at every attempt. Which outputs came with the claim
is known by `PrefetchedOutputs`; the others are loaded when they are asked for.
"""

from __future__ import annotations

import copy
import json
import logging
import time
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic_core import to_jsonable_python

from orchestrator.definition.context import AttemptLogger, NodeContext
from orchestrator.definition.fitting import misread
from orchestrator.definition.signature import MISSING
from orchestrator.definition.state import FlowState
from orchestrator.errors import InvalidInput, MissingOutputError, NodeTimeout
from orchestrator.execution.attempt_handle import AttemptHandle
from orchestrator.execution.heartbeat import Heartbeat
from orchestrator.execution.keyed_limits import buckets_of
from orchestrator.execution.store_retries import retry_until_stored
from orchestrator.store.log_lines import LogLine
from orchestrator.store.output_parts import IN_PARTS
from orchestrator.store.run_store import INPUT, instant

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from orchestrator.definition.plan import NodePlan, Plan
    from orchestrator.definition.registry import Registered
    from orchestrator.definition.wiring import Wiring
    from orchestrator.engine import Engine
    from orchestrator.execution.prefetched_outputs import PrefetchedOutputs
    from orchestrator.redaction import Redaction
    from orchestrator.store.scripts.results import Claimed

Answer = TypeVar("Answer")
_NOT_READ: Any = object()


class Inputs:
    """What one claimed attempt reads.

    Attributes:
        engine: The engine.
        plan: The plan that the run pins.
        run_id: The run.
        name: The node, compensation or decision; an item of a map is `<node>[<index>]`.
        node_plan: What the plan says of it; of an item, of its map's node.
        claimed: The answer of the claim.
        entry: The code of the flow in this process.
        node: The node's code.
        timeout_s: Limit of the attempt in seconds.
        lines: What the attempt wrote by `ctx.logger`.
        is_pure: Whether an input function or a predicate is running, whose exceptions are never retried.
    """

    def __init__(
        self,
        engine: Engine,
        plan: Plan,
        *,
        run_id: str,
        name: str,
        node_plan: NodePlan,
        token: str,
        claimed: Claimed,
        prefetched: PrefetchedOutputs,
        entry: Registered,
        read_given: Callable[[Inputs], Any],
    ) -> None:
        self.engine = engine
        self.plan = plan
        self.run_id = run_id
        self.name = name
        self.node_plan = node_plan
        self.claimed = claimed
        self.entry = entry
        # Any: of the engine's own nodes, a decision and the computation of a map's items, there is none.
        self.node: Any = entry.nodes.get(self.node_plan.name)
        self.timeout_s = (claimed.lasts_ms or node_plan.timeout_ms) / 1000
        self._began = time.monotonic()
        self.is_pure = False
        self.lines: list[LogLine] = []
        self._store = engine.store
        self._token = token
        self._prefetched = prefetched
        self._how_given = read_given
        self._state: FlowState | None = None
        self._undone: bytes | None = None  # of a compensation: what its node returned
        self._buckets: Sequence[str] = ()  # that depend on the input, and others
        self._given: Any = _NOT_READ
        self._refused: list[str] = []  # keys that were read in vain
        self._redaction: Redaction | None = None

    @property
    def where(self) -> dict[str, Any]:
        """The attempt, as errors name it."""
        return {
            "flow_name": self.plan.flow,
            "run_id": self.run_id,
            "node_name": self.name,
            "attempt": self.claimed.attempt,
        }

    @property
    def _is_cut(self) -> bool:
        """Whether the node's deadline leaves the attempt less than its timeout."""
        return self.timeout_s < self.node_plan.timeout_ms / 1000

    def is_too_late(self, delay_ms: int) -> bool:
        """Whether an attempt after this delay could not begin before the node's deadline, as far as is known here."""
        return self._is_cut and time.monotonic() + delay_ms / 1000 >= self._began + self.timeout_s

    @property
    def first_limit_s(self) -> float:
        """After how many seconds the attempt is interrupted if it reports nothing."""
        return min(self.timeout_s, self.node_plan.heartbeat_ms / 1000 or self.timeout_s)

    def expired(self) -> NodeTimeout:
        """The error of an attempt that reaches its limit."""
        if self.first_limit_s < self.timeout_s and time.monotonic() < self._began + self.timeout_s:
            within_s = self.node_plan.heartbeat_ms / 1000
            return NodeTimeout(f"the attempt has reported no heartbeat for {within_s:g} s", **self.where)
        if self._is_cut:
            deadline_s = self.node_plan.deadline_ms / 1000
            return NodeTimeout(f"it was not done within its deadline of {deadline_s:g} s", **self.where)
        return NodeTimeout(f"the attempt took longer than its timeout of {self.timeout_s:g} s", **self.where)

    def read_state(self) -> None:
        """Put the state together, which may wait for Redis."""
        self._state = state = self._read_state()
        # Only the first step pays for it: what it has seen is checked for the rest of the run.
        if self.node_plan.step == 0 and self.entry.flow.input_codec is not None:
            state.input()  # a client without the flow's code could not check it

    @property
    def state(self) -> Any:
        """The state that functions see; None before `read_state`."""
        return self._state

    def read_buckets(self) -> Sequence[str]:
        """Compute the input, and the buckets that its key functions name."""
        given = self.read_given()
        asked = self._state if given is MISSING else given
        self._buckets = self.call_pure(buckets_of, self.node_plan, self.node, self.plan.flow, asked)
        return self._buckets

    def read_given(self) -> Any:
        """The function's input, validated, in the way of the node's kind; read once."""
        if self._given is _NOT_READ:
            self._given = self._how_given(self)
        return self._given

    @property
    def undone(self) -> bytes | None:
        """Of a compensation: JSON of what its node returned, if it returned."""
        return self._undone

    def read_from_flow(self) -> Any:
        """The input that the flow gives the node: by its wiring, its input function, or a constant; else MISSING."""
        node = self.node
        if node.wiring is not None:
            return self._read_wired(node.wiring)
        if node.input_func is not None:
            return node.contract.read(self.call_pure(node.input_func, self._state))
        if node.input is not MISSING:
            return node.contract.read(copy.deepcopy(node.input))  # a function may change what it is given
        return MISSING

    @property
    def is_wired(self) -> bool:
        """Whether its input is wired by name, which takes a state even for an item of a map."""
        return self.node is not None and self.node.wiring is not None

    def _read_wired(self, wiring: Wiring) -> Any:
        try:
            return self.call_pure(wiring.read, self._state, self.claimed.item)
        except InvalidInput:  # what the state cannot note: it hands stored JSON out unread
            self._refused += wiring.keys
            raise

    def call_pure(self, function: Callable[..., Answer], *given: Any) -> Answer:
        """Call an input function or predicate: it is pure, so what it raises ends the node, but for the time limit."""
        self.is_pure = True
        answer = function(*given)
        if self._refused:
            self._refuse_foreign_keys()
        self.is_pure = False  # not in a `finally`: the verdict on what it raises asks for it
        return answer

    def misfit(self, error: BaseException) -> str:
        """Return why this process's code turned out not to fit the run's plan, if that is what an error comes from."""
        own, name = self.entry.plan, self.node_plan.name
        is_of_reading = self.is_pure or self._given is _NOT_READ
        if own.hash == self.plan.hash or not is_of_reading or isinstance(error, NodeTimeout):
            return ""
        return next(filter(None, (misread(own, self.plan, name, key) for key in self._refused)), "")

    def _refuse_foreign_keys(self) -> None:
        """Refuse what a function made of an output that its own version writes and the run's does not."""
        own, name = self.entry.plan, self.node_plan.name
        for key in self._refused:
            if key not in self.plan.visible(name) and (reason := misread(own, self.plan, name, key)):
                raise MissingOutputError(reason, **self.where)

    @property
    def idempotency_key(self) -> str:
        """The same in every attempt, until the node is compensated."""
        return f"{self.run_id}/{self.name}/{self.claimed.generation}"

    def _keep_line(self, level: int, text: str) -> None:
        at = datetime.now(UTC)
        self.lines.append(LogLine(at, self.name, self.claimed.attempt, logging.getLevelName(level), text))

    def _clean_text(self, text: str) -> str:
        return self.redaction.prose(text)

    @property
    def redaction(self) -> Redaction:
        """Hides what `Settings.redact` names, and in texts what this attempt has read of it."""
        known = self._store.redaction
        if not known:
            return known
        if self._redaction is not None:
            return self._redaction
        read = self._prefetched.values(self.claimed.values)
        stored = {key: json.loads(value) for key, value in read.items() if value and not value.startswith(IN_PARTS)}
        given: Any = None
        with suppress(ValueError, RecursionError):  # of a value that is no data nothing is known
            given = to_jsonable_python(self._given, serialize_unknown=True)
        known = known.knowing(stored, given)
        if self._given is not _NOT_READ:
            # Not kept before the input is read: by then it does not know all the values that must be hidden.
            self._redaction = known
        return known

    def context(self, **changes: Any) -> NodeContext:
        """What a function that takes a `NodeContext` gets; `changes` are fields that differ."""
        where = {"flow": self.plan.flow, "run": self.run_id, "node": self.name, "attempt": self.claimed.attempt}
        undoes = bool(self.node_plan.undoes)
        handle = AttemptHandle(
            self._store,
            self.plan,
            self.entry.plan,
            self.run_id,
            self.name,
            self._token,
            self._buckets,
            undoes=undoes,
            generation=self.claimed.generation,
            heartbeat=Heartbeat(within_ms, self.timeout_s) if (within_ms := self.node_plan.heartbeat_ms) else None,
        )
        fields: dict[str, Any] = {
            **self.where,
            "idempotency_key": self.idempotency_key,
            "logger": AttemptLogger(
                logging.getLogger(f"orchestrator.flow.{self.plan.flow}"),
                where,
                self._keep_line,
                self._store.redaction.argument if self._store.settings.redact else None,
                self._clean_text,
            ),
            "scheduled_for": instant(self.claimed.scheduled),
            "ask_cancelled": handle.is_cancelled,
            "report": lambda detail: handle.report(self.redaction.value(detail)),
            "take": handle.take,
            "ask_callback": handle.callback,
            "ask_told": handle.last_told,
        }
        return NodeContext(**fields | changes)

    def _read_state(self) -> FlowState:
        prefetched = self._prefetched.values(self.claimed.values)
        values = {key: value and self._whole(value) for key, value in prefetched.items()}
        undoes = self.node_plan.undoes
        if INPUT not in values and self.is_wired and self.node.wiring.parts("input"):
            values |= self._load((INPUT,))  # the run's plan does not know that this item reads it
        # Items of a map have no output key that a claim could send along.
        if undoes and self.name != self.node_plan.name:  # the compensation of one item
            index = int(self.name.partition("[")[2].rstrip("]"))
            self._undone = self._read_until_answered(self._store.result, self.run_id, undoes, index)
        elif undoes:
            undone = self.plan.nodes[undoes]
            self._undone = values[undone.key]
            if self._undone is None and undone.repeats:  # it failed between iterations
                self._undone = self._read_until_answered(self._store.parts.last_iteration, self.run_id, undoes)
        return FlowState(
            run_id=self.run_id,
            flow_name=self.plan.flow,
            input=values.pop(INPUT, None) or None,
            input_codec=self.entry.flow.input_codec,
            load=self._load,
            load_failure=partial(self._read_until_answered, self._store.failure, self.run_id),
            load_failures=partial(self._read_until_answered, self._store.item_failures, self.run_id),
            list_keys=self.plan.list_keys,
            prefetched=values,
            visible=self.plan.visible(self.node_plan.name),
            hidden=self.plan.hidden(self.node_plan.name),
            note_refused=self._refused.append,
        )

    def _whole(self, value: bytes) -> bytes:
        if not value.startswith(IN_PARTS):
            return value
        return self._read_until_answered(self._store.parts.whole, self.run_id, value)

    def _load(self, keys: Collection[str] | None) -> Mapping[str, bytes]:
        # Who reads one member of a fan-out mostly reads them all: one round trip instead of one each.
        wanted = None if keys is None else {other for key in keys for other in self.plan.keys_read_with(key)}
        return self._read_until_answered(self._store.outputs, self.run_id, wanted)

    def _read_until_answered(self, read: Callable[..., Answer], *given: Any) -> Answer:
        place = (self.plan.flow, self.run_id, self.name)
        return retry_until_stored(self._store, place, partial(read, *given))
