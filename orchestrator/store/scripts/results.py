"""Results of the scripts: the small arrays that they answer, turned into named values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.store.lost_writes import SweepMark

Values: TypeAlias = tuple[bytes | None, ...]


@dataclass(frozen=True)
class Work:
    """The messages that the caller of a transition has to publish.

    Attributes:
        kind: "step" (a whole position), "nodes" (single messages), "saga" (compensations in order), "more" (none before
            another portion of the transition is done, by go_on.lua), "" for nothing, or one of `ELSEWHERE`.
        position: Position of the step; of a saga, the index of its first compensation.
        since: Instant in ms at which the nodes became publishable, on Redis's clock.
        joined_in_store: Whether the store joins the step, not a chord, so that single messages have to be sent.
        names: Nodes or compensations.
    """

    kind: str = ""
    position: int = -1
    since: int = 0
    joined_in_store: bool = False
    names: tuple[str, ...] = ()


MORE = "more"
"""Kind of the work that is left of a transition in portions."""


WAKE_PARENT, UNDO_CHILD, RESUME_CHILD, WAKE_NEXT = "parent", "undo", "resume", "next"
ELSEWHERE = frozenset({WAKE_PARENT, UNDO_CHILD, RESUME_CHILD, WAKE_NEXT})
"""Kinds of work on another run; its names are that run, the node of the parent, the hash of its plan, and its epoch.

The next run of a lane has `:admit` in place of the node.
"""


@dataclass(frozen=True)
class Moved:
    """The answer of a transition: its outcome, and what to publish."""

    outcome: str
    work: Work = Work()


@dataclass(frozen=True)
class Started:
    """The answer of `start`: the run that holds now, and what to publish."""

    outcome: str
    run_id: str
    work: Work = Work()


class Claimed(NamedTuple):
    """The answer of a claim. A tuple, for one is made for every node.

    Attributes:
        outcome: "run", or "admit" where the buckets depend on the input, or why not: see claim.lua.
        attempt: Number of the attempt, from 1.
        generation: Rises when the node was compensated.
        scheduled: Nominal instant of the tick that started the run, in ms, or None.
        values: JSON of the outputs asked for; None where there is none.
        sleep: With "sleep": microseconds until a token is there.
        arrived: With "sleep": first arrival, to be given back with the next claim.
        bucket: With "no limit": the bucket that nobody announced.
        index: Of an item of a map: its index; of a page: its number, from 0.
        item: Of an item of a map: its JSON; of a page: its cursor as JSON.
        lasts_ms: Of a node with a deadline: how long the attempt may take, in ms.
    """

    outcome: str
    attempt: int = 0
    generation: int = 0
    scheduled: int | None = None
    values: Values = ()
    sleep: int = 0
    arrived: int = 0
    bucket: str = ""
    index: int | None = None  # type: ignore[assignment]  # instead of the method of tuples, which nobody needs
    item: bytes = b""
    lasts_ms: int = 0

    @property
    def is_held(self) -> bool:
        """Whether the caller holds the node now."""
        return self.outcome in {"run", "admit"}


@dataclass(frozen=True)
class Admitted:
    """The answer of `admit`: "run", or why not (see admit.lua); microseconds to sleep; what to publish."""

    outcome: str
    sleep: int = 0
    work: Work = Work()


@dataclass(frozen=True)
class PageEnd:
    """What comes with the items of a page: how many they are, and the next cursor as JSON."""

    count: int
    cursor: str


@dataclass(frozen=True)
class Seen:
    """One finding of a look: its kind, the node, and the instant, token or bucket; see inspect_run.lua."""

    kind: str
    node: str
    detail: str


@dataclass(frozen=True)
class Look:
    """The answer of a look at a run.

    Attributes:
        outcome: "looked", "no plan" if the plan that it pins is gone, or "unknown".
        epoch: The run's epoch.
        findings: What stands still.
    """

    outcome: str
    epoch: int = 0
    findings: tuple[Seen, ...] = ()

    @property
    def more(self) -> Seen | None:
        """The finding that says where to look further, if there is one."""
        return self.findings[-1] if self.findings and self.findings[-1].kind == MORE else None


class Due(NamedTuple):
    """A run that is due for a look.

    Attributes:
        run_id: The run.
        plan: The hash of its plan, "" if it has none.
        look: What a look finds; None where it was not made.
    """

    run_id: str
    plan: str
    look: Look | None


@dataclass(frozen=True)
class Tick:
    """The answer of a sweep's tick.

    Attributes:
        now: Redis's clock in ms.
        may_end: Whether leases may be ended.
        went_back: Whether the clock or the state went back.
        has_lost_index: Whether unfinished runs are missing in the index of those to be looked at.
        before: What the worker's sweep before this one has left in the store.
        mark: What this one has left there.
        has_looks: Whether looks at runs are due.
        has_old: Whether retentions are over.
        last_event: The newest entry of the events of runs, and that of nodes; each empty if there is none.
    """

    now: int
    may_end: bool
    went_back: bool
    has_lost_index: bool
    before: SweepMark | None
    mark: SweepMark | None
    has_looks: bool
    has_old: bool
    last_event: str


def text_of(value: bytes | int | None) -> str:
    """What the client reads as bytes or a number, as text."""
    return value.decode() if isinstance(value, bytes) else str(value)


def number_of(value: bytes | int) -> int | None:
    """A number, or None for an empty text."""
    return int(value) if value != b"" else None


def work_of(parts: Sequence[Any]) -> Work:
    """What is to be published: the end of most answers."""
    if len(parts) < 4:  # noqa: PLR2004 - kind, position, since, joined_in_store
        return Work()
    kind, position, since, joined_in_store, *names = parts
    return Work(
        text_of(kind),
        int(position),
        int(since),
        text_of(joined_in_store) == "1",
        tuple(text_of(name) for name in names),
    )


def moved_of(parts: Sequence[Any]) -> Moved:
    """The answer of most transitions."""
    return Moved(text_of(parts[0]), work_of(parts[1:]))


def started_of(parts: Sequence[Any]) -> Started:
    """The answer of a start."""
    return Started(text_of(parts[0]), text_of(parts[1]), work_of(parts[2:]))


def look_of(parts: Sequence[Any]) -> Look:
    """The answer of a look."""
    outcome, *found = map(text_of, parts)
    seen = tuple(Seen(*found[index : index + 3]) for index in range(1, len(found), 3))
    return Look(outcome, int(found[0]), seen) if found else Look(outcome)


def due_of(run_id: bytes, plan: bytes, *found: bytes) -> Due:
    """A run that is due, with what was found where it was looked at."""
    return Due(text_of(run_id), text_of(plan), look_of((b"looked", *found)) if found else None)
