"""Buckets and their lines, in claim.lua and release.lua: the bound holds by Redis's clock, and nobody is forgotten."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

import pytest

from orchestrator import RateLimit, SharedRateLimiter
from tests.harness import wait_until
from tests.scripts_world import LEASE_MS, at_once, fan_plan, flow, line_plan, new_token, node, plan_of

MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
FAR = 10**13
"""Microseconds until which a test freezes a bucket."""


def limiter(count=1, per=MINUTE, *, burst=None, name="api"):
    return SharedRateLimiter(name, count, per=per, burst=burst)


def limited_fan(members, *limiters, **options):
    return fan_plan(members, shared_rate_limit=limiters, **options)


def member(run, name):
    return f"{run.id}|{name}"


def tat(world, bucket="api"):
    """Theoretical arrival time of a bucket in microseconds, or None while it is full."""
    text = world.client.get(world.keys.bucket(bucket)[0])
    return text and int(text)


def freeze(world, bucket="api"):
    world.client.set(world.keys.bucket(bucket)[3], world.store.now_ms() * 1000 + FAR)


def thaw(world, bucket="api"):
    world.client.delete(world.keys.bucket(bucket)[3])


def test_a_full_bucket_grants_its_burst_at_once(world):
    run = world.run(limited_fan(5, limiter(3)))
    assert [run.claim(f"m-{number}").outcome for number in range(5)] == ["run", "run", "run", "parked", "parked"]
    assert world.line("api") == [member(run, "m-3"), member(run, "m-4")]
    assert world.members(world.keys.wait_queues) == ["api"]
    record = run.node("m-3")
    assert (record["state"], record["bucket"], record["attempt"]) == ("parked", "api", 0)
    assert (run.field("detached"), run.count("waiting", "m-3")) == ("1", 1), "a chord does not count who waits"


def test_the_same_token_takes_no_second_one(world):
    run = world.run(limited_fan(2, limiter(2)))
    token = new_token()
    run.claim("m-0", token)
    before = tat(world)
    assert run.claim("m-0", token).outcome == "run"
    assert tat(world) == before
    assert run.claim("m-1").outcome == "run"


def test_every_attempt_takes_a_token(world):
    run = world.run(line_plan("a", rate_limit=RateLimit(2, per=MINUTE)))
    for _ in range(2):
        run.lose("a", run.hold("a"))
    assert run.claim("a").outcome == "parked"
    assert world.line("f.a") == [member(run, "a")]


def test_a_token_that_comes_soon_is_slept_for_without_taking_it(world):
    run = world.run(limited_fan(2, limiter(10, SECOND, burst=1)))
    run.hold("m-0")
    with world.unchanged():
        asleep = run.claim("m-1", may_sleep=True)
    assert asleep.outcome == "sleep"
    assert 0 < asleep.sleep <= 100_000
    arrived = world.store.now_ms() * 1000
    assert abs(asleep.arrived - arrived) < 10_000_000
    wait_until(lambda: run.claim("m-1", may_sleep=True, arrived=asleep.arrived).outcome == "run", "a token")


def test_who_may_not_sleep_and_who_would_sleep_long_stands_in_line(world):
    run = world.run(limited_fan(2, limiter(10, SECOND, burst=1)))
    run.hold("m-0")
    assert run.claim("m-1", may_sleep=False, arrived=1_800_000_000_123_456).outcome == "parked"
    assert run.node("m-1")["due"] > 0
    run = world.run(limited_fan(2, limiter(1, SECOND, name="slow")))
    run.hold("m-0")
    assert run.claim("m-1", may_sleep=True).outcome == "parked"


def test_a_first_arrival_is_kept_to_the_microsecond(world):
    """A JSON number of Redis's Lua keeps 14 digits, an instant in microseconds has 16."""
    run = world.run(limited_fan(2, limiter()))
    run.hold("m-0")
    first = 1_800_000_000_123_456
    run.claim("m-1", arrived=first)
    line = world.keys.bucket("api")[1]
    assert world.client.zscore(line, member(run, "m-1")) == first
    release_all(world, "api")
    run.wake("m-1")
    freeze(world)
    assert run.claim("m-1", arrived=first + 77).outcome == "parked"
    assert world.client.zscore(line, member(run, "m-1")) == first


def release_all(world, bucket):
    """Let the whole line of a bucket go, as time would."""
    _, line, released, _ = world.keys.bucket(bucket)
    for waiting in world.members(line):
        world.client.zadd(released, {waiting: 1})
        world.client.zrem(line, waiting)


