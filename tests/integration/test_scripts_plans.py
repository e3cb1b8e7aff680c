"""announce_flow.lua and publish_position.lua: which plan a flow has, and who publishes a position."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

from orchestrator import SharedRateLimiter
from tests.scripts_world import RETENTION_MS, at_once, fan_plan, flow, line_plan, node, plan_of


def announced_hash(world, flow_name="f"):
    return world.store.announced().get(flow_name)


def test_an_announced_plan_can_be_read_back_and_started(world):
    plan = fan_plan(3, undone="started")
    world.publish(plan)
    assert world.store.announced_plan("f") == plan
    assert (announced_hash(world), world.plan_ttl(plan)) == (plan.hash, -1)
    assert world.start(plan, send_plan=False).outcome == "started"
    before = world.client.hgetall(world.keys.plan(plan.hash))
    world.publish(plan)
    assert world.client.hgetall(world.keys.plan(plan.hash)) == before


def test_the_plan_announced_before_ends_unless_a_run_pins_it(world):
    old, new, third = line_plan("a"), line_plan("a", "b"), line_plan("c")
    world.publish(old)
    run = world.run(old)
    world.publish(new)
    assert (announced_hash(world), world.plan_ttl(old)) == (new.hash, -1)
    world.publish(third)
    assert RETENTION_MS // 2 < world.plan_ttl(new) <= RETENTION_MS
    assert world.plan_ttl(old) == -1
    run.do("a")
    assert RETENTION_MS // 2 < world.plan_ttl(old) <= RETENTION_MS


def test_a_plan_that_comes_back_is_kept_again(world):
    old, new = line_plan("a"), line_plan("b")
    world.publish(old)
    world.publish(new)
    assert world.plan_ttl(old) > 0
    world.publish(old)
    assert (world.plan_ttl(old), announced_hash(world)) == (-1, old.hash)
    assert world.plan_ttl(new) > 0


def test_a_plan_nobody_announced_lives_as_long_as_its_runs(world):
    plan = line_plan("a")
    first, second = world.run(plan), world.run(plan)
    first.do("a")
    assert world.plan_ttl(plan) == -1
    second.do("a")
    assert RETENTION_MS // 2 < world.plan_ttl(plan) <= RETENTION_MS
    world.run(plan)
    assert world.plan_ttl(plan) == -1


def test_an_announced_plan_outlives_its_runs(world):
    plan = line_plan("a")
    world.publish(plan)
    world.run(plan).do("a")
    assert world.plan_ttl(plan) == -1


def test_a_shorter_retention_does_not_shorten_the_plan_of_earlier_runs(world):
    plan = line_plan("a")
    long = world.run(plan, retention_ms=50 * RETENTION_MS)
    short = world.run(plan, retention_ms=RETENTION_MS)
    long.break_off("a")
    short.do("a")
    assert world.plan_ttl(plan) > 40 * RETENTION_MS
    assert long.resume().work.names == ("a",)
    long.break_off("a")
    world.publish(plan)
    world.publish(line_plan("b"), retention_ms=RETENTION_MS)
    assert world.plan_ttl(plan) > 40 * RETENTION_MS


def test_an_announcement_changes_the_numbers_of_its_buckets(world):
    def limited(count):
        return plan_of(
            flow().then(node("a", shared_rate_limit=SharedRateLimiter("x", count, per=timedelta(seconds=1))))
        )

    for count in (1, 4, 2):
        world.publish(limited(count))
        assert world.client.hget(world.keys.limits, "x").decode() == f"{1_000_000 // count} {count}"


def test_a_hundred_announcements_of_two_plans_leave_one(world):
    plans = [line_plan("a"), line_plan("b")]
    at_once(lambda n: world.publish(plans[n % 2]))
    kept, other = plans if announced_hash(world) == plans[0].hash else plans[::-1]
    assert announced_hash(world) == kept.hash
    assert world.plan_ttl(kept) == -1
    assert 0 < world.plan_ttl(other) <= RETENTION_MS


def test_a_position_is_announced_once_and_with_what_is_ready(world):
    run = world.run(fan_plan(3))
    run.hold("m-1")
    moved = run.announce(0)
    assert (moved.outcome, moved.work.kind, moved.work.position, moved.work.names) == (
        "announced", "step", 0, ("m-0", "m-2"),
    )  # fmt: skip
    with world.unchanged():
        assert run.announce(0).outcome == "nothing"


def test_only_the_present_position_of_this_epoch_is_announced(world):
    run = world.run(fan_plan(2))
    with world.unchanged():
        assert run.announce(1).outcome == run.announce(-1).outcome == run.announce("saga").outcome == "nothing"
        assert run.announce(0, epoch=2).outcome == "nothing"
    run.hold("m-0")
    run.hold("m-1")
    with world.unchanged():
        assert run.announce(0).outcome == "nothing", "all of it is claimed"


def test_nothing_is_announced_after_the_verdict_but_the_saga(world):
    run = world.run(fan_plan(3, attempts=1, undone="succeeded"))
    run.do("m-0")
    token = run.hold("m-1")
    run.break_off("m-2")
    with world.unchanged():
        assert run.announce(0).outcome == run.announce("saga").outcome == "nothing", "a node runs"
    assert run.commit("m-1", token).work.kind == "saga"
    with world.unchanged():
        assert run.announce("saga").outcome == "nothing", "the commit published it"
    world.client.hset(world.keys.run(run.id), "announced", -1)  # as if it had not come to it
    moved = run.announce("saga")
    assert (moved.outcome, moved.work.kind, moved.work.names) == ("announced", "saga", ("undo-m-1", "undo-m-0"))
    assert moved.work.since == run.node("undo-m-1")["since"]
    run.do("undo-m-1")
    run.do("undo-m-0")
    with world.unchanged():
        assert run.announce("saga").outcome == run.announce(0).outcome == "nothing"


def test_a_hundred_announcements_of_a_position_are_one(world):
    run = world.run(fan_plan(5))
    answers = at_once(lambda _: run.announce(0))
    assert Counter(answer.outcome for answer in answers) == {"announced": 1, "nothing": 99}
    assert [answer.work.names for answer in answers if answer.work.kind] == [tuple(f"m-{n}" for n in range(5))]


def test_a_hundred_announcements_of_a_saga_are_one(world):
    run = world.run(line_plan("a", "b", undone="succeeded"))
    run.do("a")
    run.break_off("b")
    world.client.hset(world.keys.run(run.id), "announced", -1)
    answers = at_once(lambda _: run.announce("saga"))
    assert [answer.work.names for answer in answers if answer.work.kind] == [("undo-a",)]


def test_a_run_ends_whose_plan_was_stored_before_there_were_maps_and_pages(world):
    run = world.run(line_plan("a"))
    world.client.hdel(world.keys.plan(run.plan.hash), "maps", "pages")
    run.do("a")
    assert run.status == "succeeded"
    assert world.members(world.keys.live) == []
    assert world.client.pttl(world.keys.run(run.id)) > 0
