"""Checks of numbers and durations: time limits, retry policies, rate limits and slots."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeAlias

from orchestrator.definition.checks.locations import find_places
from orchestrator.definition.checks.messages import call, flow_place, is_a, is_whole, show
from orchestrator.definition.policies import Adaptive, RateLimit, RetryPolicy, SharedConcurrency, SharedRateLimiter
from orchestrator.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.definition.flow import Flow

    Limit: TypeAlias = RateLimit | SharedRateLimiter

SHORTEST: Final = timedelta(milliseconds=1)
LONGEST: Final = timedelta(days=36_500)
MOST: Final = 2**53 - 1
"""Larger whole numbers are not exact in Lua and in JSON."""
FASTEST: Final = timedelta(microseconds=1)
"""Shortest time between two starts of a rate limit; Redis's clock has no finer unit."""


def check_timeouts(flow: Flow) -> Iterator[Problem]:
    """Time limits are durations from a millisecond to a hundred years."""
    if flow.timeout is not None and (fault := _duration_fault(flow.timeout, "timeout")):
        yield Problem(flow_place(flow), "bad-timeout", f"the run's {fault}")
    for place in find_places(flow):
        if fault := _duration_fault(place.node.timeout, "timeout"):
            yield Problem(place.where, "bad-timeout", f"its {fault}")


def check_retries(flow: Flow) -> Iterator[Problem]:
    """Retry policies make at least one attempt, and no delay is negative."""
    for place in find_places(flow):
        for fault in _retry_faults(place.node.retry):
            yield Problem(place.where, "bad-retry", f"its retry policy{fault}")


def check_rate_limits(flow: Flow) -> Iterator[Problem]:
    """Rate limits let attempts start, and limiters with the same name have the same numbers."""
    known: dict[str, SharedRateLimiter] = {}
    for place in find_places(flow):
        if place.node.rate_limit is not None:
            for fault in _limit_faults(place.node.rate_limit, RateLimit):
                yield Problem(place.where, "bad-limit", f"its rate limit{fault}")
        for limiter in place.node.shared_rate_limits:
            faults = list(_limit_faults(limiter, SharedRateLimiter))
            if not faults and is_a(limiter.name, str):
                faults = list(_differences(limiter, known.setdefault(limiter.name, limiter)))
            for fault in faults:
                name = f" {call(limiter.name)}" if is_a(limiter, SharedRateLimiter) else ""
                yield Problem(place.where, "bad-limit", f"its shared rate limit{name}{fault}")


def _differences(limiter: SharedRateLimiter, other: SharedRateLimiter) -> Iterator[str]:
    if limiter != other:
        yield " differs from another limiter of the same name; use one object for both"
    elif (limiter.key is None) != (other.key is None):
        yield " has a key function in one node and none in another; rename one of them"


def check_concurrency(flow: Flow) -> Iterator[Problem]:
    """There is at least one slot, and SharedConcurrency objects with the same name have as many."""
    known: dict[str, SharedConcurrency] = {}
    for place in find_places(flow):
        slots = place.node.concurrency
        if slots is None:
            continue
        if not is_a(slots, SharedConcurrency):
            yield Problem(
                place.where, "bad-limit", f"its concurrency is {show(slots)}; give it a SharedConcurrency(...)"
            )
        elif fault := _count_fault(slots.limit, "limit"):
            yield Problem(place.where, "bad-limit", f"its concurrency {call(slots.name)}'s {fault}")
        elif is_a(slots.name, str) and known.setdefault(slots.name, slots) != slots:
            message = (
                f"its concurrency {call(slots.name)} differs from another one of the same name; use one object for both"
            )
            yield Problem(place.where, "bad-limit", message)


def find_low_caps(flow: Flow) -> Iterator[str]:
    """Soft findings: retry policies whose longest delay cuts off the first one."""
    for place in find_places(flow):
        policy = place.node.retry
        if policy.maximum_interval < policy.initial_interval:
            yield (
                f"{place.where}: its retry policy never waits for its initial_interval of {policy.initial_interval}, "
                f"because its maximum_interval is {policy.maximum_interval}; raise maximum_interval"
            )