def test_all_buckets_give_a_token_or_none_does(world):
    run = world.run(limited_fan(3, limiter(1, name="narrow"), limiter(5, name="wide")))
    run.hold("m-0")
    narrow, wide = tat(world, "narrow"), tat(world, "wide")
    assert run.claim("m-1").outcome == "parked"
    assert (tat(world, "narrow"), tat(world, "wide")) == (narrow, wide)
    assert (len(world.line("narrow")), world.line("wide")) == (1, [])


def test_a_newcomer_stands_behind_the_line_although_there_is_a_token(world):
    run = world.run(limited_fan(3, limiter(1)))
    run.hold("m-0")
    assert run.claim("m-1").outcome == "parked"
    world.client.delete(world.keys.bucket("api")[0])  # the bucket is full again
    assert run.claim("m-2").outcome == "parked"
    assert world.line("api") == [member(run, "m-1"), member(run, "m-2")]
    _, gone = world.scripts.release("api")
    assert gone == [member(run, "m-1")]
    assert run.wake("m-2").outcome == run.wake("m-2").outcome == "asleep"
    assert run.wake("m-1").outcome == "ready"
    assert run.claim("m-1").outcome == "run"
    assert world.released("api") == []


def test_a_message_for_who_stands_in_line_changes_nothing(world):
    run = world.run(limited_fan(2, limiter()))
    run.hold("m-0")
    run.claim("m-1")
    with world.unchanged():
        assert run.claim("m-1").outcome == run.claim("m-1", may_sleep=True).outcome == "not ready"


def test_who_was_let_go_and_finds_no_token_is_back_at_its_place(world):
    run = world.run(limited_fan(4, limiter(1)))
    run.hold("m-0")
    for name in ("m-1", "m-2", "m-3"):
        run.claim(name)
    world.client.delete(world.keys.bucket("api")[0])
    world.scripts.release("api")
    run.wake("m-1")
    freeze(world)
    assert run.claim("m-1").outcome == "parked"
    assert world.line("api") == [member(run, f"m-{number}") for number in (1, 2, 3)]
    assert world.released("api") == []


def test_a_line_without_a_token_lets_nobody_go(world):
    run = world.run(limited_fan(3, limiter(1)))
    run.hold("m-0")
    run.claim("m-1")
    run.claim("m-2")
    wait, gone = world.scripts.release("api")
    assert (wait, gone) == (1000, []), "at most a second to the next look"
    assert world.client.zscore(world.keys.wait_queues, "api") > world.store.now_ms()
    freeze(world)
    world.client.delete(world.keys.bucket("api")[0])
    assert world.scripts.release("api")[1] == []
    thaw(world)
    assert len(world.scripts.release("api")[1]) == 1


def test_an_empty_line_is_not_looked_at_again(world):
    run = world.run(limited_fan(2, limiter(1)))
    run.hold("m-0")
    run.claim("m-1")
    run.cancel()
    assert world.members(world.keys.wait_queues) == ["api"]
    assert world.scripts.release("api") == (-1, [])
    assert world.members(world.keys.wait_queues) == []
    with world.unchanged():
        assert world.scripts.release("api") == (-1, [])
        assert world.scripts.release("no-such-bucket") == (-1, [])


def test_a_release_counts_who_is_on_the_way(world):
    run = world.run(limited_fan(10, limiter(4, per=4 * MINUTE)))
    freeze(world)
    for number in range(10):
        run.claim(f"m-{number}")
    thaw(world)
    assert world.scripts.release("api")[1] == [member(run, f"m-{number}") for number in range(4)]
    assert world.scripts.release("api")[1] == []
    run.wake("m-0")
    run.hold("m-0")
    assert world.scripts.release("api")[1] == [], "its token is gone, three are on their way"
    released = world.keys.bucket("api")[2]
    for number in (1, 2, 3):  # a queue without a consumer
        world.client.zadd(released, {member(run, f"m-{number}"): (world.store.now_ms() - 2500) * 1000})
    assert world.scripts.release("api")[1] == [member(run, f"m-{number}") for number in (4, 5, 6)]
    assert len(world.released("api")) == 6, "they keep their right to claim"
    for number in (1, 2, 3):
        run.wake(f"m-{number}")
        assert run.claim(f"m-{number}").outcome == "run"


