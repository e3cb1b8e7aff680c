"""Policies: frozen values that never refuse, and the delays of a retry policy."""

import dataclasses
from datetime import timedelta

import pytest

from orchestrator.definition.policies import RateLimit, RetryPolicy, SharedRateLimiter

SECOND = timedelta(seconds=1)


def test_the_defaults_are_those_of_the_api():
    assert RetryPolicy() == RetryPolicy(
        initial_interval=SECOND,
        backoff_coefficient=2.0,
        maximum_interval=timedelta(seconds=60),
        maximum_attempts=3,
        jitter=True,
        non_retryable=(),
    )


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (50, 60)])
def test_delays_double_up_to_the_cap(attempt, seconds):
    assert RetryPolicy(jitter=False).delay(attempt, random=0.3) == seconds * SECOND


@pytest.mark.parametrize(("random", "factor"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
def test_jitter_multiplies_by_a_half_to_one(random, factor):
    assert RetryPolicy().delay(3, random=random) == 4 * SECOND * factor


@pytest.mark.parametrize("attempt", [2_000, 10**9])
def test_a_delay_too_large_for_a_number_is_the_cap(attempt):
    assert RetryPolicy(jitter=False).delay(attempt, random=0) == timedelta(seconds=60)
    assert RetryPolicy(jitter=False, backoff_coefficient=1.5).delay(attempt, random=0) == timedelta(seconds=60)


def test_a_first_interval_over_the_cap_is_the_cap():
    policy = RetryPolicy(initial_interval=timedelta(hours=1), maximum_interval=SECOND, jitter=False)
    assert policy.delay(1, random=0) == SECOND


def test_a_coefficient_of_one_keeps_the_interval():
    assert RetryPolicy(backoff_coefficient=1, jitter=False).delay(9, random=0) == SECOND


class Hostile:
    def __repr__(self):
        raise RuntimeError("no")

    __eq__ = None  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("value", [None, -1, "x", float("nan"), Hostile(), [], {}])
def test_constructors_take_anything(value):
    for kind in (RetryPolicy, RateLimit, SharedRateLimiter):
        names = [field.name for field in dataclasses.fields(kind)]
        kind(**dict.fromkeys(names, value))


def test_a_bucket_is_as_large_as_its_limit_unless_told_otherwise():
    assert RateLimit(50, timedelta(minutes=1)).capacity == 50
    assert RateLimit(50, per=timedelta(minutes=1), burst=1).capacity == 1
    assert SharedRateLimiter("external-api", 5, per=SECOND).capacity == 5
    assert SharedRateLimiter("external-api", 5, per=SECOND, burst=2).capacity == 2


def test_policies_are_frozen():
    for policy in (RetryPolicy(), RateLimit(1, SECOND), SharedRateLimiter("a", 1, SECOND)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(policy, dataclasses.fields(policy)[0].name, 5)
