"""Check what a run is started with, and start it: at once, or later and more than once under the same run id."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.definition.codecs import codec_of
from orchestrator.definition.flow import Flow
from orchestrator.errors import IdempotencyConflict, InvalidInput, PayloadTooLarge, UnknownFlow

if TYPE_CHECKING:
    from orchestrator.definition.plan import Plan
    from orchestrator.engine import Engine

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
    """

    plan: Plan
    input_json: bytes
    run_id: str
    idempotency_key: str | None
    tags: Mapping[str, str]


def prepare(
    engine: Engine, flow: str | Flow, given: Any, *, idempotency_key: str | None, tags: Mapping[str, str] | None
) -> Start:
    """Check a start; writes nothing.

    Raises:
        UnknownFlow, InvalidInput, PayloadTooLarge: As of `Orchestrator.start`.
        StoreError: The flow is not registered here, and Redis does not say which one it is.
    """
    if idempotency_key is not None and not isinstance(idempotency_key, str):
        raise InvalidInput(f"an idempotency key must be a str, not {type(idempotency_key).__name__}")
    if not idempotency_key and idempotency_key is not None:  # a header that was missing would make all callers one
        raise InvalidInput("an idempotency key must not be empty; give None for a start without one")
    if isinstance(flow, Flow):
        engine.discovery.register(flow)
        flow = flow.name
    plan = find_plan(engine, flow)
    data = _dump(engine, flow, given)
    largest = engine.settings.max_payload_bytes
    if len(data) > largest:
        raise PayloadTooLarge(f"input of flow {flow}", len(data), largest)
    return Start(plan, data, str(uuid.uuid4()), idempotency_key, _checked_tags(tags))


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
    )
    if started.outcome == "conflict":
        raise IdempotencyConflict(start.plan.flow, start.idempotency_key or "", started.run_id)
    return started.run_id


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


def _dump(engine: Engine, flow: str, given: Any) -> bytes:
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
