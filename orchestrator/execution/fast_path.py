"""Commit plain attempts and claim their successors in one script, when nothing unusual is involved.

The plan rules out what is unusual by definition (limits, pages, failures tolerated); the script looks at what only the
run knows, and does nothing where it finds any of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.liveness.leases import holder_name
from orchestrator.liveness.pool_memory import AT_ONCE
from orchestrator.store.scripts.results import Claimed, Done, Wanted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.execution.attempt import Attempt
    from orchestrator.execution.node_kinds import Returned


@dataclass(frozen=True)
class FastCommit:
    """All attempts are stored.

    Attributes:
        claims: Of each successor; none while other members of their position are left.
        seen: JSON of outputs by key that the attempts read or stored.
    """

    claims: Sequence[Claimed]
    seen: Mapping[str, bytes]


def fast_commit(returned: Sequence[tuple[Attempt, Returned]], successors: Sequence[Attempt]) -> FastCommit | None:
    """Store what attempts at one position returned and, behind the last of them, claim their successors.

    Returns None, with nothing done, where the general scripts are needed.
    """
    attempts = [attempt for attempt, _ in returned]
    first = attempts[0]
    if len(successors) > AT_ONCE or not all(map(is_plain, attempts)) or not are_plain(successors):
        return None
    # What plan and attempt cannot know (a cancel, a failed sibling, a resume) the scripts look at before they write.
    scripts, run_id, plan = first.store.scripts, first.run_id, first.plan
    done = [Done(attempt.name, attempt.token, made.output) for attempt, made in returned]
    if first.node_plan.kind == "item":
        claimed = scripts.next_item(run_id, plan, done[0], follower=successors[0].token, holder=holder_name())
        return FastCommit((claimed,), {}) if claimed is not None else None
    seen: dict[str, bytes] = {}
    for attempt, _ in returned:
        seen |= attempt.prefetched.read(attempt.claimed.values)
    for attempt, made in returned:  # stored by this very call: successors in this process need not read it back
        seen[attempt.node_plan.key] = made.output
    wanted = [Wanted(each.name, each.token, each.prefetched.to_ask(seen)) for each in successors]
    found = scripts.commit_and_claim(run_id, plan, done, wanted, holder=holder_name())
    if found is None:
        return None
    return FastCommit([Claimed("run", 1, 0, first.claimed.scheduled, values) for values in found], seen)


def is_plain(attempt: Attempt) -> bool:
    """Whether it is the first attempt of a plain node, in a run that was not resumed."""
    return attempt.epoch == 1 and attempt.claimed.attempt == 1 and attempt.node_plan.name in attempt.plan.plain


def are_plain(successors: Sequence[Attempt]) -> bool:
    """Whether all successors are plain nodes."""
    return all(each.node_plan.name in each.plan.plain for each in successors)
