"""wake.lua and due_timers.lua: what waits is a row that becomes due, and is let go once."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta

import pytest

from orchestrator import RateLimit, SharedRateLimiter
from tests.harness import wait_until
from tests.scripts_world import at_once, fan_plan, flow, line_plan, node, plan_of


def due(world, *, at_most_ms=100, count=500):
    return world.scripts.due_timers(at_most_ms=at_most_ms, count=count)


def test_a_parked_node_is_woken_when_it_is_due(world):
    run = world.run(line_plan("a"))
    run.break_off("a", delay_ms=60_000)
    with world.unchanged():
        assert run.wake("a").outcome == "asleep"
    due = run.node("a") | {"due": world.store.now_ms()}
    world.client.hset(world.keys.nodes(run.id), "a", json.dumps(due))
    woken = run.wake("a")
    assert woken.outcome == "ready"
    assert (woken.work.kind, woken.work.names, woken.work.since) == ("nodes", ("a",), run.node("a")["since"])
    assert run.node("a").keys() & {"due", "bucket"} == set()
    assert world.members(world.keys.timers) == []
    with world.unchanged():
        assert run.wake("a").outcome == "asleep"


def test_a_node_that_is_not_due_stays_asleep(world):
    run = world.run(line_plan("a", "b"))
    run.break_off("a", delay_ms=60_000)
    with world.unchanged():
        assert run.wake("a").outcome == run.wake("b").outcome == run.wake("no-such-node").outcome == "asleep"


def test_a_timer_of_nothing_that_waits_is_removed(world):
    run = world.run(line_plan("a"))
    world.client.zadd(world.keys.timers, {f"{run.id}|a": 1, "gone|a": 1})
    assert run.wake("a").outcome == "asleep"
    assert world.scripts.wake("gone", run.plan.hash, "a").outcome == "unknown"
    assert world.members(world.keys.timers) == []


def test_who_stands_in_a_line_is_not_woken_by_the_clock(world):
    limiter = SharedRateLimiter("api", 1, per=timedelta(minutes=1))
    run = world.run(fan_plan(2, shared_rate_limit=limiter))
    run.hold("m-0")
    run.claim("m-1")
    with world.unchanged():
        assert run.wake("m-1").outcome == "asleep"


def test_a_retry_that_goes_into_a_line_leaves_no_timer(world):
    """Or it would be due for ever, and five hundred of them would hide every later timer."""
    run = world.run(line_plan("a", rate_limit=RateLimit(1, per=timedelta(minutes=1))))
    run.break_off("a", delay_ms=10)
    wait_until(lambda: run.claim("a").outcome == "parked", "a doubled message comes before the timer fires")
    assert world.line("f.a") == [f"{run.id}|a"]
    assert world.members(world.keys.timers) == []


def test_a_woken_node_is_not_taken_for_lost(world):
    limiter = SharedRateLimiter("api", 1, per=timedelta(minutes=1))
    run = world.run(fan_plan(2, shared_rate_limit=limiter))
    run.hold("m-0")
    run.age("m-1", 5000)
    run.republish("m-1")
    run.age("m-1", 60_000)
    run.claim("m-1")
    released, line = world.keys.bucket("api")[2], world.keys.bucket("api")[1]
    world.client.zrem(line, f"{run.id}|m-1")
    world.client.zadd(released, {f"{run.id}|m-1": 1})
    assert run.wake("m-1").outcome == "ready"
    assert [seen.kind for seen in run.look() if seen.node == "m-1"] == [], "its message has only just left"


def test_due_names_timers_and_buckets_and_writes_nothing(world):
    limiter = SharedRateLimiter("api", 1, per=timedelta(minutes=1))
    run = world.run(
        plan_of(flow().then_parallel("fan", *[node(f"m-{n}", shared_rate_limit=limiter) for n in range(2)]))
    )
    other = world.run(line_plan("a"))
    with world.unchanged():
        assert due(world) == (100, [], [])
    run.hold("m-0")
    run.claim("m-1")
    other.break_off("a", delay_ms=0)
    with world.unchanged():
        assert due(world) == due(world) == (100, [f"{other.id}|a"], ["api"])


def test_due_says_when_to_ask_again(world):
    first, second = world.run(line_plan("a")), world.run(line_plan("a"))
    first.break_off("a", delay_ms=40_000)
    second.break_off("a", delay_ms=90_000)
    wait, timers, buckets = due(world, at_most_ms=60_000)
    assert 0 < wait <= 40_000
    assert (timers, buckets) == ([], [])
    assert due(world, at_most_ms=100)[0] == 100


def test_due_asks_for_the_rest_at_once(world):
    runs = [world.run(line_plan("a")) for _ in range(5)]
    for run in runs:
        run.break_off("a", delay_ms=0)
    wait, timers, _ = due(world, count=3)
    assert (wait, len(timers)) == (0, 3)
    for member in timers:
        next(run for run in runs if run.id == member.split("|")[0]).wake("a")
    wait, timers, _ = due(world, count=3)
    assert (wait, len(timers)) == (100, 2)


@pytest.mark.parametrize("lets_go", ["timer", "line"])
def test_a_hundred_wakes_are_one(world, lets_go):
    run = world.run(line_plan("a", shared_rate_limit=SharedRateLimiter("api", 1, per=timedelta(minutes=1))))
    if lets_go == "timer":
        run.break_off("a", delay_ms=0)
    else:
        run.lose("a", run.hold("a"))
        run.claim("a")
        world.client.delete(world.keys.bucket("api")[0])
        world.scripts.release("api")
    answers = at_once(lambda _: run.wake("a"))
    assert Counter(answer.outcome for answer in answers) == {"ready": 1, "asleep": 99}
    assert [answer.work.names for answer in answers if answer.work.kind] == [("a",)]


def test_a_hundred_looks_at_the_clock_write_nothing(world):
    run = world.run(line_plan("a"))
    run.break_off("a", delay_ms=0)
    with world.unchanged():
        answers = at_once(lambda _: due(world))
    assert {(tuple(timers), tuple(buckets)) for _, timers, buckets in answers} == {((f"{run.id}|a",), ())}
