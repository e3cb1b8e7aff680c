"""The short way on: plain attempts are stored and what is ahead of them is claimed, by the scripts made for just that.

Whether nothing is out of the ordinary is known here as far as the plan tells it; the scripts look at the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.liveness.leases import holder_name
from orchestrator.liveness.pool_processes import AT_ONCE
from orchestrator.store.scripts.results import Claimed, Done, Moved, Wanted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.execution.attempt import Attempt


def goes_onward(attempts: Sequence[Attempt], outputs: Sequence[bytes], ahead: Sequence[Attempt]) -> bool:
    """Store what attempts at one position returned and, behind the last of them, claim what is ahead.

    Returns False, with nothing done, where it is not that plain.
    """
    first = attempts[0]
    if len(ahead) > AT_ONCE or not all(is_plain(attempt) for attempt in attempts) or not are_plain(ahead):
        return False
    scripts, run_id, plan = first.store.scripts, first.run_id, first.plan
    done = [Done(each.name, each.token, output) for each, output in zip(attempts, outputs, strict=True)]
    if first.facts.kind == "item":
        claimed = scripts.next_item(run_id, plan, done[0], follower=ahead[0].token, holder=holder_name())
        if claimed is not None:
            ahead[0].claimed = claimed
        return claimed is not None
    seen = {key: value for each in attempts for key, value in each.reading.read(each.claimed.values).items()}
    seen |= {each.facts.key: output for each, output in zip(attempts, outputs, strict=True)}
    wanted = [Wanted(each.name, each.token, each.reading.to_ask(seen)) for each in ahead]
    found = scripts.commit_and_claim(run_id, plan, done, wanted, holder=holder_name())
    for attempt, values in zip(ahead, found or (), strict=False):
        attempt.claimed = Claimed("run", 1, 0, first.claimed.scheduled, values)
    if found is not None:
        for attempt in ahead:
            attempt.reading.seen |= seen
    return found is not None


def goes_onward_alone(attempt: Attempt, output: bytes) -> Moved | None:
    """Store what one attempt returned; None, with nothing done, where nothing is ahead or it is not that plain."""
    return Moved("stored") if attempt.ahead and goes_onward((attempt,), (output,), attempt.ahead) else None


def is_plain(attempt: Attempt) -> bool:
    """Whether it is the first attempt of a plain node, in a run that was not resumed."""
    return attempt.epoch == 1 and attempt.claimed.attempt == 1 and attempt.facts.name in attempt.plan.plain


def are_plain(ahead: Sequence[Attempt]) -> bool:
    """Whether all that is ahead are plain nodes."""
    return all(attempt.facts.name in attempt.plan.plain for attempt in ahead)
