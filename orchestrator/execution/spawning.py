"""Start the run of another flow that an attempt asks for, and let its node wait until that run has ended."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.definition.plan import in_milliseconds
from orchestrator.definition.priority import priority_of
from orchestrator.errors import ConfigurationError, RunError
from orchestrator.execution.commits import record_failure
from orchestrator.execution.failures import NO_FURTHER, Failed
from orchestrator.execution.store_retries import retry_until_stored
from orchestrator.fault_points import fault_point
from orchestrator.liveness.leases import holder_name

if TYPE_CHECKING:
    from orchestrator.execution.attempt import Attempt
    from orchestrator.execution.child_attempt import Spawn
    from orchestrator.execution.tree_runs import TreeRuns
    from orchestrator.store.scripts.results import Moved

LOOKS_AGAIN_MS = 5000
"""Time between two looks for a flow that nobody has announced."""


def start_child(attempt: Attempt, made: Spawn, tree: TreeRuns | None) -> tuple[Moved, BaseException | None]:
    """Start it, or let its first node be kept by `tree`; returns how the attempt ended, and its error if it failed."""
    fault_point("before_spawn", attempt.node_plan.name)
    engine, node, follows = attempt.engine, attempt.inputs.node, attempt.celery_continues
    if made.plan is None:
        wait = partial(attempt.store.scripts.children.wait_for_flow, *attempt.key, attempt.token)
        wait = partial(wait, delay_ms=LOOKS_AGAIN_MS, follows=follows)
        return retry_until_stored(attempt.store, attempt.place, wait), None
    # Items of a map start their children at once, and each of these in a process of its own.
    is_kept = tree and attempt.name == attempt.node_plan.name and tree.takes(made.plan, made.plan.steps[0].nodes[0])
    start = partial(
        engine.spawn,
        *(attempt.run_id, attempt.plan, attempt.name, attempt.token, made.plan),
        priority=priority_of(attempt.epoch),
        input_json=made.input_json,
        most_depth=engine.settings.max_depth,
        most_bytes=engine.settings.max_payload_bytes,
        lasts_ms=0 if node.timeout is None else in_milliseconds(node.timeout),
        delay_ms=attempt.plan.delay_ms(attempt.name, attempt.claimed.attempt),
        follows=follows,
        **_going_on(attempt, made.input_json, tree if is_kept else None),
    )
    try:
        spawned = retry_until_stored(attempt.store, attempt.place, start)
    except ConfigurationError as error:  # another worker may do better
        delay_ms = attempt.plan.delay_ms(attempt.name, attempt.claimed.attempt)
        return record_failure(attempt, Failed(error, error, delay_ms), continues=False)
    if tree and spawned.is_claimed and spawned.started:
        tree.hold_child(attempt, spawned.started.run_id)
    if spawned.outcome != "too deep":
        return spawned, None
    most = engine.settings.max_depth
    message = f"it would start a run {spawned.detail} levels below the first one; max_depth is {most}"
    too_deep = RunError(message, **attempt.inputs.where)
    return record_failure(attempt, Failed(too_deep, too_deep, NO_FURTHER), continues=False)


def _going_on(attempt: Attempt, input_json: bytes, tree: TreeRuns | None) -> dict[str, Any]:
    """What the start of a child is told of a node of the plainest kind, and of a process that goes on with it."""
    node = attempt.node_plan
    is_plain = attempt.plan.steps[node.step].kind == "then" and node.name in attempt.plan.fast_claims
    is_plain = is_plain and not node.children and attempt.inputs.node.timeout is None
    options: dict[str, Any] = {"holder": holder_name(), "place": (attempt.epoch, node.step) if is_plain else None}
    if tree is not None:
        options |= {"keep": partial(tree.keep_child, attempt), "claim_of": partial(tree.claim_child, input_json)}
    return options
