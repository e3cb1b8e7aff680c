"""What the operations answer: small arrays, turned into named results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Answer = TypeVar("Answer")
Values: TypeAlias = tuple[bytes | None, ...]


@dataclass(frozen=True)
class Work:
    """What the caller of a transition has to publish.

    Attributes:
        kind: "step" (a whole position), "nodes" (single messages), "saga" (compensations in order), or "" for nothing.
        position: Position of the step; of a saga, the index of its first compensation.
        since: Instant in ms at which the nodes became publishable, on Redis's clock.
        detached: Whether only the stored join says who goes on, so that singles have to be sent.
        names: Nodes or compensations.
    """

    kind: str = ""
    position: int = -1
    since: int = 0
    detached: bool = False
    names: tuple[str, ...] = ()


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


@dataclass(frozen=True)
class Claimed:
    """The answer of `claim`.

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
    """

    outcome: str
    attempt: int = 0
    generation: int = 0
    scheduled: int | None = None
    values: Values = ()
    sleep: int = 0
    arrived: int = 0
    bucket: str = ""
    index: int | None = None
    item: bytes = b""

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
    """One finding of `look`: kind "ready", "orphan" or "awake", the node, and the instant, token or bucket."""

    kind: str
    node: str
    detail: str


@dataclass(frozen=True)
class Done:
    """What an attempt of a plain node or item returned: its node, its token, and the JSON."""

    node: str
    token: str
    output: bytes


@dataclass(frozen=True)
class Wanted:
    """What an attempt of a plain node asks for: its node, its token, and output keys to send along."""

    node: str
    token: str
    reads: tuple[str, ...]


@dataclass(frozen=True)
class Call(Generic[Answer]):
    """One operation with its arguments, ready to be sent.

    Attributes:
        script: Name of the script.
        keys: Its KEYS.
        args: Its ARGV.
        read: Turns what it returns into the named result.
    """

    script: str
    keys: Sequence[str]
    args: Sequence[Any]
    read: Callable[[Sequence[Any]], Answer]


def text_of(value: bytes | int | None) -> str:
    """What the client reads as bytes or a number, as text."""
    return value.decode() if isinstance(value, bytes) else str(value)


def onward_of(answer: bytes | int, reads: Sequence[Sequence[str]]) -> list[Values]:
    """The answer of `onward`: of each that runs now, what was asked for; none where others are left."""
    if isinstance(answer, int):
        return [()] * len(reads) if answer else []
    head, _, rest = answer.partition(b"\n")
    by_key: dict[str, bytes | None] = {}
    at = 0
    for key, size in zip(union(reads), map(int, head.split(b" ")), strict=True):
        by_key[key] = None if size < 0 else rest[at : at + size]
        at += max(size, 0)
    return [tuple(by_key[key] for key in keys) for keys in reads]


def union(reads: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Each output key that some of several read, once."""
    return tuple(dict.fromkeys(key for keys in reads for key in keys))


def number_of(value: bytes | int) -> int | None:
    """A number, or None for an empty text."""
    return int(value) if value != b"" else None


def work_of(parts: Sequence[Any]) -> Work:
    """What is to be published: the end of most answers."""
    if len(parts) < 4:  # noqa: PLR2004 - kind, position, since, detached
        return Work()
    kind, position, since, detached, *names = parts
    return Work(
        text_of(kind), int(position), int(since), text_of(detached) == "1", tuple(text_of(name) for name in names)
    )


def moved_of(parts: Sequence[Any]) -> Moved:
    """The answer of most transitions."""
    return Moved(text_of(parts[0]), work_of(parts[1:]))


def claimed_of(answer: Sequence[Any], reads: int) -> Claimed:
    """The answer of `claim`, with as many values as were asked for."""
    outcome = text_of(answer[0])
    if outcome == "sleep":
        return Claimed(outcome, sleep=int(answer[1]), arrived=int(answer[2]))
    if outcome not in {"run", "admit"}:
        return Claimed(outcome, bucket=text_of(answer[1]) if outcome == "no limit" else "")
    told, item, *values = answer[1:]
    attempt, generation, index, scheduled = told.split(b" ")
    return Claimed(
        outcome,
        int(attempt),
        int(generation),
        number_of(scheduled),
        (*values, *[None] * (reads - len(values))),
        index=number_of(index),
        item=item,
    )
