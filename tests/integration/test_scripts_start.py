"""start.lua: at most one run for an id, an idempotency key and a slot of a schedule; its plan comes with it."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta

import pytest

from orchestrator import SharedRateLimiter
from orchestrator.store.scripts.commit_and_claim import Claim
from tests.scripts_world import (
    RETENTION_MS,
    Run,
    World,
    at_once,
    fan_plan,
    flow,
    line_plan,
    new_token,
    node,
    plan_of,
    run_named,
)

SLOT = 1_800_000_000_000


def tick(world, plan, at, *, overlap="skip", run_id="", **options):
    """What a tick of the schedule "f:hourly" at an instant answers."""
    return world.start(
        plan, run_id=run_id or run_named(at), schedule="f:hourly", scheduled_ms=at, overlap=overlap, **options
    )


def slot_of(world):
    return int(world.client.hget(world.keys.slots, "f:hourly") or 0)


def test_a_start_stores_the_run_and_says_what_to_publish(world):
    plan = line_plan("a", "b")
    run = world.run(plan, input_json=b'{"x": 1}', tags={"who": "me"})
    work = run.started.work
    assert (work.kind, work.position, work.names, work.joined_in_store) == ("step", 0, ("a",), False)
    assert work.since == run.node("a")["since"]
    assert run.states() == {"a": "ready"}
    record = world.store.run(run.id)
    assert (record.status, record.epoch, record.flow, record.plan, record.tags) == (
        "pending", 1, "f", plan.hash, {"who": "me"},
    )  # fmt: skip
    assert world.store.input(run.id) == b'{"x": 1}'
    assert world.members(world.keys.by_status("open")) == world.members(world.keys.by_flow("f", "open")) == [run.id]
    assert world.members(world.keys.live) == [run.id]
    assert run.events() == [("run-started", "")]
    assert [row[b"event"] for _, row in world.client.xrange(world.keys.events)] == [b"started"]
    assert world.client.hget(world.keys.plan(plan.hash), "live") == b"1"


def test_a_start_without_an_input_stores_none(world):
    assert world.store.input(world.run(line_plan("a")).id) is None


def test_without_the_plan_nothing_is_written_until_it_is_sent(world):
    plan = line_plan("a")
    with world.unchanged():
        assert world.start(plan, send_plan=False, key="k").outcome == "no plan"
    assert world.start(plan, send_plan=True, key="k").outcome == "started"
    assert world.start(plan, send_plan=False).outcome == "started", "the plan is there now"


def test_the_same_run_id_answers_exists_and_writes_nothing(world):
    plan = line_plan("a")
    run = world.run(plan)
    with world.unchanged():
        again = world.start(plan, run_id=run.id, input_json=b"2", key="k")
    assert (again.outcome, again.run_id, again.work.names) == ("exists", run.id, ())


def test_an_idempotency_key_holds_one_run_and_its_input(world):
    plan = line_plan("a")
    run = world.run(plan, key="order 7", input_json=b"1")
    with world.unchanged():
        again = world.start(plan, key="order 7", input_json=b"1")
        other = world.start(plan, key="order 7", input_json=b"2")
    assert (again.outcome, again.run_id) == ("exists", run.id)
    assert (other.outcome, other.run_id) == ("conflict", run.id)
    assert world.start(plan, key="order 8", input_json=b"2").outcome == "started"
    assert world.start(plan, key="", input_json=b"2").outcome == "started", "an empty key is a key"
    assert world.start(plan, key="", input_json=b"2").outcome == "exists"


def test_an_idempotency_key_belongs_to_its_flow(world):
    assert world.start(line_plan("a"), key="k").outcome == "started"
    other = plan_of(flow("g").then(node("a")))
    assert world.start(other, key="k").outcome == "started"


def test_an_idempotency_key_lives_as_long_as_its_run(world):
    plan = line_plan("a")
    run = world.run(plan, key="k", retention_ms=RETENTION_MS)
    key = world.keys.idempotency("f", "k")
    assert world.client.pttl(key) == -1
    run.do("a")
    assert abs(world.client.pttl(key) - world.client.pttl(world.keys.run(run.id))) < 1000
    assert world.start(plan, key="k").outcome == "exists"


@pytest.mark.parametrize(
    ("members", "chords", "detached"), [(3, True, False), (3, False, True), (50, True, False), (51, True, True)]
)
def test_a_parallel_first_step_is_left_to_a_worker(world, members, chords, detached):
    run = world.run(fan_plan(members), chords=chords)
    assert run.started.work.names == tuple(f"m-{number}" for number in range(members))
    assert run.started.work.joined_in_store is detached
    assert run.announce(0).work.names == run.started.work.names, "nobody has published it yet"


def test_any_other_first_step_is_announced_by_the_start(world):
    assert world.run(line_plan("a")).announce(0).outcome == "nothing"


def test_a_start_writes_the_numbers_of_a_bucket_only_where_there_are_none(world):
    def limited(count: int):
        limiter = SharedRateLimiter("api", count, per=timedelta(seconds=1))
        return plan_of(flow().then(node("a", shared_rate_limit=limiter)))

    world.run(limited(4))
    assert world.client.hget(world.keys.limits, "api") == b"250000 4"
    world.run(limited(8))
    assert world.client.hget(world.keys.limits, "api") == b"250000 4"
    world.publish(limited(8))
    assert world.client.hget(world.keys.limits, "api") == b"125000 8"


def test_a_run_with_a_timeout_has_a_timer(world):
    run = world.run(plan_of(flow().then(node("a")).with_timeout(timedelta(minutes=1))))
    due = world.client.zscore(world.keys.timers, f"{run.id}|")
    assert due == int(run.field("deadline")) == int(run.field("created")) + 60_000
    run.do("a")
    assert world.members(world.keys.timers) == []


def test_the_history_of_a_run_is_capped(world):
    run = world.run(line_plan("a", attempts=3000), history_limit=100)
    for _ in range(300):
        run.lose("a", run.hold("a"))
    assert world.client.llen(world.keys.history(run.id)) == 100


def test_a_tick_starts_one_run_for_its_slot(world):
    plan = line_plan("a")
    assert tick(world, plan, SLOT).outcome == "started"
    assert slot_of(world) == SLOT
    with world.unchanged():
        assert tick(world, plan, SLOT).outcome == "exists"
        assert tick(world, plan, SLOT, run_id=run_named("another")).outcome == "ticked"
        assert tick(world, plan, SLOT - 1, overlap="allow").outcome == "ticked", "slots only go forward"
    first = Claim("a", new_token())
    assert world.scripts.claim(run_named(SLOT), plan, first, epoch=1, holder="h", lease_ms=1).scheduled == SLOT


def test_a_tick_without_the_plan_leaves_the_slot(world):
    plan = line_plan("a")
    with world.unchanged():
        assert tick(world, plan, SLOT, send_plan=False).outcome == "no plan"
    assert tick(world, plan, SLOT).outcome == "started"


def test_skip_starts_nothing_while_the_last_run_lives(world):
    plan = line_plan("a")
    first = tick(world, plan, SLOT)
    with world.unchanged(but=[world.keys.slots]):
        skipped = tick(world, plan, SLOT + 1)
    assert (skipped.outcome, skipped.run_id) == ("skipped", first.run_id)
    with world.unchanged():
        assert tick(world, plan, SLOT + 1).outcome == "ticked"
    Run(world, plan, first.run_id, first).cancel()
    assert tick(world, plan, SLOT + 2).outcome == "started"


def test_allow_starts_beside_the_last_run(world):
    plan = line_plan("a")
    assert [tick(world, plan, SLOT + n, overlap="allow").outcome for n in range(3)] == ["started"] * 3
    assert tick(world, plan, SLOT + 3, overlap="skip").outcome == "skipped"


def test_a_hundred_starts_with_one_idempotency_key_are_one_run(world):
    plan = line_plan("a")
    answers = at_once(lambda _: world.start(plan, key="k", input_json=b"1"))
    assert Counter(answer.outcome for answer in answers) == {"started": 1, "exists": 99}
    assert len({answer.run_id for answer in answers}) == 1
    assert world.client.zcard(world.keys.live) == 1
    assert world.client.hget(world.keys.plan(plan.hash), "live") == b"1"


def test_a_hundred_starts_of_one_run_id_are_one_run(world):
    plan = line_plan("a")
    answers = at_once(lambda _: world.start(plan, run_id=run_named("one")))
    assert Counter(answer.outcome for answer in answers) == {"started": 1, "exists": 99}
    assert world.store.history(run_named("one"))[0].event == "run-started"
    assert len(world.store.history(run_named("one"))) == 1


@pytest.mark.parametrize("overlap", ["skip", "allow"])
def test_a_hundred_beats_are_one_run_for_each_slot(world: World, overlap: str):
    plan = line_plan("a")
    answers = at_once(lambda n: tick(world, plan, SLOT + n % 4, overlap=overlap, run_id=run_named(n % 4)))
    started = [answer.run_id for answer in answers if answer.outcome == "started"]
    assert len(started) == len(set(started))
    assert world.client.zcard(world.keys.live) == len(started) >= 1
    assert len(started) == 1 or overlap == "allow"
    assert slot_of(world) == SLOT + 3


def test_the_facts_of_a_plan_are_stored_as_they_were_sent(world):
    plan = fan_plan(3)
    world.run(plan)
    stored = {name.decode(): value.decode() for name, value in world.client.hgetall(world.keys.plan(plan.hash)).items()}
    assert {name: stored[name] for name in plan.fields()} == plan.fields()
    assert stored.keys() - plan.fields().keys() == {"live"}
    assert json.loads(stored["step:0"])["nodes"] == ["m-0", "m-1", "m-2"]
