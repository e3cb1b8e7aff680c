"""Answer what runs wait for: send a signal, vote on an approval, complete a callback."""

from __future__ import annotations

from hmac import compare_digest
from typing import TYPE_CHECKING, Any

from orchestrator.definition.checks.gates import LONGEST_NAME
from orchestrator.definition.codecs import Codec, codec_of
from orchestrator.definition.plan import node_of
from orchestrator.errors import (
    ApprovalRefused,
    InvalidInput,
    NodeFailure,
    PayloadTooLarge,
    RunError,
    SignalRefused,
    StaleCallback,
)
from orchestrator.fault_points import fault_point
from orchestrator.store.callbacks import Callback

if TYPE_CHECKING:
    from orchestrator.definition.plan import Plan
    from orchestrator.engine import Engine
    from orchestrator.store.run_store import RunRecord
    from orchestrator.store.scripts.results import Moved

LONGEST_KEY = 1000
"""Characters of the key of a signal."""
LONGEST_REASON = 2000
"""Characters of the reason of a vote."""
REFUSED_SIGNALS = {
    "no gate": "no gate of the run waits for it or will",
    "full": "its inbox has 100 of this name; wait until the run takes some",
    "ending": "the run is ending or has ended",
}
REFUSED_VOTES = {
    "no approver": "{by} is not among its approvers",
    "voted": "{by} has voted",
    "not open": "the approval is not open",
    "ending": "the run is ending or has ended",
}


def send_signal(engine: Engine, run_id: str, name: str, value: Any, *, key: str | None) -> None:
    """Send a signal; see `FlowRun.signal`."""
    record, plan = _pinned(engine, run_id)
    gates = plan.signals.get(name)
    if gates is None:
        known = ", ".join(sorted(plan.signals)) or "none"
        raise SignalRefused(f"no gate of its flow waits for a signal {name!r}; signals: {known}", plan.flow, run_id)
    if key is not None:
        _check_text(key, "the key of a signal", least=1, most=LONGEST_KEY)
    codec = codec_of_node(engine, plan, gates[0])
    data = dumped(engine, value, codec, f"signal {name}")
    fault_point("before_complete", name)
    with engine.store.guarded():
        moved = engine.store.scripts.outside.send_signal(
            run_id, plan.hash, name, data, is_checked=codec is not None, key=key
        )
    fault_point("after_complete", name)
    if moved.outcome in REFUSED_SIGNALS:
        raise SignalRefused(f"signal {name}: {REFUSED_SIGNALS[moved.outcome]}", plan.flow, run_id)
    _publish(engine, record, plan, moved)
    if moved.outcome == "kept" and codec is None:
        # If this message is lost, the reconciler finds the entry unchecked and sends another.
        engine.publisher.ask_judge(plan, run_id, record.epoch, name)


def vote(engine: Engine, run_id: str, name: str, *, verb: str, by: str, reason: str) -> None:
    """Count a vote, "approve" or "reject"; see `FlowRun.approve`."""
    record, plan = _pinned(engine, run_id)
    approvals = sorted(node.name for node in plan.nodes.values() if node.kind == "approval")
    if name not in approvals:
        known = ", ".join(approvals) or "none"
        raise ApprovalRefused(f"its flow has no approval {name!r}; approvals: {known}", plan.flow, run_id)
    _check_text(by, "by", least=1, most=LONGEST_NAME)
    _check_text(reason, "reason", least=0, most=LONGEST_REASON)
    fault_point("before_complete", name)
    with engine.store.guarded():
        moved = engine.store.scripts.outside.vote(run_id, plan.hash, name, verb=verb, by=by, reason=reason)
    fault_point("after_complete", name)
    if moved.outcome in REFUSED_VOTES:
        raise ApprovalRefused(REFUSED_VOTES[moved.outcome].format(by=by), plan.flow, run_id, name)
    _publish(engine, record, plan, moved)


