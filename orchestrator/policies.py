"""How a node is retried and how often it may start: frozen values that say it and do nothing.

A constructor takes whatever it is given; `build()` is what refuses numbers that cannot work. Taking a token is the
limiter's, waiting for a retry the engine's.
"""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a failed attempt is made again.

    Attributes:
        initial_interval: Delay after the first failed attempt.
        backoff_coefficient: Factor from one delay to the next, at least 1.
        maximum_interval: No delay is longer, before jitter.
        maximum_attempts: Attempts in all, the first included.
        jitter: Multiply each delay by a random factor of 0.5 to 1, so that many failures do not come back at once.
        non_retryable: Exception classes that end the node at once; subclasses count.
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
            random: From 0 to 1; only read with jitter.
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
    """

    limit: int
    per: timedelta
    burst: int | None = None

    @property
    def capacity(self) -> int:
        """Tokens in the full bucket."""
        return self.limit if self.burst is None else self.burst


@dataclass(frozen=True, slots=True)
class SharedRateLimiter:
    """A token bucket that nodes of any flow have in common: equal names are the same bucket in every process.

    Attributes:
        name: Name of the bucket.
        limit: Starts allowed in each `per`.
        per: The window.
        burst: Size of the bucket, which starts full; None is `limit`, 1 is evenly spaced.
    """

    name: str
    limit: int
    per: timedelta
    burst: int | None = None

    @property
    def capacity(self) -> int:
        """Tokens in the full bucket."""
        return self.limit if self.burst is None else self.burst
