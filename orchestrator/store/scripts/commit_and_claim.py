"""Arguments of commit_and_claim.lua, and what it answers.

What the plan says of a call is the same whenever the same nodes follow each other, so a process packs it once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.definition.plan import node_of
from orchestrator.definition.step_plan import END
from orchestrator.store.scripts.connection import Packed
from orchestrator.store.scripts.results import Claimed, Moved, PageEnd, Work, moved_of, number_of, text_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.definition.plan import Plan

STORED = Moved("stored")


class Commit(NamedTuple):
    """What an attempt returned, to be stored.

    Attributes:
        node: The node, or an item of a map.
        token: The token of its claim.
        output: JSON of the output, or of a page's items; empty if there is none to store.
        choice: Of a decision: the branch; of a map's computation: how many items there are.
        page: Of a page: how many items it has, and the cursor that came with it.
        has_more: Whether there are pages after it.
    """

    node: str
    token: str
    output: bytes = b""
    choice: int | None = None
    page: PageEnd | None = None
    has_more: bool = False


class Claim(NamedTuple):
    """A node that an attempt asks for.

    Attributes:
        node: The node; of a map, any of its items.
        token: 128 random bits in hex, made by the caller.
        reads: Output keys to send along.
    """

    node: str
    token: str
    reads: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedCall:
    """What the plan says of a call.

    Attributes:
        fast_path: Which fast path may be taken: "nodes"; "local" where one process works on the position behind;
            "root" at the end of a run that may have children; "items"; "" for none.
        position: Position of the commits; without any, of the claims.
        size: How many nodes are there; of a map, how many items may run at once.
        behind: Position behind, None if no fast path knows what to do with it.
        followers: The nodes to claim; without any, the one that a commit makes ready.
    """

    fast_path: str
    position: int
    size: int
    behind: int | None
    followers: tuple[str, ...]


def planned_call(
    plan: Plan, committed: str, claimed: tuple[str, ...], *, may_be_fast: bool = True, is_child: bool = False
) -> PlannedCall:
    """What the plan says of a call.

    Args:
        plan: The plan.
        committed: The first node that is committed; empty for none.
        claimed: The nodes that are claimed.
        may_be_fast: Whether other nodes that are committed may take the fast path.
        is_child: Whether the run has a parent, of which the fast path knows nothing.
    """
    node = plan.nodes[committed or node_of(claimed[0])]
    known = plan.fast_commits if committed else plan.fast_claims
    is_fast = may_be_fast and (not committed or committed in plan.fast_commits) and known.issuperset(claimed)
    step = plan.steps[node.step]
    size, behind, followers = len(step.nodes), None, claimed
    fast_path = "nodes" if is_fast else ""
    if step.rules.is_map:
        size, fast_path = step.width, "items" if is_fast and claimed == (node.name,) else ""
    elif committed and is_fast:
        following = plan.steps[step.next] if step.next != END else None
        if claimed:
            behind = step.next if following is not None and claimed == following.nodes else None
        elif following is None:
            # The end of such a run touches keys that the fast path is not given.
            has_more = plan.maps or plan.pages or plan.signals or plan.max_runs
            behind = None if is_child or has_more else END
            fast_path = "root" if plan.children else fast_path
        elif following.rules.is_single and not plan.nodes[following.nodes[0]].deadline_ms:
            behind, followers = step.next, following.nodes
        if behind is None and not step.local:  # members of a local step are stored as long as others are left
            fast_path = ""
        elif behind is not None and behind != END and plan.steps[behind].local:
            fast_path = "local"
    return PlannedCall(fast_path, node.step, size, behind, followers)


class PlannedCalls:
    """What is the same whenever the same nodes follow each other, packed once in a process."""

    def __init__(self) -> None:
        # As many as there are neighbours in plans.
        self._known: dict[tuple[Any, ...], tuple[PlannedCall, Packed]] = {}

    def find(
        self,
        plan: Plan,
        commits: Sequence[Commit],
        claims: Sequence[Claim],
        holder: str,
        lease_ms: int,
        *,
        is_child: bool = False,
    ) -> tuple[PlannedCall, Packed]:
        """What the plan says of a call, and its first arguments."""
        committed, details, may_be_fast = "", False, True
        for each in commits:
            details = details or each.choice is not None or each.page is not None
        if commits:
            committed = node_of(commits[0].node)
        if len(commits) > 1:  # a single one is plain or not whenever it is stored
            may_be_fast = plan.fast_commits.issuperset([each.node for each in commits])
        claimed = tuple([each.node for each in claims])
        kind = (plan.hash, committed, len(commits), details, may_be_fast, claimed, holder, lease_ms, is_child)
        found = self._known.get(kind)
        if found is None:
            call = planned_call(plan, committed, claimed, may_be_fast=may_be_fast, is_child=is_child)
            arguments: list[str | int] = [holder, lease_ms, call.fast_path, call.position, call.size]
            arguments += ["" if call.behind is None else call.behind, len(commits), int(details), len(claims)]
            arguments.append(len(call.followers))
            for name in call.followers:
                arguments += (name, plan.nodes[node_of(name)].timeout_ms)
            found = self._known[kind] = call, Packed(arguments)
        return found


def arguments_of(plan: Plan, commits: Sequence[Commit], claims: Sequence[Claim], reads: Sequence[str]) -> list[Any]:
    """What is committed and claimed, as it differs from call to call."""
    args: list[Any] = []
    tokens: list[str] = []
    outputs: list[Any] = []
    details = False
    for each in commits:  # mostly one: a loop costs less than a list for each field
        args.append(each.node)
        tokens.append(each.token)
        outputs += (plan.nodes[node_of(each.node)].key, each.output)
        details = details or each.choice is not None or each.page is not None
    args += tokens
    args += outputs
    if details:
        for each in commits:
            count, cursor = ("", "") if each.page is None else (each.page.count, each.page.cursor)
            args += ("" if each.choice is None else each.choice, count, cursor, int(each.has_more))
    for claim in claims:
        args.append(claim.token)
    args += reads
    return args


def reads_of(claims: Sequence[Claim]) -> tuple[str, ...]:
    """Each output key that some of several claims read, once."""
    if len(claims) == 1:
        return claims[0].reads
    return tuple(dict.fromkeys([key for each in claims for key in each.reads]))


def read_answer(
    answer: Any, commits: Sequence[Commit], claims: Sequence[Claim], reads: Sequence[str], call: PlannedCall
) -> tuple[list[Moved], list[Claimed]]:
    """What became of each commit and of each claim; no claims where other members of the position are left."""
    if isinstance(answer, bytes):
        return _read_fast(answer, commits, claims, reads, call)
    moved = [moved_of(each) for each in answer[: len(commits)]]
    claimed = answer[len(commits) : len(commits) + len(claims)]
    values = dict(zip(reads, answer[-1], strict=True)) if len(answer) > len(commits) + len(claims) else {}
    return moved, [_claimed_of(each, claim, values) for each, claim in zip(claimed, claims, strict=True)]


def _read_fast(
    answer: bytes, commits: Sequence[Commit], claims: Sequence[Claim], reads: Sequence[str], call: PlannedCall
) -> tuple[list[Moved], list[Claimed]]:
    moved = [STORED] * len(commits)
    if not answer:
        return moved, []
    head, _, rest = answer.partition(b"\n")
    numbers = head.split(b" ")
    if len(numbers) == 1:
        assert call.behind is not None  # noqa: S101 - the script makes ready only what it is told of
        moved[-1] = Moved("stored", Work("step", call.behind, int(head), joined_in_store=False, names=call.followers))
        return moved, []
    values = _values_of(rest)
    attempt, generation, scheduled, index = numbers
    facts = (int(attempt), int(generation), number_of(scheduled))
    if index:
        return moved, [Claimed("run", *facts, index=int(index), item=values[0] or b"")]
    if len(claims) == 1:
        return moved, [Claimed("run", *facts, tuple(values))]
    by_key = dict(zip(reads, values, strict=True))
    return moved, [Claimed("run", *facts, tuple([by_key[key] for key in each.reads])) for each in claims]


def granted_of(answer: bytes) -> Claimed:
    """The claim of one node, as a fast path answers it."""
    head, _, rest = answer.partition(b"\n")
    attempt, generation, scheduled, _ = head.split(b" ")
    return Claimed("run", int(attempt), int(generation), number_of(scheduled), tuple(_values_of(rest)))


def _values_of(text: bytes) -> list[bytes | None]:
    values: list[bytes | None] = []
    if text:
        sizes, _, text = text.partition(b"\n")
        at = 0
        for size in map(int, sizes.split(b" ")):
            values.append(None if size < 0 else text[at : at + size])
            at += max(size, 0)
    return values


def _claimed_of(answer: Sequence[Any], claim: Claim, values: dict[str, bytes | None]) -> Claimed:
    outcome = text_of(answer[0])
    if outcome == "sleep":
        return Claimed(outcome, sleep=int(answer[1]), arrived=int(answer[2]))
    if outcome not in {"run", "admit"}:
        return Claimed(outcome, bucket=text_of(answer[1]) if outcome == "no limit" else "")
    attempt, generation, scheduled, index, *lasts = answer[1].split(b" ")
    return Claimed(
        outcome,
        int(attempt),
        int(generation),
        number_of(scheduled),
        tuple(values.get(key) for key in claim.reads),
        index=number_of(index),
        item=answer[2],
        lasts_ms=max(1, int(lasts[0])) if lasts else 0,
    )
