"""Nodes with a deadline: it holds from the instant at which they are ready to the end of their last attempt."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from orchestrator import SharedRateLimiter
from tests.scripts_world import fan_plan, flow, node, paged, plan_of

MINUTE = timedelta(minutes=1)


def late_plan(*, first=False, behind=True, **options):
    builder = flow()
    if not first:
        builder.then(node("before"))
    builder.then(node("a", **options).with_deadline(MINUTE))
    return plan_of(builder.then(node("b")) if behind else builder)


def pass_time(world, run, name, by_ms=60_000):
    """Let the node have become ready that much earlier."""
    record = run.node(name)
    record["ends"] -= by_ms
    world.client.hset(world.keys.nodes(run.id), name, json.dumps(record))


def due_of(world, run, name):
    return world.client.zscore(world.keys.timers, f"{run.id}|{name}")


def left(world, due):
    return due - world.store.now_ms()


@pytest.mark.parametrize("first", [True, False])
def test_a_row_wakes_a_node_that_nobody_claims_and_it_fails(world, first):
    run = world.run(late_plan(first=first))
    if not first:
        run.do("before")
    assert 59_000 < left(world, due_of(world, run, "a")) <= 60_000
    assert due_of(world, run, "a") == run.node("a")["ends"]
    assert run.wake("a").outcome == "asleep"
    assert due_of(world, run, "a") is not None, "a wake before its time leaves the row"
    pass_time(world, run, "a")
    assert run.claim("a").outcome == "not ready", "no attempt begins past it"
    run.wake("a")
    assert (run.status, run.node("a")["state"], due_of(world, run, "a")) == ("failed", "failed", None)
    error = world.store.run(run.id).error
    assert (error.type, error.message) == (
        "orchestrator.errors.NodeTimeout",
        "it was not done within its deadline of 60 s",
    )


def test_an_attempt_takes_at_most_what_is_left(world):
    run = world.run(late_plan(timeout_ms=300_000))
    run.do("before")
    pass_time(world, run, "a", 50_000)
    claimed = run.claim("a", "t")
    assert 9000 <= claimed.lasts_ms <= 10_000
    assert run.node("a")["deadline"] == run.node("a")["ends"]
    assert due_of(world, run, "a") is None, "the claim has the limit"
    assert run.commit("a", "t").work.names == ("b",)
    assert due_of(world, run, "a") is None


def test_a_shorter_timeout_holds(world):
    run = world.run(late_plan(timeout_ms=5000))
    run.do("before")
    claimed = run.claim("a")
    assert claimed.lasts_ms == 5000


@pytest.mark.parametrize("how", ["fail", "lose", "give back"])
def test_what_waits_for_its_next_attempt_is_woken_at_the_deadline(world, how):
    run = world.run(late_plan())
    run.do("before")
    ends = run.node("a")["ends"]
    token = run.hold("a")
    if how == "fail":
        run.fail("a", token, delay_ms=20_000)
        assert left(world, due_of(world, run, "a")) <= 20_000
    elif how == "lose":
        run.lose("a", token)
    else:
        run.give_back("a", token)
    assert run.node("a")["ends"] == ends
    assert how == "fail" or due_of(world, run, "a") == ends


@pytest.mark.parametrize("how", ["fail", "lose"])
def test_no_attempt_follows_that_could_not_begin_in_time(world, how):
    run = world.run(late_plan())
    run.do("before")
    token = run.hold("a")
    if how == "fail":
        run.fail("a", token, delay_ms=60_000)
    else:
        run.lose("a", token, timed_out=True, delay_ms=60_000)
    assert (run.status, run.node("a")["state"]) == ("failed", "failed")


def test_in_a_wait_queue_it_counts_too(world):
    limiter = SharedRateLimiter("one", 1, per=timedelta(hours=1))
    plan = plan_of(flow().then(node("a", shared_rate_limit=limiter).with_deadline(MINUTE)).then(node("b")))
    world.publish(plan)
    run, other = world.run(plan), world.run(plan)
    run.do("a")
    run.do("b")
    assert other.claim("a").outcome == "parked"
    assert due_of(world, other, "a") == other.node("a")["ends"]
    pass_time(world, other, "a")
    other.wake("a")
    assert (other.status, world.line("one")) == ("failed", [])


def test_a_member_that_misses_it_ends_its_step(world):
    members = [node("m-0"), node("m-1").with_deadline(MINUTE)]
    run = world.run(plan_of(flow().then_parallel("fan", *members, on_failure="continue").then(node("after"))))
    pass_time(world, run, "m-1")
    run.wake("m-1")
    assert run.do("m-0").work.names == ("after",)


def test_a_node_of_pages_has_one_deadline_for_all_of_them(world):
    run = world.run(plan_of(flow().then(paged("sync").with_deadline(MINUTE)).then(node("b"))))
    ends = run.node("sync")["ends"]
    run.turn("sync", run.hold("sync"))
    assert run.node("sync")["ends"] == ends
    assert run.close("sync", run.hold("sync")).work.names == ("b",)


def test_a_look_puts_a_lost_row_back(world):
    run = world.run(late_plan())
    run.do("before")
    world.client.delete(world.keys.timers)
    run.look()
    assert due_of(world, run, "a") == run.node("a")["ends"]
    run.fail("a", run.hold("a"), delay_ms=30_000)
    world.client.delete(world.keys.timers)
    run.look()
    assert due_of(world, run, "a") == run.node("a")["due"]


def test_a_resume_gives_it_all_of_its_time_again(world):
    run = world.run(late_plan())
    run.do("before")
    pass_time(world, run, "a")
    run.wake("a")
    assert run.resume().work.names == ("a",)
    assert 59_000 < left(world, due_of(world, run, "a")) <= 60_000


def test_of_a_delayed_run_it_counts_from_its_beginning(world):
    run = world.run(late_plan(first=True), begins="+60000")
    assert "ends" not in run.node("a")
    record = run.node("a") | {"due": world.store.now_ms()}
    world.client.hset(world.keys.nodes(run.id), "a", json.dumps(record))
    assert run.wake("a").work.names == ("a",)
    assert 59_000 < left(world, due_of(world, run, "a")) <= 60_000


def test_a_node_without_one_has_no_row(world):
    run = world.run(fan_plan(3))
    run.do("m-0")
    assert world.members(world.keys.timers) == []
    assert "deadline_ms" not in run.plan.text
