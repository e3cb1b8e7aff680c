"""start.lua with an instant before which nothing is ready, and the wakes that begin such a run."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from tests.harness import wait_until
from tests.scripts_world import fan_plan, flow, line_plan, node, plan_of

MINUTE_MS = 60_000


def delayed(world, plan, begins="+60000"):
    return world.run(plan, begins=begins)


def let_begin(world, run):
    """Let the instant have come."""
    for name in run.plan.steps[0].nodes:
        record = run.node(name) | {"due": world.store.now_ms()}
        world.client.hset(world.keys.nodes(run.id), name, json.dumps(record))


def test_nothing_of_it_is_ready_before_its_instant(world):
    run = delayed(world, line_plan("a", "b"))
    assert run.started.work.names == (), "there is nothing to publish"
    assert run.field("status") == "pending"
    assert run.claim("a").outcome == "not ready"
    assert run.wake("a").outcome == "asleep"
    ((member, due),) = world.client.zrange(world.keys.timers, 0, -1, withscores=True)
    assert member.decode() == f"{run.id}|a"
    assert 0 <= due - world.store.now_ms() <= MINUTE_MS
    assert int(run.field("begins")) == due


@pytest.mark.parametrize("begins", ["1", "+0", ""])
def test_an_instant_that_is_over_is_now(world, begins):
    run = delayed(world, line_plan("a"), begins)
    assert run.node("a")["state"] == "ready"
    assert run.field("begins") == ""


def test_a_second_start_changes_nothing(world):
    plan = line_plan("a")
    first = world.start(plan, key="k", begins="+60000")
    with world.unchanged():
        assert world.start(plan, key="k", begins="+5").outcome == "exists"
    assert first.outcome == "started"


def test_its_time_begins_with_it(world):
    run = delayed(world, plan_of(flow().with_timeout(timedelta(minutes=5)).then(node("a"))))
    assert run.field("deadline") == ""
    let_begin(world, run)
    woken = run.wake("a")
    assert (woken.outcome, woken.work.names) == ("ready", ("a",))
    assert 299_000 <= int(run.field("deadline")) - world.store.now_ms() <= 300_000
    assert world.members(world.keys.timers) == [f"{run.id}|"]
    with world.unchanged():
        assert run.wake("a").outcome == "asleep"


def test_a_parallel_first_step_is_woken_member_by_member_and_joined_in_the_store(world):
    run = delayed(world, fan_plan(2))
    names = run.plan.steps[0].nodes
    let_begin(world, run)
    assert [run.wake(name).work.names for name in names] == [(name,) for name in names]
    assert run.field("detached") == "1"


def test_it_can_be_cancelled_at_any_time(world):
    run = delayed(world, line_plan("a"))
    run.cancel()
    assert run.field("status") == "cancelled"
    assert run.node("a")["state"] == "skipped"
    assert world.members(world.keys.timers) == []


def test_a_look_puts_a_lost_timer_back(world):
    run = delayed(world, line_plan("a"))
    world.client.delete(world.keys.timers)
    assert run.look() == []
    assert world.members(world.keys.timers) == [f"{run.id}|a"]


def test_a_short_delay_wakes_the_leader(world):
    delayed(world, line_plan("a"), "+50")
    assert world.client.llen(f"{world.keys.timers}:wake") == 1
    wait_until(lambda: world.scripts.due_timers(at_most_ms=100, count=5)[1], "it is due")
