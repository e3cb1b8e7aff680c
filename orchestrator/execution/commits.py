"""Store how attempts ended, exactly once, and claim what follows in the same round trip.

Every call is repeated until Redis answers; a repeat by the same token has no second effect. What the end made ready is
published here, unless the source goes on with it in this process.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.definition.plan import END, IN_LINE
from orchestrator.errors import NodeFailure, RateLimited
from orchestrator.execution.attempt import NOT_CLAIMED
from orchestrator.execution.failures import NO_FURTHER, Failed, for_celery
from orchestrator.execution.fast_path import are_plain, fast_commit, is_plain
from orchestrator.execution.store_retries import retry_until_stored
from orchestrator.fault_points import fault_point
from orchestrator.liveness.pool_memory import AT_ONCE
from orchestrator.middleware import End, Outcome
from orchestrator.store.run_store import milliseconds
from orchestrator.store.scripts.results import Claimed, Moved

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.execution.attempt import Attempt
    from orchestrator.execution.node_kinds import Returned
    from orchestrator.store.scripts.results import Call

logger = logging.getLogger(__name__)
DROPPED = {"fenced", "unknown"}
ENDS = {
    "stored": End.STORED,
    "turned": End.PAGE_STORED,
    "excused": End.TOLERATED,
    "parked": End.PARKED,
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
    scripts = first.store.scripts
    if first.plan.steps[first.node_plan.step].local:
        return _commit_members(returned, successors)
    if successors and (fast := fast_commit(returned, successors)) is not None:
        return Committed([Moved("stored")], fast.claims, fast.seen)
    call, pushed = _commit_call(first, made, continues=bool(successors))
    if not successors:
        return Committed([scripts.send(call)], pushed=pushed)
    # One script commits and claims: between two, a crash would leave the successors to the reconciler for a second.
    moved, claims = scripts.send_with_claims(call, [each.claim_call() for each in successors[:AT_ONCE]])
    return Committed([moved], [*claims, *[NOT_CLAIMED] * (len(successors) - len(claims))])


def _commit_members(returned: Sequence[tuple[Attempt, Returned]], successors: Sequence[Attempt]) -> Committed:
    # The fast path claims only plain successors; without any it stores all members but the last.
    fast = fast_commit(returned, successors if are_plain(successors) else ())
    if fast is not None:
        return Committed([Moved("stored")] * len(returned), fast.claims, fast.seen)
    calls = [_commit_call(attempt, made, continues=False)[0] for attempt, made in returned]
    moved = returned[0][0].store.scripts.send_all(calls)
    # A lost answer of the fast path may have given the successors their claims: they ask again.
    asks = bool(successors) and are_plain(successors) and all(is_plain(attempt) for attempt, _ in returned)
    return Committed(moved, [NOT_CLAIMED] * len(successors) if asks else ())


def _commit_call(attempt: Attempt, made: Returned, *, continues: bool) -> tuple[Call[Moved], str]:
    """The commit of one attempt, and the node whose message goes with it, if it is known how that looks."""
    scripts = attempt.store.scripts
    if made.page is not None and made.has_more:
        place = (*attempt.key, attempt.token)
        return scripts.commit_page_call(*place, items=made.output, page=made.page, goes_on=continues), ""
    follows = attempt.celery_continues or continues
    pushed = "" if continues or made.page is not None else _single_follower(attempt, made.choice)
    message = ("", "")
    # Pushed by the script that stores, it saves a round trip and cannot be lost in between. Not while Celery carries
    # the rest of a chain: then it publishes the follower itself, and the node would run twice.
    if pushed and not follows:
        publisher = attempt.engine.publisher
        message = publisher.known_message(attempt.plan, attempt.run_id, pushed, attempt.epoch)
    call = scripts.commit_call(
        *attempt.key,
        attempt.token,
        output=made.output,
        choice=made.choice,
        follows=follows,
        page=made.page,
        message=(pushed, *message),
        plain=() if made.page is not None else attempt.plan.to_commit(attempt.node_plan),
    )
    return call, pushed


def _single_follower(attempt: Attempt, choice: int | None) -> str:
    """The node whose message may go with the commit, if what follows is one node."""
    if attempt.node_plan.kind == "item":
        return attempt.node_plan.name
    position = attempt.plan.follower(attempt.node_plan, choice)
    step = attempt.plan.steps[position] if position != END else None
    return step.nodes[0] if step is not None and step.kind in IN_LINE else ""


def record_failure(attempt: Attempt, failed: Failed, *, continues: bool) -> tuple[Moved, BaseException]:
    """Record a failure, and what follows from it; returns the error that was recorded too."""
    inputs, error = attempt.inputs, failed.error
    failure = NodeFailure.of(
        error, flow_name=attempt.plan.flow, node_name=attempt.name, attempt=attempt.claimed.attempt
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


def outcome_of(attempt: Attempt, moved: Moved, error: BaseException | None = None) -> Outcome:
    """How an attempt ended, from the answer of the script that recorded it."""
    if moved.outcome not in DROPPED:
        return Outcome(ENDS[moved.outcome], error)
    # A worker that was frozen for longer than its lease: whoever took over decides, this result never counts.
    logger.warning("flow %s run %s node %s: a later attempt holds the node; dropped", *attempt.place)
    return Outcome(End.SKIPPED)