def _retry_faults(policy: object) -> Iterator[str]:
    if not is_a(policy, RetryPolicy):
        yield f" is {show(policy)}; give it a RetryPolicy(...)"
        return
    faults = (
        _duration_fault(policy.initial_interval, "initial_interval", is_zero_fine=True),
        _duration_fault(policy.maximum_interval, "maximum_interval", is_zero_fine=True),
        _factor_fault(policy.backoff_coefficient),
        _count_fault(policy.maximum_attempts, "maximum_attempts"),
        None if is_a(policy.jitter, bool) else f"jitter is {show(policy.jitter)}; use True or False",
        _errors_fault(policy.non_retryable),
    )
    yield from (f"'s {fault}" for fault in faults if fault)


def _factor_fault(value: object) -> str | None:
    if is_a(value, int, float) and not is_a(value, bool) and 1 <= value < math.inf:
        return None
    return f"backoff_coefficient is {show(value)}; use a number of at least 1"


def _errors_fault(value: object) -> str | None:
    if is_a(value, tuple) and all(is_a(each, type) and issubclass(each, BaseException) for each in value):
        return None
    return f"non_retryable is {show(value)}; use a tuple of exception classes"


def _limit_faults(limit: object, kind: type[Limit]) -> Iterator[str]:
    if not is_a(limit, kind):
        yield f" is {show(limit)}; give it a {kind.__name__}(...)"
        return
    faults = (
        _count_fault(limit.limit, "limit"),
        _duration_fault(limit.per, "per"),
        None if limit.burst is None else _count_fault(limit.burst, "burst"),
    )
    yield from (f"'s {fault}" for fault in faults if fault)
    if any(faults):
        return
    if is_a(limit, SharedRateLimiter) and limit.adaptive is not None and (fault := _adaptive_fault(limit)):
        yield fault
    if limit.per / FASTEST < limit.limit:
        yield f" allows {limit.limit} starts in {limit.per}; use at most one in a microsecond"
    elif limit.capacity > limit.limit * (LONGEST / limit.per):
        yield f"'s burst of {limit.capacity} takes over {LONGEST.days} days to fill; use a smaller one"


def _adaptive_fault(limiter: SharedRateLimiter) -> str | None:
    adaptive = limiter.adaptive
    if not is_a(adaptive, Adaptive):
        return f"'s adaptive is {show(adaptive)}; give it an Adaptive(floor, ceiling)"
    for what, bound in (("floor", adaptive.floor), ("ceiling", adaptive.ceiling)):
        if not is_a(bound, int, float) or is_a(bound, bool) or not 0 < bound < math.inf:
            return f"'s {what} is {show(bound)}; use a number above 0"
    if not adaptive.floor <= limiter.limit <= adaptive.ceiling:
        return f"'s limit {limiter.limit} is not between its floor {adaptive.floor} and its ceiling {adaptive.ceiling}"
    if limiter.per / FASTEST < adaptive.ceiling:
        return f"'s ceiling allows {adaptive.ceiling} starts in {limiter.per}; use at most one in a microsecond"
    if limiter.per / adaptive.floor > LONGEST:
        return f"'s floor allows less than one start in {LONGEST.days} days; use a higher one"
    return None


def _duration_fault(value: object, what: str, *, is_zero_fine: bool = False) -> str | None:
    if not is_a(value, timedelta):
        return f"{what} is {show(value)}; use a timedelta, such as timedelta(seconds=30)"
    if value < SHORTEST and not (is_zero_fine and not value):
        return f"{what} is {value.total_seconds():g} s; use at least a millisecond{', or 0' if is_zero_fine else ''}"
    return f"{what} is {value.days} days; use at most {LONGEST.days}" if value > LONGEST else None


def _count_fault(value: object, what: str) -> str | None:
    if not is_whole(value) or value < 1:
        return f"{what} is {show(value)}; use a whole number of at least 1"
    return f"{what} is {show(value)}; use at most {MOST}" if value > MOST else None
