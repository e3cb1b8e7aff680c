"""Policies of nodes as frozen values: retries, and one small class for each kind of limit.

A constructor takes whatever it is given; `build()` refuses numbers that cannot work. The scripts take tokens, with one
module for each kind in library/limits.lua, and the engine waits for retries.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar, Final, Literal, TypeAlias

from orchestrator.definition.wording import FASTEST, LONGEST, count_fault, duration_fault, is_a, show

MICROSECONDS: Final = 1_000_000
SLOTS: Final = "@"
"""Prefix of the names, in a plan, of limits that an attempt holds until its claim ends."""

Numbers: TypeAlias = tuple[int | str, ...]
"""Numbers of a limit as its module of the scripts reads them.

Of the first kinds microseconds for each token and a burst, or 0 and slots. Of others the kind's word, the microseconds
that it is for (0: no span), and how many it lets start in them.
"""


def numbers_text(numbers: Numbers) -> str:
    """The numbers of a limit as bucket.lua reads them."""
    return " ".join(map(str, numbers))


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Whether and when a failed attempt is retried.

    Attributes:
        initial_interval: Delay after the first failed attempt.
        backoff_coefficient: Factor from one delay to the next, at least 1.
        maximum_interval: No delay is longer, before jitter.
        maximum_attempts: Attempts in all, the first included.
        jitter: Multiply each delay by a random factor of 0.5 to 1, so that many failures do not come back at once.
        non_retryable: Exception classes that fail the node at once; subclasses count.
        on_exhausted: What the last failed attempt does: "fail" the node, or "pause" it until `run.resume()` gives it
            fresh attempts. What is not retryable fails it all the same.
    """

    initial_interval: timedelta = timedelta(seconds=1)
    backoff_coefficient: float = 2.0
    maximum_interval: timedelta = timedelta(seconds=60)
    maximum_attempts: int = 3
    jitter: bool = True
    non_retryable: tuple[type[BaseException], ...] = ()
    on_exhausted: Literal["fail", "pause"] = "fail"

    def delay(self, attempt: int, random: float) -> timedelta:
        """Return the delay between a failed attempt and the next.

        Args:
            attempt: Number of the attempt that failed, from 1.
            random: From 0 to 1; used only with jitter.
        """
        try:
            interval = min(self.initial_interval * self.backoff_coefficient ** (attempt - 1), self.maximum_interval)
        except OverflowError:  # some hundred attempts on, the power is larger than a float or a timedelta
            interval = self.maximum_interval
        return interval * (0.5 + random / 2) if self.jitter else interval


class Limit:
    """A limit on the attempts of nodes; a new kind is a class, and a module of the scripts that reads its numbers."""

    __slots__ = ()

    what: ClassVar[str] = "limit"
    """How problems call it."""
    is_shared: ClassVar[bool] = False
    """Whether it has a name, by which nodes of any flow share it."""

    name: str

    @property
    def key(self) -> Callable[[Any], str] | None:
        """Gives each key a bucket of its own; None: there is one bucket."""
        return None

    def plan_name(self, node: str) -> str:
        """Its name in a plan, for a node of the name `<flow>.<node>`."""
        raise NotImplementedError

    def numbers(self) -> Numbers:
        """What a plan and the scripts know of it."""
        raise NotImplementedError

    def faults(self) -> Iterator[str]:
        """What is wrong with its values, each as the end of a sentence that begins with the limit."""
        raise NotImplementedError


class SharedLimit(Limit):
    """A rate that nodes of any flow share: equal names are the same bucket in every process."""

    __slots__ = ()

    what = "shared rate limit"
    is_shared = True

    def plan_name(self, node: str) -> str:  # noqa: ARG002 - it is the same for every node
        """Its own name."""
        return self.name


class TokenBucket(Limit):
    """Numbers of a token bucket."""

    __slots__ = ()

    limit: int
    per: timedelta
    burst: int | None

    @property
    def capacity(self) -> int:
        """Tokens in the full bucket."""
        return self.limit if self.burst is None else self.burst

    def numbers(self) -> Numbers:
        """Microseconds for each token, and the burst."""
        return self._interval(self.limit), self.capacity

    def faults(self) -> Iterator[str]:
        """It lets attempts start, and Redis's clock can tell them apart."""
        faults = (
            count_fault(self.limit, "limit"),
            duration_fault(self.per, "per"),
            None if self.burst is None else count_fault(self.burst, "burst"),
        )
        yield from (f"'s {fault}" for fault in faults if fault)
        if any(faults):
            return
        if self.per / FASTEST < self.limit:
            yield f" allows {self.limit} starts in {self.per}; use at most one in a microsecond"
        elif self.capacity > self.limit * (LONGEST / self.per):
            yield f"'s burst of {self.capacity} takes over {LONGEST.days} days to fill; use a smaller one"

    def _interval(self, rate: float) -> int:
        return max(1, round(self.per.total_seconds() * MICROSECONDS / rate))