def test_a_cancelled_run_leaves_the_line_and_does_not_block_it(world):
    plan = limited_fan(3, limiter(2))
    freeze_first, run = world.run(plan), world.run(plan)
    freeze(world)
    for waiting in (freeze_first, run):
        for number in range(3):
            waiting.claim(f"m-{number}")
    thaw(world)
    world.scripts.release("api")
    assert world.released("api") == [member(freeze_first, "m-0"), member(freeze_first, "m-1")]
    freeze_first.wake("m-0")
    freeze_first.cancel()
    assert world.released("api") == []
    assert world.line("api") == [member(run, f"m-{number}") for number in range(3)]
    assert freeze_first.wake("m-1").outcome == "asleep"
    assert freeze_first.claim("m-0").outcome == "done"
    assert world.scripts.release("api")[1] == [member(run, "m-0"), member(run, "m-1")]


def test_a_released_member_of_a_run_that_is_gone_blocks_nobody_for_long(world):
    run = world.run(limited_fan(2, limiter(1)))
    world.client.zadd(world.keys.bucket("api")[1], {"gone|m-0": 1})
    assert run.claim("m-0").outcome == "parked"
    assert world.scripts.release("api")[1] == ["gone|m-0"]
    assert world.scripts.wake("gone", run.plan.hash, "m-0").outcome == "unknown"
    world.client.zadd(world.keys.bucket("api")[2], {"gone|m-0": (world.store.now_ms() - 2500) * 1000})
    assert world.scripts.release("api")[1] == [member(run, "m-0")]
    world.client.delete(world.keys.bucket("api")[2])


def test_a_compensation_stands_in_line_like_a_node(world):
    undo = node("undo", shared_rate_limit=limiter(1, 10 * MINUTE))
    run = world.run(plan_of(flow().then(node("a").on_error(undo)).then(node("b"))))
    run.do("a")
    run.break_off("b")
    freeze(world)
    assert run.claim("undo").outcome == "parked"
    assert run.announce("saga").outcome == "nothing"
    thaw(world)
    assert world.scripts.release("api")[1] == [member(run, "undo")]
    run.wake("undo")
    run.do("undo")
    assert run.status == "failed"


def test_a_bucket_without_numbers_starts_nothing(world):
    run = world.run(limited_fan(1, limiter(1), limiter(1, name="other")))
    world.client.hdel(world.keys.limits, "other")
    with world.unchanged():
        refused = run.claim("m-0")
    assert (refused.outcome, refused.bucket) == ("no limit", "other")
    world.store.define_limits(run.plan)
    assert run.claim("m-0").outcome == "run"


def test_a_raised_limit_acts_at_once(world):
    run = world.run(limited_fan(60, limiter(1, timedelta(hours=1))))
    run.hold("m-0")
    run.claim("m-1")
    world.publish(limited_fan(60, limiter(50, SECOND)))
    assert tat(world) > world.store.now_ms() * 1000 + 60_000_000, "an hour away by the old numbers"
    wait_until(lambda: world.scripts.release("api")[1], "the head of the line is let go", timeout=5)
    run.wake("m-1")
    wait_until(lambda: run.claim("m-1", may_sleep=True).outcome == "run", "a token by the new numbers", timeout=5)


def test_a_lowered_limit_acts_at_once(world):
    run = world.run(limited_fan(10, limiter(5, SECOND)))
    run.hold("m-0")
    world.publish(limited_fan(10, limiter(1, MINUTE)))
    assert run.claim("m-1").outcome == "parked"


def test_a_frozen_bucket_starts_nothing(world):
    run = world.run(limited_fan(3, limiter(3)))
    freeze(world)
    assert run.claim("m-0", may_sleep=True).outcome == "parked"
    assert world.scripts.release("api")[1] == []


def test_a_hundred_claims_of_a_bucket_of_seven_take_seven_tokens(world):
    run = world.run(limited_fan(100, limiter(7, timedelta(hours=7))))
    answers = at_once(lambda n: run.claim(f"m-{n}", may_sleep=n % 2 == 0))
    assert Counter(answer.outcome for answer in answers) == {"run": 7, "parked": 93}
    parked = {member(run, f"m-{n}") for n, answer in enumerate(answers) if answer.outcome == "parked"}
    assert set(world.line("api")) == parked
    assert world.client.zcard(world.keys.bucket("api")[1]) == 93
    assert run.field("running") == "7"
    assert Counter(run.states().values()) == {"running": 7, "parked": 93}


