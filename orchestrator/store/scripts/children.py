"""Scripts of flow nodes: an attempt starts a run of another flow and lets its node wait for it, and how that ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.definition.step_plan import END
from orchestrator.store.keys import child_id
from orchestrator.store.scripts.commit_and_claim import granted_of
from orchestrator.store.scripts.connection import Packed
from orchestrator.store.scripts.results import Moved, Started, started_of, text_of, work_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.definition.plan import Plan
    from orchestrator.store.keys import Keys
    from orchestrator.store.scripts.commit_and_claim import Claim, Commit
    from orchestrator.store.scripts.results import Claimed


@dataclass(frozen=True)
class Spawned(Moved):
    """The answer of `spawn`: an outcome of spawn.lua, and what to publish of the parent.

    Attributes:
        started: The child that was started, if one was, and what to publish of it.
        detail: With "number", "too deep" and "evicts": what the script adds.
        is_claimed: Whether the first node of the child is claimed with it.
    """

    started: Started | None = None
    detail: str = ""
    is_claimed: bool = False


class FirstClaim(NamedTuple):
    """The claim of a child's first node by who starts it.

    Attributes:
        node: The node.
        token: The token.
        timeout_ms: Limit of the attempt.
    """

    node: str
    token: str
    timeout_ms: int


NO_CLAIM = FirstClaim("", "", 0)


@dataclass(frozen=True)
class PlainEnd:
    """An end of a child of which the plans say nothing unusual.

    Attributes:
        follower: The node of the parent behind the one that waits for the child.
        arguments: What the plans and the process say, as end_child.lua takes it.
    """

    follower: str
    arguments: Packed


def plain_end(plan: Plan, name: str, parent: Plan, flow_node: str, holder: str) -> PlainEnd | None:
    """The end of a child with one of its nodes, if end_child.lua knows what to do then.

    Args:
        plan: The plan of the child.
        name: The node of the child that is committed.
        parent: The plan of the run that waits for it.
        flow_node: The node that waits.
        holder: The process that holds the claims.
    """
    node, waiting = plan.nodes[name], parent.nodes[flow_node]
    step, own = plan.steps[node.step], parent.steps[waiting.step]
    if step.kind != "then" or step.next != END or name not in plan.fast_commits or node.key != plan.result_key:
        return None
    # The end of such a run writes what the script is not told of.
    if plan.maps or plan.pages or plan.signals or plan.max_runs:
        return None
    if own.kind != "then" or own.next == END or waiting.paged or waiting.deadline_ms:
        return None
    following = parent.steps[own.next]
    (follower, *more) = following.nodes
    if more or following.kind != "then" or follower not in parent.fast_claims:
        return None
    behind = parent.nodes[follower]
    facts = (name, node.key, node.step, flow_node, waiting.key, waiting.step, follower, behind.step, behind.timeout_ms)
    return PlainEnd(follower, Packed((*facts, holder)))


class Children:
    """The operations spawn.lua and end_child.lua; they may raise `redis.RedisError`.

    Args:
        keys: The keys.
        call: Calls a script with keys and arguments.
        start_call: Keys and arguments of start.lua, and those in front of them that are packed.
    """

    def __init__(self, keys: Keys, call: Callable[..., Any], start_call: Callable[..., Any]) -> None:
        self._keys = keys
        self._call = call
        self._start_call = start_call
        # As many as there are flow nodes in plans.
        self._ends: dict[tuple[str, ...], PlainEnd | None] = {}

    def spawn(
        self,
        run_id: str,
        plan: str,
        node: str,
        token: str,
        *,
        child_plan: Plan,
        number: int,
        most_depth: int,
        most_bytes: int,
        lasts_ms: int,
        delay_ms: int = 0,
        follows: bool,
        message_of: Callable[[Plan, str], tuple[str, str]],
        place: tuple[int, int] | None = None,
        holder: str = "",
        claim_of: Callable[[Plan, str], FirstClaim | None] | None = None,
        **options: Any,
    ) -> Spawned:
        """Start a child and let its node wait: spawn.lua; options as of a start, without tags.

        With `place`, the node's epoch and position, the plan says nothing unusual of it. `claim_of` says what is
        claimed with a child; only with the first one of its node, which a repeated call asks for first.
        """
        child = child_id(run_id, node, number)
        claim = (claim_of(child_plan, child) if claim_of and number == 1 else None) or NO_CLAIM
        options |= {"message": message_of(child_plan, child), "tags": {}, "idempotency_key": None}
        keys, args, fixed = self._start_call(child, child_plan, **options)
        head = (
            *(run_id, node, token, number, child, most_depth, most_bytes, lasts_ms, delay_ms, int(follows)),
            *(place or (0, 0)),
            *(int(place is not None), *claim, holder),
        )
        return _spawned_of(self._call("spawn", (*self._keys.of_run(run_id, plan), *keys), args, fixed.behind(head)))

    def wait_for_flow(self, run_id: str, plan: str, node: str, token: str, *, delay_ms: int, follows: bool) -> Spawned:
        """Park a node, its attempt given back, whose flow nobody has announced: spawn.lua."""
        args = (run_id, node, token, 0, "", 0, 0, 0, delay_ms, int(follows), 0, 0, 0, *NO_CLAIM, "")
        return _spawned_of(self._call("spawn", self._keys.of_run(run_id, plan), args))

    def plain_end(self, plan: Plan, name: str, parent: Plan, flow_node: str, holder: str) -> PlainEnd | None:
        """As the function of that name, looked for once."""
        kind = (plan.hash, name, parent.hash, flow_node, holder)
        if kind not in self._ends:
            self._ends[kind] = plain_end(plan, name, parent, flow_node, holder)
        return self._ends[kind]

    def end(
        self,
        end: PlainEnd,
        run_id: str,
        plan: str,
        commit: Commit,
        *,
        epoch: int,
        parent: tuple[str, str, int],
        claim: Claim,
    ) -> Claimed | None:
        """End a child with the commit of its last node, and go on in its parent: end_child.lua.

        Args:
            end: What the plans say.
            run_id: The child.
            plan: The plan that it pins.
            commit: What is stored.
            epoch: Epoch of the child.
            parent: The run that waits for it, the plan which that pins, and its epoch.
            claim: The node behind the one that waits.

        Returns:
            The claim; None if nothing was done, as something of the runs is unusual.
        """
        keys = (*self._keys.of_run(run_id, plan), *self._keys.of_run(*parent[:2])[:5])
        args = [run_id, commit.token, commit.output, epoch, parent[0], parent[2], claim.token, len(claim.reads)]
        answer = self._call("end_child", keys, [*args, *claim.reads], end.arguments)
        return None if answer is None else granted_of(answer)


def _spawned_of(answer: list[Any]) -> Spawned:
    outcome = text_of(answer[0])
    if len(answer) == 1:
        return Spawned(outcome)
    if not isinstance(answer[1], list):
        return Spawned(outcome, detail=text_of(answer[1]))
    started = answer[1]
    is_claimed = started[2:] == [b"claimed"]
    return Spawned(outcome, work_of(answer[2:]), started_of(started) if started else None, is_claimed=is_claimed)
