"""Check what a run is started with, and start it: at once, or later and more than once under the same run id."""

from __future__ import annotations

import json
import re
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from orchestrator.definition.codecs import codec_of
from orchestrator.definition.flow import Flow
from orchestrator.definition.wording import duration_fault, show
from orchestrator.errors import (
    IdempotencyConflict,
    InvalidInput,
    OrchestratorError,
    PayloadTooLarge,
    StoreUnavailable,
    UnknownFlow,
)
from orchestrator.store.run_store import milliseconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import timedelta

    from orchestrator.definition.plan import Plan
    from orchestrator.engine import Engine
    from orchestrator.store.scripts.results import Started

RUNS_AT_ONCE = 500
BYTES_AT_ONCE = 4 * 1024 * 1024
CALL_BYTES = 4096
"""Most bytes of a start besides its input, its key and its tags."""
FLOW_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")


@dataclass(frozen=True)
class Start:
    """A start that was checked.

    Attributes:
        plan: The plan of the flow.
        input_json: JSON of the run's input; empty if there is none.
        run_id: The run's id; a second start under the same id changes nothing.
        idempotency_key: As given.
        tags: As given.
        begins: When nothing of it is ready before: an instant in ms, or `+` and ms from now; empty for at once.
        traceparent: The span that is open where it is started, as W3C writes it; "" without one.
        priority: As given.
    """

    plan: Plan
    input_json: bytes
    run_id: str
    idempotency_key: str | None
    tags: Mapping[str, str]
    begins: str = ""
    traceparent: str = ""
    priority: int | None = None


def prepare(
    engine: Engine,
    flow: str | Flow,
    given: Any,
    *,
    idempotency_key: str | None,
    tags: Mapping[str, str] | None,
    priority: int | None,
) -> Start:
    """Check a start; writes nothing.

    Raises:
        UnknownFlow, InvalidInput, PayloadTooLarge: As of `Orchestrator.start`.
        ConfigurationError: The broker has no priorities, and one is given.
        StoreError: The flow is not registered here, and Redis does not say which one it is.
    """
    name, plan = find_flow(engine, flow)
    if priority is not None:
        engine.refuse_priority(plan, priority)
    start = _prepared(engine, name, plan, given, idempotency_key=idempotency_key, tags=_checked_tags(tags))
    return replace(start, priority=priority)


def begin_of(delay: timedelta | None, at: Any) -> str:
    """Return the beginning of a run as start.lua has it.

    Raises:
        InvalidInput: Both are given, or one is no such thing.
    """
    if delay is not None and at is not None:
        raise InvalidInput("a start has a delay or an instant, not both")
    if delay is not None:
        if (fault := duration_fault(delay, "the delay", is_zero_fine=True)) is not None:
            raise InvalidInput(fault)
        return f"+{milliseconds(delay)}" if delay else ""
    if at is None:
        return ""
    if not isinstance(at, datetime) or at.utcoffset() is None:
        raise InvalidInput(f"at is {show(at)}; give an aware datetime, such as datetime(2030, 1, 1, tzinfo=UTC)")
    return str(round(at.timestamp() * 1000))


def find_flow(engine: Engine, flow: str | Flow) -> tuple[str, Plan]:
    """Return the name and plan of what is to be started; a flow is registered first.

    Raises:
        UnknownFlow: It is neither registered here nor announced.
    """
    if isinstance(flow, Flow):
        engine.discovery.register(flow)
        flow = flow.name
    return flow, find_plan(engine, flow)


def _prepared(
    engine: Engine, flow: str, plan: Plan, given: Any, *, idempotency_key: str | None, tags: Mapping[str, str]
) -> Start:
    if idempotency_key is not None and not isinstance(idempotency_key, str):
        raise InvalidInput(f"an idempotency key must be a str, not {type(idempotency_key).__name__}")
    if not idempotency_key and idempotency_key is not None:  # a header that was missing would make all callers one
        raise InvalidInput("an idempotency key must not be empty; give None for a start without one")
    data = dump_input(engine, flow, given)
    # For what it raises: nothing is written yet.
    plan.lane(data)
    # The id is made here, once: a start that is repeated after a lost answer is known by it.
    return Start(plan, data, str(uuid.uuid4()), idempotency_key, tags, traceparent=open_span())


def send(engine: Engine, start: Start) -> str:
    """Start a run and return its id: that of the first run with the idempotency key, if there is one.

    Raises:
        IdempotencyConflict: The key belongs to a run with another input.
        StoreError: As of `Orchestrator.start`; the same start again is safe.
    """
    started = engine.start(
        start.plan,
        start.input_json,
        run_id=start.run_id,
        idempotency_key=start.idempotency_key,
        tags=start.tags,
        begins=start.begins,
        traceparent=start.traceparent,
        priority=start.priority,
    )
    return _id_of(start, started)


