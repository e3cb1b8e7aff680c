"""Store how attempts ended, exactly once, and claim what follows in the same round trip.

Every call is repeated until Redis answers; a repeat by the same token has no second effect. What the end made ready is
published here, unless the source goes on with it in this process.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.definition.plan import in_milliseconds
from orchestrator.definition.step_plan import END
from orchestrator.errors import NodeFailure, RateLimited
from orchestrator.execution.attempt import NOT_CLAIMED
from orchestrator.execution.failures import NO_FURTHER, Failed, for_celery
from orchestrator.execution.store_retries import retry_until_stored
from orchestrator.fault_points import fault_point
from orchestrator.liveness.leases import holder_name
from orchestrator.liveness.pool_memory import AT_ONCE
from orchestrator.middleware import End, Outcome
from orchestrator.store.run_store import milliseconds
from orchestrator.store.scripts.commit_and_claim import Commit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.definition.context import Deferred
    from orchestrator.execution.attempt import Attempt
    from orchestrator.execution.node_kinds import Returned
    from orchestrator.store.scripts.results import Claimed, Moved

logger = logging.getLogger(__name__)
DROPPED = {"fenced", "unknown"}
ENDS = {
    "stored": End.STORED,
    "turned": End.PAGE_STORED,
    "waiting": End.PARKED,
    "completed": End.PARKED,  # by what came while the attempt ran
    "excused": End.TOLERATED,
    "parked": End.PARKED,
    "paused": End.PARKED,
    # Given back to a worker whose code fits; in a run that is ending it does not start again.
    "again": End.PARKED,
    "ended": End.PARKED,
    "failed": End.FAILED,
    # The run was ending when the attempt asked for its limits: it was not started, and what is left goes on from here.
    "ending": End.PARKED,
}


@dataclass(frozen=True)
class Committed:
    """The answer of a commit.

    Attributes:
        moved: Of each attempt.
        claims: Of the successors, as far as they were asked for; NOT_CLAIMED: the successor has to ask itself.
        seen: JSON of outputs by key that successors need not ask for.
        pushed: The node whose message went with the commit, if any.
    """

    moved: Sequence[Moved]
    claims: Sequence[Claimed] = ()
    seen: Mapping[str, bytes] = field(default_factory=dict)
    pushed: str = ""


def commit(returned: Sequence[tuple[Attempt, Returned]], successors: Sequence[Attempt]) -> Committed:
    """Store what attempts at one position returned.

    Args:
        returned: One attempt, or members of a local step.
        successors: What this process goes on with behind them; the same objects if a call is repeated, because a lost
            answer may have given their tokens their claims.
    """
    first = returned[0][0]
    for attempt, made in returned:
        # A hundred thousand items do not fit into one script call: they are staged under the token, which expires, and
        # the commit renames them. A crash in between leaves nothing that anybody reads.
        if made.items:
            stage = partial(attempt.store.stage_items, attempt.run_id, attempt.token, made.items)
            retry_until_stored(attempt.store, attempt.place, stage)
    return retry_until_stored(first.store, first.place, partial(_commit, returned, successors))


def _commit(returned: Sequence[tuple[Attempt, Returned]], successors: Sequence[Attempt]) -> Committed:
    first, made = returned[0]
    # No more than this process works on at once: the lease renewer ends claims that no attempt executes.
    claims = successors[:AT_ONCE]
    seen: dict[str, bytes] = {}
    for attempt, _ in returned if claims else ():
        seen |= attempt.prefetched.read(attempt.claimed.values)
    for attempt, other in returned:
        if other.output and other.page is None and attempt.kind.has_key:
            seen[attempt.node_plan.key] = other.output
    # Celery or this process goes on: if the script handed out what is behind as well, it would be sent twice.
    follows = first.celery_continues or bool(successors)
    pushed, message = "", ("", "")
    if not successors and made.page is None:
        pushed = _single_follower(first, made)
        # Pushed by the script that stores, it saves a round trip and cannot be lost in between. Not while Celery
        # carries the rest of a chain: then it publishes the follower itself, and the node would run twice.
        if pushed and not follows:
            message = first.engine.publisher.known_message(first.plan, first.run_id, pushed, first.epoch)
    # One script commits and claims: between two, a crash would leave the successors to the reconciler for a second.
    moved, claimed = first.store.scripts.commit_and_claim(
        first.run_id,
        first.plan,
        [_commit_of(attempt, other) for attempt, other in returned],
        [each.claim_of(seen) for each in claims],
        epoch=first.epoch,
        holder=holder_name() if claims else "",
        lease_ms=first.store.lease_ms if claims else 0,
        follows=follows,
        message=(pushed, *message),
    )
    answers = [*claimed, *[NOT_CLAIMED] * (len(successors) - len(claimed))] if claimed else ()
    return Committed(moved, answers, seen, pushed)


def _commit_of(attempt: Attempt, made: Returned) -> Commit:
    return Commit(attempt.name, attempt.token, made.output, made.choice, made.page, made.has_more)


def _single_follower(attempt: Attempt, made: Returned) -> str:
    """The node whose message may go with the commit, if what follows is one node."""
    if attempt.kind.repeats(made):
        return attempt.node_plan.name
    position = attempt.plan.next_position(attempt.node_plan, made.choice)
    step = attempt.plan.steps[position] if position != END else None
    return step.nodes[0] if step is not None and step.rules.is_single else ""


def let_wait(attempt: Attempt, deferred: Deferred) -> Moved:
    """Let the node of an attempt wait for what it says."""
    fault_point("before_wait", attempt.node_plan.name)
    options: dict[str, Any] = {"waits": "callback"}
    if deferred.until is not None:
        options = {"waits": "sleep", "due_ms": round(deferred.until.timestamp() * 1000)}
    elif deferred.timeout is not None:
        delay_ms = attempt.plan.delay_ms(attempt.name, attempt.claimed.attempt)
        options |= {"lasts_ms": in_milliseconds(deferred.timeout), "delay_ms": delay_ms}
    wait = partial(
        attempt.store.scripts.outside.wait,
        *attempt.key,
        attempt.token,
        follows=attempt.celery_continues,
        **options,
    )
    return retry_until_stored(attempt.store, attempt.place, wait)


def record_failure(attempt: Attempt, failed: Failed, *, continues: bool) -> tuple[Moved, BaseException]:
    """Record a failure, and what follows from it; returns the error that was recorded too."""
    inputs, error = attempt.inputs, failed.error
    # No failure is recorded: the attempt has said something of this worker's code, and nothing of the node.
    if failed.misfit:
        return _give_back(attempt, failed.misfit), for_celery(error, inputs)
    # As it is stored: only the attempt knows the values that must not be shown.
    failure = inputs.redaction.failure(
        NodeFailure.of(error, flow_name=attempt.plan.flow, node_name=attempt.name, attempt=attempt.claimed.attempt)
    )
    longest = attempt.engine.settings.max_throttle
    fault_point("before_fail", attempt.node_plan.name)
    record = partial(
        attempt.store.scripts.fail,
        *attempt.key,
        attempt.token,
        failure=failure.model_dump_json(),
        delay_ms=failed.delay_ms,
        follows=attempt.celery_continues or continues,
        max_throttle_ms=milliseconds(longest) if failed.gives_back else None,
    )
    # Recorded before Celery hears of it: its error callback asks the store, and would find a run that is not ending.
    moved = retry_until_stored(attempt.store, attempt.place, record)
    if moved.outcome == "exhausted":  # nothing was recorded yet: an endless freeze ends as a failure of its own
        message = f"the other side told it to wait for longer than max_throttle, {longest.total_seconds():g} s in all"
        limited = RateLimited(message, **inputs.where)
        return record_failure(attempt, Failed(limited, limited, NO_FURTHER), continues=continues)
    logger.info(
        "flow %s run %s node %s: attempt %d failed, %s: %r",
        *attempt.place, attempt.claimed.attempt, moved.outcome, failure.type,
    )  # fmt: skip
    return moved, for_celery(error, inputs)


def _give_back(attempt: Attempt, reason: str) -> Moved:
    """Leave a node to a worker whose code fits; this process does not try it again in a run of this plan."""
    own, node = attempt.inputs.entry.plan, attempt.node_plan.name
    attempt.engine.registry.fits.note(own, attempt.plan, node, reason)
    logger.warning("flow %s run %s node %s: given back to a worker with other code: %s", *attempt.place, reason)
    record = partial(attempt.store.scripts.give_back, *attempt.key, attempt.token, own=own.hash, reason=reason)
    return retry_until_stored(attempt.store, attempt.place, record)


def outcome_of(attempt: Attempt, moved: Moved, error: BaseException | None = None) -> Outcome:
    """How an attempt ended, from the answer of the script that recorded it."""
    if moved.outcome not in DROPPED:
        return Outcome(ENDS[moved.outcome], error)
    # A worker that was frozen for longer than its lease: the attempt that took over decides, this result never counts.
    logger.warning("flow %s run %s node %s: a later attempt holds the node; dropped", *attempt.place)
    return Outcome(End.SKIPPED)