def test_a_hundred_claims_for_a_token_that_comes_soon_sleep_and_take_nothing(world):
    run = world.run(limited_fan(100, limiter(5, SECOND, burst=7)))
    answers = at_once(lambda n: run.claim(f"m-{n}", may_sleep=True))
    found = Counter(answer.outcome for answer in answers)
    started = [run.node(f"m-{n}")["started"] for n, answer in enumerate(answers) if answer.outcome == "run"]
    assert found["run"] + found["sleep"] == 100
    assert within_bound(started, burst=7, interval_ms=200)
    assert world.line("api") == []


def test_a_hundred_releases_let_go_what_the_bucket_can_grant(world):
    run = world.run(limited_fan(100, limiter(9, timedelta(hours=9))))
    freeze(world)
    for number in range(100):
        run.claim(f"m-{number}")
    thaw(world)
    answers = at_once(lambda _: world.scripts.release("api"))
    gone = [waiting for _, members in answers for waiting in members]
    assert sorted(gone) == sorted(member(run, f"m-{number}") for number in range(9))
    assert len(world.line("api")) == 91


def within_bound(starts_ms: list[int], *, burst: int, interval_ms: int) -> bool:
    """At most burst + rate x w starts in any half-open window; instants are cut to milliseconds, hence one more."""
    starts = sorted(starts_ms)
    return all(
        later - earlier <= burst + (starts[later - 1] - starts[earlier] + 2) / interval_ms
        for earlier in range(len(starts))
        for later in range(earlier + 1, len(starts) + 1)
    )


def test_the_bound_sees_one_start_too_many():
    assert within_bound([0, 0, 0, 20, 40], burst=3, interval_ms=20)
    assert not within_bound([0, 0, 0, 0], burst=3, interval_ms=20)
    assert not within_bound([0, 0, 0, 10, 11], burst=3, interval_ms=20)


@pytest.mark.parametrize("burst", [1, 5])
def test_in_no_window_start_more_than_burst_and_rate_allow(world, burst):
    """Eight workers and a reconciler over one bucket of 50 a second, arrivals in order of their claims."""
    run = world.run(limited_fan(45, limiter(50, SECOND, burst=burst)))
    ready = [f"m-{number}" for number in range(45)]
    for name in ready[: burst + 4]:  # a line exists before the workers come
        run.claim(name)

    def work(_: int) -> None:
        while ready:
            try:
                name = ready.pop(0)
            except IndexError:
                return
            claimed = run.claim(name, may_sleep=True)
            if claimed.outcome == "sleep":
                time.sleep(claimed.sleep / 1_000_000)
                run.claim(name, arrived=claimed.arrived, may_sleep=False)

    def reconcile() -> bool:
        _, _, buckets = world.scripts.due_timers(at_most_ms=100, count=500)
        for bucket in buckets:
            for waiting in world.scripts.release(bucket)[1]:
                name = waiting.split("|")[1]
                if run.wake(name).outcome == "ready":
                    ready.append(name)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        return set(run.states().values()) == {"running"}

    wait_until(reconcile, "all have started", timeout=20)
    starts = [run.node(f"m-{number}")["started"] for number in range(45)]
    assert within_bound(starts, burst=burst, interval_ms=20)
    assert max(starts) - min(starts) >= (45 - burst) * 20 - 1
    assert world.line("api") == world.released("api") == []
    assert run.field("running") == "45"


def has_started(run, name):
    return run.claim(name, may_sleep=True).outcome == "run"


def test_a_line_is_served_in_the_order_of_arrival(world):
    run = world.run(limited_fan(30, limiter(100, SECOND, burst=1)))
    freeze(world)
    for number in range(30):
        assert run.claim(f"m-{number}", lease_ms=LEASE_MS).outcome == "parked"
    thaw(world)
    order: list[str] = []

    def serve() -> bool:
        for waiting in world.scripts.release("api")[1]:
            name = waiting.split("|")[1]
            order.append(name)
            run.wake(name)
            wait_until(partial(has_started, run, name), "a token")
        return len(order) == 30

    wait_until(serve, "the line is empty", timeout=20)
    assert order == [f"m-{number}" for number in range(30)]


def test_a_fleet_that_comes_back_does_not_burst(world):
    run = world.run(limited_fan(40, limiter(20, timedelta(hours=1), burst=2)))
    freeze(world)
    for number in range(40):
        run.claim(f"m-{number}")
    thaw(world)
    released = world.keys.bucket("api")[2]
    for _ in range(10):  # nobody claims, again and again, and what was let go counts for two seconds only
        world.scripts.release("api")
        for waiting in world.released("api"):
            world.client.zadd(released, {waiting: 1})
    for number in range(40):
        run.wake(f"m-{number}")
        run.claim(f"m-{number}")
    assert run.field("running") == "2"
