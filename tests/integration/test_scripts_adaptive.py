"""Adaptive buckets in the scripts: faster with each second in which somebody waits, half as fast with each refusal."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator import Adaptive, SharedRateLimiter
from orchestrator.explain import explain_run
from orchestrator.store.keys import bucket_of
from tests.integration.test_scripts_limits import freeze, member
from tests.scripts_world import FAILURE, fan_plan

SECOND = timedelta(seconds=1)


def fan(members, *, rate=10, floor=2, ceiling=40, burst=1, **options):
    adaptive = Adaptive(floor, ceiling)
    limiter = SharedRateLimiter("api", rate, per=SECOND, burst=burst, adaptive=adaptive, **options)
    return fan_plan(members, shared_rate_limit=limiter, attempts=1)


def rate_of(world, bucket="api"):
    pace = world.store.pace(bucket)
    return pace and round(pace, 3)


def let_pass(world, bucket="api"):
    """As if a second had passed: the bucket has a token, and its pace may change."""
    tat, _, _, frozen = world.keys.bucket(bucket)
    world.client.delete(tat, frozen)
    for stamp in ("raised", "lowered"):
        if at := world.client.hget(world.keys.pace(bucket), stamp):
            world.client.hset(world.keys.pace(bucket), stamp, int(at) - 10_000_000)


def refuse(run, name, token):
    return run.scripts.fail(
        run.id, run.plan.hash, name, token, failure=FAILURE, delay_ms=500, follows=False, max_throttle_ms=10**6
    ).outcome


def waited(world):
    """The first arrival of somebody who had to wait."""
    return world.store.now_ms() * 1000 - 1_000_000


def test_it_begins_with_its_own_rate_and_is_not_faster_while_nobody_waits(world):
    run = world.run(fan(3, burst=3))
    for number in range(3):
        run.hold(f"m-{number}")
    assert rate_of(world) is None
    assert world.client.hget(world.keys.limits, "api") == b"100000 3 500000 25000"


def test_it_is_faster_by_a_tenth_with_each_second_in_which_somebody_waits(world):
    run = world.run(fan(4, burst=3))
    run.hold("m-0", arrived=waited(world))
    assert rate_of(world) == 11
    run.hold("m-1", arrived=waited(world))
    assert rate_of(world) == 11, "once a second"
    let_pass(world)
    run.hold("m-2", arrived=waited(world))
    assert rate_of(world) == 12.1
    assert world.client.pttl(world.keys.pace("api")) > 80_000_000


def test_it_is_never_faster_than_its_ceiling_nor_slower_than_its_floor(world):
    run = world.run(fan(4, rate=10, floor=9, ceiling=10.5))
    run.hold("m-0", arrived=waited(world))
    assert rate_of(world) == 10.5
    let_pass(world)
    refuse(run, "m-1", run.hold("m-1"))
    assert rate_of(world) == 9


def test_a_refusal_halves_it_and_those_on_their_way_do_not_halve_it_again(world):
    run = world.run(fan(4, burst=3))
    tokens = [run.hold(f"m-{number}") for number in range(3)]
    for number in range(3):
        assert refuse(run, f"m-{number}", tokens[number]) == "parked"
        assert rate_of(world) == 5
    let_pass(world)
    world.scripts.release("api")
    run.wake("m-0")
    refuse(run, "m-0", run.hold("m-0"))
    assert rate_of(world) == 4.5, "it had climbed to 9, and an attempt that started since says something new"


def test_a_late_refusal_of_an_attempt_that_started_before_says_nothing_new(world):
    run = world.run(fan(2, burst=3))
    early, late = run.hold("m-0"), run.hold("m-1")
    refuse(run, "m-0", early)
    world.client.hincrby(world.keys.pace("api"), "lowered", -1_000)  # not now, but after both started
    refuse(run, "m-1", late)
    assert rate_of(world) == 5


def test_it_climbs_back_in_two_seconds_and_then_slowly_and_ever_faster(world):
    run = world.run(fan(12, rate=20))
    refuse(run, "m-11", run.hold("m-11"))
    world.client.delete(world.keys.bucket("api")[1])
    seen = []
    for number in range(8):
        let_pass(world)
        run.hold(f"m-{number}", arrived=waited(world))
        seen.append(rate_of(world))
    assert seen[:2] == [18, pytest.approx(18.002)]
    steps = [later - earlier for earlier, later in pairwise(seen[1:])]
    assert steps == sorted(steps)
    assert seen[-1] < 19, "the limit is near"


def test_after_a_refusal_the_bucket_serves_at_the_lower_rate(world):
    run = world.run(fan(30, rate=40, burst=4))
    refuse(run, "m-29", run.hold("m-29"))
    world.client.delete(world.keys.bucket("api")[1])
    world.client.delete(world.keys.bucket("api")[3])
    before = world.store.now_ms() * 1000
    run.claim("m-0", arrived=before)
    tat = int(world.client.get(world.keys.bucket("api")[0]))
    assert tat - before >= 4 * 50_000, "an empty bucket of 20 a second"


def test_each_key_has_its_own_rate(world):
    run = world.run(fan(2, key=str))
    red, blue = bucket_of("api", "red"), bucket_of("api", "blue")
    for name, bucket in (("m-0", red), ("m-1", blue)):
        token = run.claim_to_admit(name)
        assert run.admit(name, token, bucket, may_sleep=True).outcome == "run"
        if bucket == red:
            refuse(run, name, token)
    assert (rate_of(world, red), rate_of(world, blue)) == (5, None)


def test_explain_tells_the_rate(world):
    run = world.run(fan(2))
    refuse(run, "m-0", run.hold("m-0"))
    freeze(world)
    assert run.claim("m-1").outcome == "parked"
    assert world.line("api") == [member(run, "m-0"), member(run, "m-1")]
    engine: Any = SimpleNamespace(store=world.store)
    waiting = explain_run(engine, world.store.run(run.id))
    found = {each.node: each.reason for each in waiting}
    assert found["m-1"] == "is number 2 in the wait queue of limiter api, which currently allows 5 starts a second"