def complete(engine: Engine, text: str, value: Any) -> None:
    """Complete the node of a callback; see `Orchestrator.complete`."""
    callback = Callback.of(text)
    pinned = _pinned_by(engine, callback)
    codec = codec_of_node(engine, pinned[1], callback.node)
    data = dumped(engine, value, codec, f"output of node {callback.node}")
    _call_back(engine, callback, pinned, verb="complete", text=data)


def is_open_to(engine: Engine, text: str) -> bool:
    """Return whether a text has the secret of a node, in a time that does not tell how much of it is right.

    Raises:
        StaleCallback: It is no text of a callback.
    """
    callback = Callback.of(text)
    secret = str(engine.store.node(callback.run_id, callback.node).get("secret") or "")
    return bool(secret) and compare_digest(secret.encode(), callback.secret.encode())


def fail(engine: Engine, text: str, message: str) -> None:
    """Let the node of a callback fail; see `Orchestrator.fail`."""
    callback = Callback.of(text)
    pinned = _pinned_by(engine, callback)
    attempt = engine.store.node(callback.run_id, callback.node).get("attempt", 0)
    failure = NodeFailure.of(RunError(message), flow_name=pinned[0].flow, node_name=callback.node, attempt=attempt)
    _call_back(engine, callback, pinned, verb="fail", text=failure.model_dump_json().encode())


def _call_back(engine: Engine, callback: Callback, pinned: tuple[RunRecord, Plan], *, verb: str, text: bytes) -> None:
    record, plan = pinned
    fault_point("before_complete", callback.node)
    with engine.store.guarded():
        moved = engine.store.scripts.outside.end_callback(
            callback.run_id,
            plan.hash,
            callback.node,
            verb=verb,
            text=text,
            secret=callback.secret,
            generation=callback.generation,
        )
    fault_point("after_complete", callback.node)
    if moved.outcome in {"stale", "unknown"}:
        raise _stale(callback)
    _publish(engine, record, plan, moved)


def _publish(engine: Engine, record: RunRecord, plan: Plan, moved: Moved) -> None:
    engine.publish(plan, record.run_id, record.epoch, moved.work)


def _pinned(engine: Engine, run_id: str) -> tuple[RunRecord, Plan]:
    record = engine.store.run(run_id)
    plan = engine.store.plan(record.plan) or engine.known_plan(record.plan)
    if plan is None:
        raise RunError(f"its plan {record.plan} is gone from Redis", record.flow, run_id)
    return record, plan


def _pinned_by(engine: Engine, callback: Callback) -> tuple[RunRecord, Plan]:
    pinned = engine.pinned(callback.run_id)
    if pinned is None or node_of(callback.node) not in pinned[1].nodes:
        raise _stale(callback)
    return pinned


def _stale(callback: Callback) -> StaleCallback:
    message = "the node does not wait for this callback any more"
    return StaleCallback(message, run_id=callback.run_id, node_name=callback.node)


def codec_of_node(engine: Engine, plan: Plan, node: str) -> Codec[Any] | None:
    """How a node's output is checked, if this process has its code."""
    node_plan = plan.nodes[node_of(node)]
    entry = engine.registry.entry_for(plan, node_plan)
    return None if entry is None else entry.nodes[node_plan.name].output_codec


def dumped(engine: Engine, value: Any, codec: Codec[Any] | None, what: str) -> bytes:
    """Return a value as JSON.

    Raises:
        InvalidInput: It does not fit; `what` it is begins the message.
        PayloadTooLarge: It is over `Settings.max_payload_bytes`.
    """
    try:
        data = codec_of(Any).dump(value, error=InvalidInput) if codec is None else codec.dump(value, error=InvalidInput)
    except InvalidInput as error:
        raise InvalidInput(f"{what}: {error.message}") from None
    largest = engine.settings.max_payload_bytes
    if len(data) > largest:
        raise PayloadTooLarge(what, len(data), largest)
    return data


def _check_text(value: object, what: str, *, least: int, most: int) -> None:
    is_text = isinstance(value, str) and least <= len(value) <= most
    if not is_text or any("\ud800" <= each <= "\udfff" for each in str(value)):
        raise InvalidInput(f"{what} is a text of {least} to {most} characters")