def send_many(
    engine: Engine,
    flow: str | Flow,
    inputs: Iterable[Any],
    *,
    keys: Iterable[str | None] | None,
    tags: Any,
    priority: int | None,
) -> list[str | OrchestratorError]:
    """Start runs in pipelines; returns the id of each, or its error, in order.

    Raises:
        UnknownFlow, ConfigurationError, InvalidInput: Of the flow or the priority; nothing was written.
        ValueError: There are not as many keys as inputs; nothing was written.
    """
    name, plan = find_flow(engine, flow)
    engine.refuse(plan, priority)
    all_inputs, checked = list(inputs), _checked_tags(tags)
    all_keys = [None] * len(all_inputs) if keys is None else list(keys)
    if len(all_keys) != len(all_inputs):
        raise ValueError(f"there are {len(all_inputs)} inputs and {len(all_keys)} keys; give one key for each input")
    found: list[Start | str | OrchestratorError] = []
    for given, key in zip(all_inputs, all_keys, strict=True):
        try:
            start = _prepared(engine, name, plan, given, idempotency_key=key, tags=checked)
            found.append(replace(start, priority=priority))
        except OrchestratorError as error:
            found.append(error)
    numbered = [(number, each) for number, each in enumerate(found) if isinstance(each, Start)]
    away: StoreUnavailable | None = None
    for batch in _pipelines(numbered):
        sent, away = ([away] * len(batch), away) if away else _send_batch(engine, [each for _, each in batch])
        for (number, _), each in zip(batch, sent, strict=True):
            found[number] = each
    return [each for each in found if not isinstance(each, Start)]


def _pipelines(starts: Iterable[tuple[int, Start]]) -> Iterator[list[tuple[int, Start]]]:
    batch: list[tuple[int, Start]] = []
    size, most = 0, 1  # the first goes alone: it brings the plan and the script along
    for number, start in starts:
        wanted = len(start.input_json) + len(start.idempotency_key or "") + len(json.dumps(start.tags)) + CALL_BYTES
        if batch and (len(batch) == most or size + wanted > BYTES_AT_ONCE):
            yield batch
            batch, size, most = [], 0, RUNS_AT_ONCE
        batch.append((number, start))
        size += wanted
    if batch:
        yield batch


def _send_batch(
    engine: Engine, starts: Sequence[Start]
) -> tuple[list[str | OrchestratorError], StoreUnavailable | None]:
    """Start runs in one round trip; returns what became of each, and the error if Redis is away."""
    names = ("input_json", "tags", "idempotency_key", "traceparent")
    given = {each.run_id: {name: getattr(each, name) for name in names} for each in starts}
    found: list[str | OrchestratorError] = []
    try:
        first = starts[0]
        answers = engine.start_many(first.plan, given, priority=first.priority) if len(starts) > 1 else [None]
        for start, started in zip(starts, answers, strict=True):
            try:
                found.append(send(engine, start) if started is None else _id_of(start, started))
            # Not the error of one run: those behind it would each wait for a Redis that is away.
            except StoreUnavailable:
                raise
            except OrchestratorError as error:
                found.append(error)
    except StoreUnavailable as error:
        return [*found, *[error] * (len(starts) - len(found))], error
    return found, None


def _id_of(start: Start, started: Started) -> str:
    if started.outcome == "conflict":
        raise IdempotencyConflict(start.plan.flow, start.idempotency_key or "", started.run_id)
    return started.run_id


def open_span() -> str:
    """The span that is open here; OpenTelemetry is asked where somebody has imported it, else it costs nothing."""
    api: Any = sys.modules.get("opentelemetry.trace")
    found = api.get_current_span().get_span_context() if api is not None else None
    if found is None or not found.is_valid:
        return ""
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"


def find_plan(engine: Engine, name: str) -> Plan:
    """Return the plan of a flow that is registered here or announced by a worker.

    Raises:
        UnknownFlow: It is neither.
    """
    if not FLOW_NAME.fullmatch(str(name)):
        raise UnknownFlow(name, known_flows(engine))
    if name not in engine.registry.flows:
        engine.discovery.catch_up()
    if name in engine.registry.flows:
        return engine.registry.flows[name].plan
    with engine.store.guarded():
        plan = engine.store.announced_plan(name)
        if plan is None:
            raise UnknownFlow(name, known_flows(engine))
    return plan


def known_flows(engine: Engine) -> list[str]:
    """Names of the flows that are registered here or announced by a worker."""
    with engine.store.guarded():
        return sorted({*engine.store.announced(), *engine.registry.flows})


def dump_input(engine: Engine, flow: str, given: Any) -> bytes:
    """Return JSON of a run's input; empty if there is none.

    Raises:
        InvalidInput: It does not fit the type of a flow that is registered here.
        PayloadTooLarge: It is over `Settings.max_payload_bytes`.
    """
    data = _dumped(engine, flow, given)
    largest = engine.settings.max_payload_bytes
    if len(data) > largest:
        raise PayloadTooLarge(f"input of flow {flow}", len(data), largest)
    return data


def _dumped(engine: Engine, flow: str, given: Any) -> bytes:
    entry = engine.registry.flows.get(flow)
    codec = entry.flow.input_codec if entry is not None else None
    try:
        if codec is not None:
            return codec.dump(codec.check(given), error=InvalidInput)
        return b"" if given is None else codec_of(Any).dump(given, error=InvalidInput)
    except InvalidInput as error:
        raise InvalidInput(f"the input of flow {flow}: {error.message}", flow_name=flow) from None


def _checked_tags(tags: Mapping[str, str] | None) -> dict[str, str]:
    if tags is not None and not isinstance(tags, Mapping):
        raise InvalidInput(f"tags must be a mapping of str to str, not {type(tags).__name__}")
    given: dict[Any, Any] = dict(tags or {})
    wrong = [key for key, value in given.items() if not isinstance(key, str) or not isinstance(value, str)]
    if wrong:
        raise InvalidInput(f"tags must map str to str; the tag {wrong[0]!r} does not")
    return given
