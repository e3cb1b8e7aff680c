"""Policies of nodes: retries, rate limits and slots, as frozen values without behaviour.

A constructor takes whatever it is given; `build()` refuses numbers that cannot work. The scripts take tokens, and the
engine waits for retries.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any


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
    """

    initial_interval: timedelta = timedelta(seconds=1)
    backoff_coefficient: float = 2.0
    maximum_interval: timedelta = timedelta(seconds=60)
    maximum_attempts: int = 3
    jitter: bool = True
    non_retryable: tuple[type[BaseException], ...] = ()

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


@dataclass(frozen=True, slots=True)
class RateLimit:
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

    @property
    def capacity(self) -> int:
        """Tokens in the full bucket."""
        return self.limit if self.burst is None else self.burst


@dataclass(frozen=True, slots=True)
class SharedConcurrency:
    """Slots that nodes of any flow share: equal names are the same slots in every process.

    An attempt holds a slot from its start to the end of its claim, even if its process dies. An attempt that finds none
    waits in the wait queue, in order of arrival, without a worker.

    Attributes:
        name: Name of the slots.
        limit: Attempts that may run at once.
    """

    name: str
    limit: int


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
class SharedRateLimiter:
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

    @property
    def capacity(self) -> int:
        """Tokens in the full bucket."""
        return self.limit if self.burst is None else self.burst