@dataclass(frozen=True, slots=True)
class RateLimit(TokenBucket):
    """A token bucket of one node of one flow, shared by every worker.

    Attributes:
        limit: Starts allowed in each `per`.
        per: The window.
        burst: Size of the bucket, which starts full; None is `limit`, 1 is evenly spaced.
        key: Gives each key a bucket of its own. Called on the worker with the node's input as its function takes it (of
            a map's node: the item; of several parameters: the mapping of their names), or with the FlowState where the
            node has no input; returns a text of at most 1000 characters. It must be pure.
    """

    limit: int
    per: timedelta
    burst: int | None = None
    key: Callable[[Any], str] | None = field(default=None, compare=False, kw_only=True)

    what = "rate limit"

    def plan_name(self, node: str) -> str:
        """The node's."""
        return node


@dataclass(frozen=True, slots=True)
class SharedConcurrency(Limit):
    """Slots that nodes of any flow share: equal names are the same slots in every process.

    An attempt holds a slot from its start to the end of its claim, even if its process dies. An attempt that finds none
    waits in the wait queue, in order of arrival, without a worker.

    Attributes:
        name: Name of the slots.
        limit: Attempts that may run at once.
    """

    name: str
    limit: int

    what = "concurrency"
    is_shared = True

    def plan_name(self, node: str) -> str:  # noqa: ARG002 - it is the same for every node
        """Its own, which a rate limit may have, too, behind the prefix of what is held."""
        return SLOTS + self.name

    def numbers(self) -> Numbers:
        """0, by which the scripts tell slots from tokens, and how many there are."""
        return 0, self.limit

    def faults(self) -> Iterator[str]:
        """There is at least one slot."""
        if fault := count_fault(self.limit, "limit"):
            yield f"'s {fault}"


@dataclass(frozen=True, slots=True)
class Adaptive:
    """How a shared limiter finds the rate that the other side allows, between two bounds.

    It begins with the limiter's own rate. Each second in which an attempt had to wait raises the rate; a
    `RetryLater(freeze=True)` of an attempt that started after the last refusal halves it, at most once a second.

    Attributes:
        floor: Fewest starts in each `per`.
        ceiling: Most starts in each `per`.
    """

    floor: float
    ceiling: float


@dataclass(frozen=True, slots=True)
class SharedRateLimiter(SharedLimit, TokenBucket):
    """A token bucket that nodes of any flow share: equal names are the same bucket in every process.

    Attributes:
        name: Name of the bucket.
        limit: Starts allowed in each `per`.
        per: The window.
        burst: Size of the bucket, which starts full; None is `limit`, 1 is evenly spaced.
        key: Gives each key a bucket of its own, shared by all nodes that compute the same key; see `RateLimit`.
        adaptive: Lets the rate follow what the other side allows; None keeps it fixed.
    """

    name: str
    limit: int
    per: timedelta
    burst: int | None = None
    adaptive: Adaptive | None = field(default=None, kw_only=True)
    key: Callable[[Any], str] | None = field(default=None, compare=False, kw_only=True)

    def numbers(self) -> Numbers:
        """Those of a token bucket; of an adaptive one also the most and the fewest microseconds for each token."""
        bounds = () if self.adaptive is None else (self.adaptive.floor, self.adaptive.ceiling)
        return (*TokenBucket.numbers(self), *(self._interval(rate) for rate in bounds))

    def faults(self) -> Iterator[str]:
        """Those of a token bucket, and the bounds of an adaptive one hold its rate."""
        faults = list(TokenBucket.faults(self))
        yield from faults
        if self.adaptive is not None and not faults and (fault := self._adaptive_fault()):
            yield fault

    def _adaptive_fault(self) -> str | None:
        adaptive = self.adaptive
        if not is_a(adaptive, Adaptive):
            return f"'s adaptive is {show(adaptive)}; give it an Adaptive(floor, ceiling)"
        for what, bound in (("floor", adaptive.floor), ("ceiling", adaptive.ceiling)):
            if not is_a(bound, int, float) or is_a(bound, bool) or not 0 < bound < math.inf:
                return f"'s {what} is {show(bound)}; use a number above 0"
        if not adaptive.floor <= self.limit <= adaptive.ceiling:
            return f"'s limit {self.limit} is not between its floor {adaptive.floor} and its ceiling {adaptive.ceiling}"
        if self.per / FASTEST < adaptive.ceiling:
            return f"'s ceiling allows {adaptive.ceiling} starts in {self.per}; use at most one in a microsecond"
        if self.per / adaptive.floor > LONGEST:
            return f"'s floor allows less than one start in {LONGEST.days} days; use a higher one"
        return None
