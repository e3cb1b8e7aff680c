"""Limits of the fleet: their numbers and fill, what waits for them, and an operator's changes to them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

from orchestrator.definition.plan import limit_title
from orchestrator.definition.policies import MICROSECONDS, SLOTS
from orchestrator.store.keys import bucket_of, limit_of
from orchestrator.store.queries import as_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.store.run_store import Store

    Numbers: TypeAlias = tuple[str, tuple[int, ...]]
    """The word of a kind, empty for the first ones, and the numbers behind it."""


@dataclass(frozen=True)
class LimitRow:
    """One limit, and of a keyed one what its buckets come to.

    Attributes:
        name: As `set_limit` takes it.
        title: Its name in messages.
        kind: "rate", "adaptive", "slots", or the word that the numbers of another kind begin with.
        n: Starts in `per`; of slots, how many there are; of an adaptive limit, the most a second.
        per: The span of `n`; None for slots.
        burst: Starts at once from rest.
        pace: Of an adaptive limit: the starts a second that it allows now, if it has found that.
        tokens: Starts that it would let go now; of a keyed limit None.
        waiting: Nodes in its wait queue, of a keyed limit in all of them.
        longest_wait: When the first of them arrived, or None.
        first_run, first_node: Who that is, or None.
        frozen_until: Nothing starts before this instant, or None; of a keyed limit, for all keys.
        is_set: Whether an operator has set its numbers.
        buckets: Of a keyed limit: buckets with a wait queue.
    """

    name: str
    title: str
    kind: str
    n: float
    per: timedelta | None
    burst: int
    pace: float | None
    tokens: int | None
    waiting: int
    longest_wait: datetime | None
    first_run: str | None
    first_node: str | None
    frozen_until: datetime | None
    is_set: bool
    buckets: int

    def to_json(self) -> dict[str, Any]:
        """Return the row as JSON values; `per` is in seconds."""
        return as_json(self)


def read_limits(store: Store) -> tuple[LimitRow, ...]:
    """Return every limit that a worker has announced or a run has used, by name; two round trips."""
    with store.guarded():
        pipe = store.client.pipeline(transaction=False)
        pipe.hgetall(store.keys.limits)
        pipe.zrange(store.keys.wait_queues, 0, -1)
        pipe.hkeys(store.keys.set_limits)
        pipe.time()
        numbers, waiting, operators, (seconds, micros) = pipe.execute()
        now_us = seconds * MICROSECONDS + micros
        queues: dict[str, list[str]] = {}
        for raw in waiting:
            queues.setdefault(limit_of(raw.decode()), []).append(raw.decode())
        found = {name.decode(): _parsed(text) for name, text in numbers.items()}
        pipe = store.client.pipeline(transaction=False)
        for name in sorted(found):
            _ask(store, pipe, name, queues.get(name, []))
        answers = iter(pipe.execute())
    is_set = {name.decode() for name in operators}
    return tuple(
        _row(name, found[name], queues.get(name, []), answers, now_us, is_set=name in is_set) for name in sorted(found)
    )


def _ask(store: Store, pipe: Any, name: str, buckets: Sequence[str]) -> None:
    tat, _, _, frozen = store.keys.bucket(name)
    pipe.get(tat)
    pipe.get(frozen)
    pipe.hget(store.keys.pace(name), "interval")
    pipe.zcard(store.keys.held(name))
    for bucket in buckets:
        pipe.zcard(store.keys.bucket(bucket)[1])
        pipe.zrange(store.keys.bucket(bucket)[1], 0, 0, withscores=True)


def _row(name: str, numbers: Numbers, buckets: Sequence[str], answers: Any, now_us: int, *, is_set: bool) -> LimitRow:
    word, (interval, burst, *bounds) = numbers
    tat, frozen, pace, held = (next(answers) for _ in range(4))
    waits = [(next(answers), next(answers)) for _ in buckets]
    arrived, member = min(((at, who) for _, first in waits for who, at in first), default=(None, b""))
    first_run, _, first_node = member.decode(errors="replace").partition("|")
    is_keyed = any(bucket != name for bucket in buckets)
    own_interval = float(pace) if pace and bounds else interval
    frozen_us = int(frozen or 0)
    if word:
        tokens: int | None = None  # only its module of the scripts knows
    elif not interval:
        tokens = max(0, burst - held)
    else:
        ahead = max(int(tat or 0), now_us) - now_us
        tokens = 0 if frozen_us > now_us else max(0, burst - -(-ahead // max(1, round(own_interval))))
    return LimitRow(
        name=name,
        title=limit_title(name),
        kind=word or ("slots" if not interval else "adaptive" if bounds else "rate"),
        n=burst if word or not interval else MICROSECONDS / bounds[-1] if bounds else _per_second(interval)[0],
        per=timedelta(microseconds=interval)
        if word
        else None
        if not interval
        else timedelta(seconds=1)
        if bounds
        else _per_second(interval)[1],
        burst=burst,
        pace=MICROSECONDS / float(pace) if pace and bounds else None,
        tokens=None if is_keyed else tokens,
        waiting=sum(length for length, _ in waits),
        longest_wait=None if arrived is None else _instant_us(arrived),
        first_run=first_run or None,
        first_node=first_node or None,
        frozen_until=_instant_us(frozen_us) if frozen_us > now_us else None,
        is_set=is_set,
        buckets=sum(bucket != name for bucket in buckets),
    )


def _instant_us(at: float) -> datetime:
    return datetime.fromtimestamp(at / MICROSECONDS, UTC)


def _per_second(interval_us: int) -> tuple[float, timedelta]:
    """Return a rate in the smallest usual span in which it is at least one."""
    for seconds in (1, 60, 3600, 86400):
        count = seconds * MICROSECONDS / interval_us
        if count >= 1:
            return round(count, 3), timedelta(seconds=seconds)
    return round(86400 * MICROSECONDS / interval_us, 6), timedelta(days=1)


def set_limit(store: Store, name: str, n: float, *, per: timedelta | None, burst: int | None) -> None:
    """Set the numbers of a limit for the whole fleet, until the code's numbers change.

    Raises:
        ValueError: There is no such limit, or the numbers fit none of its kind; the message says what to give.
    """
    word, numbers = _known_numbers(store, name)
    is_slots = name.startswith(SLOTS)
    if word:
        raise ValueError(f"{limit_title(name)} is a {word}; change its numbers in the code")
    if len(numbers) > 2:  # noqa: PLR2004 - an adaptive limit has bounds
        raise ValueError(f"{limit_title(name)} finds its pace itself; freeze it, or change its bounds in the code")
    if is_slots and (per is not None or burst is not None or int(n) != n):
        raise ValueError(f"{limit_title(name)} has slots: give a whole number of them, without per and burst")
    if n <= 0 or (burst is not None and burst < 1) or (per is not None and per <= timedelta(0)):
        raise ValueError(f"{limit_title(name)}: n, per and burst must be more than 0; freeze_limit stops a limit")
    if is_slots:
        chosen = (0, int(n))
    elif per is None:
        raise ValueError(f"{limit_title(name)} is a rate: say per which span, such as per=timedelta(minutes=1)")
    else:
        interval = max(1, round(per.total_seconds() * MICROSECONDS / n))
        chosen = (interval, burst if burst is not None else max(1, int(n)))
    with store.guarded():
        store.scripts.set_limit(name, " ".join(map(str, chosen)))


def reset_limit(store: Store, name: str, *, key: str | None) -> None:
    """Give a limit the code's numbers again, and let it go on if it is frozen; ValueError: there is no such limit.

    With a key only what has it goes on: the numbers are those of all keys.
    """
    _known_numbers(store, name)
    with store.guarded():
        if key is None:
            store.scripts.set_limit(name, "")
        store.client.delete(store.keys.bucket(name if key is None else bucket_of(name, key))[3])


def freeze_limit(store: Store, name: str, until: datetime, *, key: str | None) -> None:
    """Let no node start under a limit before an instant; then it begins with one token.

    Raises:
        ValueError: There is no such limit, it has slots, or the instant is naive or in the past.
    """
    word, _ = _known_numbers(store, name)
    if word:
        raise ValueError(f"{limit_title(name)} is a {word}, which cannot be frozen")
    if name.startswith(SLOTS):
        raise ValueError(f"{limit_title(name)} has slots, which cannot be frozen; set their number")
    if until.tzinfo is None:
        raise ValueError("until must be an aware datetime, such as datetime.now(UTC) + timedelta(minutes=5)")
    bucket = name if key is None else bucket_of(name, key)
    with store.guarded():
        is_done = store.scripts.freeze_limit(bucket, round(until.timestamp() * MICROSECONDS))
    if not is_done:
        raise ValueError(f"until must be in the future, not {until.isoformat()}")


def _known_numbers(store: Store, name: str) -> Numbers:
    with store.guarded():
        known: Mapping[bytes, bytes] = store.client.hgetall(store.keys.limits)
    names = [each.decode() for each in known]
    if name not in names:
        near = difflib.get_close_matches(name, names)
        raise ValueError(f"there is no limit {name!r}; " + (f"near: {', '.join(near)}" if near else "none is near"))
    return _parsed(known[name.encode()])


def _parsed(text: bytes) -> Numbers:
    first, *others = text.decode().split()
    word = first if first.isalpha() else ""
    return word, tuple(map(int, others if word else (first, *others)))
