"""start.lua, wake.lua, resume.lua and cancel.lua of a flow with a maximum of runs: who has a place, and who is next."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
import redis

from orchestrator import InvalidInput, Node, RemoteFlow, sleep
from orchestrator.engine import MOVES
from orchestrator.store.scripts.results import ELSEWHERE
from tests.scripts_world import FAILURE, Run, at_once, flow, node, plan_of, run_named

ADMIT = ":admit"


def lane_plan(most=1, key=None, when_full="queue", *, undone=None, name="f"):
    builder = flow(name).with_max_runs(most, key, when_full).with_timeout(timedelta(minutes=5))
    return plan_of(builder.then(node("a", undone=undone, attempts=1)).then(node("b", attempts=1)))


def follow(world, moved):
    """Wake whom a run has called."""
    while moved.work.kind in ELSEWHERE:
        other, name, plan, epoch = moved.work.names
        moved = MOVES[moved.work.kind](world.store, other, world.store.plan(plan), name, f"{name}/{epoch}")
    return moved


def finish(world, run):
    run.do("a")
    return follow(world, run.do("b"))


def going_on(world, lane="f"):
    return world.members(world.keys.lane(lane))


def queued(world, lane="f"):
    return world.members(world.keys.queued(lane))


def due(world):
    return [each.decode() for each in world.client.zrangebyscore(world.keys.timers, 0, world.store.now_ms())]


def test_the_runs_of_a_lane_go_on_one_after_the_other_in_the_order_of_their_starts(world):
    plan = lane_plan()
    runs = [world.run(plan) for _ in range(4)]

    assert [run.started.work.names for run in runs] == [("a",), (), (), ()]
    assert (going_on(world), queued(world)) == ([runs[0].id], [run.id for run in runs[1:]])
    assert [run.field("deadline") != "" for run in runs] == [True, False, False, False]
    assert runs[1].status == "pending"
    assert runs[1].states() == {}
    assert runs[1].claim("a").outcome == "not ready"

    for run, following in zip(runs, [*runs[1:], None], strict=True):
        moved = finish(world, run)
        assert moved.work.names == (() if following is None else ("a",))
        assert following is None or 299_000 <= int(following.field("deadline")) - world.store.now_ms() <= 300_000
    assert [run.status for run in runs] == ["succeeded"] * 4
    assert [name for name in world.names() if ":lane:" in name] == []


def test_each_value_of_the_key_has_a_lane(world):
    plan = lane_plan(key="customer.id")
    given = [json.dumps({"customer": {"id": each}}).encode() for each in ("x", "x:*|\n", "x")]
    runs = [world.run(plan, input_json=each) for each in given]
    assert [run.started.work.names for run in runs] == [("a",), ("a",), ()]
    assert finish(world, runs[0]).work.names == ("a",)
    with pytest.raises(InvalidInput, match=r"has no customer\.id"):
        world.start(plan, input_json=b'{"customer": 1}')


@pytest.mark.parametrize("most", [1, 3])
def test_of_a_hundred_starts_at_once_so_many_go_on(world, most):
    plan = lane_plan(most)
    world.run(lane_plan(most, name="other"))  # the script and a plan are there
    started = at_once(lambda _: world.start(plan), 100)
    assert sum(bool(each.work.names) for each in started) == most
    assert (len(going_on(world)), len(queued(world))) == (most, 100 - most)


def test_of_a_hundred_wakes_at_once_one_admits(world):
    plan = lane_plan()
    first, second, third = (world.run(plan) for _ in range(3))
    first.do("a")
    moved = first.do("b")
    assert (moved.work.kind, moved.work.names) == ("next", (second.id, ADMIT, plan.hash, "1"))
    assert due(world) == [f"{second.id}|{ADMIT}"], "and if who did it dies now, the leader wakes it"

    woken = at_once(lambda number: (second, third)[number % 2].wake(ADMIT), 100)

    assert sum(bool(each.work.names) for each in woken) == 1
    assert (going_on(world), queued(world)) == ([second.id], [third.id])
    assert due(world) == []


def test_where_several_places_are_free_each_admitted_run_calls_the_next(world):
    plan = lane_plan(2)
    runs = [world.run(plan) for _ in range(5)]
    for run in runs[:2]:
        run.do("a")
        run.do("b")
    assert runs[2].wake(ADMIT).work.names == ("a",)
    assert due(world) == [f"{runs[3].id}|{ADMIT}"]
    assert runs[3].wake(ADMIT).work.names == ("a",)
    assert runs[4].wake(ADMIT).outcome == "asleep"


def test_a_run_that_is_skipped_has_ended_and_binds_no_key(world):
    plan = lane_plan(when_full="skip")
    first = world.run(plan, key="k1")
    second = world.run(plan, key="k2")
    assert second.started.work.names == ()
    assert second.status == "cancelled"
    record = world.store.run(second.id)
    assert record.error.type == "orchestrator.errors.RunCancelled"
    assert record.error.message == "at most 1 run of flow f at a time"
    assert record.finished is not None
    assert second.events() == [("run-started", ""), ("run-cancelled", "")]
    finish(world, first)
    assert world.start(plan, key="k2").work.names == ("a",), "the key is free"
    assert world.start(plan, key="k1").outcome == "exists"


def test_a_queued_run_is_cancelled_and_the_others_go_on(world):
    plan = lane_plan()
    first, second, third = (world.run(plan, key=f"k{number}") for number in range(3))
    assert follow(world, second.cancel()).work.names == ()
    assert second.status == "cancelled"
    assert queued(world) == [third.id]
    assert finish(world, first).work.names == ("a",)
    assert going_on(world) == [third.id]


def test_a_rollback_keeps_its_place_to_its_end(world):
    plan = lane_plan(undone="succeeded")
    first, second = world.run(plan), world.run(plan)
    first.do("a")
    first.break_off("b")
    assert second.wake(ADMIT).outcome == "asleep"
    assert follow(world, first.do("undo-a")).work.names == ("a",)
    assert (first.status, going_on(world)) == ("failed", [second.id])


def test_a_resumed_run_queues_again_and_has_its_time_from_then_on(world):
    plan = lane_plan()
    first, second, third = (world.run(plan) for _ in range(3))
    first.do("a")
    follow(world, first.break_off("b"))
    assert first.resume().work.names == ()
    first.epoch = 2
    assert (first.status, first.field("deadline")) == ("pending", "")
    assert queued(world) == [third.id, first.id]
    finish(world, second)
    assert finish(world, third).work.names == ("b",), "what has succeeded stays"
    assert first.field("deadline") != ""
    follow(world, first.do("b"))
    assert first.status == "succeeded"


def test_a_run_resumed_into_the_queue_and_cancelled_is_undone_beside_the_others(world):
    plan = lane_plan(undone="succeeded")
    first, second = world.run(plan), world.run(plan)
    first.do("a")
    first.hold("b")
    first.cancel()
    first.lose("b", first.node("b")["token"])
    first.do("undo-a")
    second.wake(ADMIT)
    first.resume()
    assert first.status == "pending"
    follow(world, first.cancel())
    assert first.status == "cancelled"
    assert going_on(world) == [second.id]


def test_a_run_undone_on_request_waits_for_nobody_and_counts(world):
    plan = lane_plan(undone="succeeded")
    first = world.run(plan)
    finish(world, first)
    second = world.run(plan)
    world.scripts.undo(first.id, plan.hash, token="t", failure=FAILURE)
    first.epoch = 2
    assert sorted(going_on(world)) == sorted([first.id, second.id])
    assert world.run(plan).started.work.names == ()
    assert follow(world, first.do("undo-a")).work.names == ()


def test_a_place_of_a_run_that_is_gone_is_free(world):
    plan = lane_plan()
    world.client.zadd(world.keys.lane("f"), {"gone": 1})
    first = world.run(plan)
    assert first.started.work.names == ("a",)
    second = world.run(plan)
    # The record of the first is lost, and nothing says so.
    world.client.delete(*[name for name in world.names() if first.id in name])
    world.client.zrem(world.keys.live, first.id)
    world.client.zrem(world.keys.timers, f"{first.id}|")
    assert [(seen.kind, seen.node) for seen in second.look()] == [("awake", ADMIT)]
    assert second.wake(ADMIT).work.names == ("a",)


def test_a_look_puts_back_what_the_indexes_have_lost_and_comes_soon_for_the_first(world):
    plan = lane_plan()
    runs = [world.run(plan) for _ in range(3)]
    world.client.delete(world.keys.queued("f"))
    for run in runs[1:]:
        assert run.look() == []
    assert queued(world) == [run.id for run in runs[1:]]
    now = world.store.now_ms()
    assert world.client.zscore(world.keys.live, runs[1].id) - now < 5100
    world.client.zadd(world.keys.live, {run.id: 1 for run in runs[1:]})
    assert [each.run_id for each in world.scripts.due_looks(count=10)[1]] == [runs[1].id], "the others wait behind it"


@pytest.mark.parametrize("when_full", ["queue", "skip"])
def test_a_run_with_a_delay_joins_when_that_is_over(world, when_full):
    plan = lane_plan(when_full=when_full)
    later = world.run(plan, begins="+60000", key="k")
    assert (later.status, queued(world), going_on(world)) == ("pending", [], [])
    assert later.wake(ADMIT).outcome == "asleep"
    first = world.run(plan)
    assert first.started.work.names == ("a",)
    world.client.hset(world.keys.run(later.id), "begins", world.store.now_ms())
    later.wake(ADMIT)
    assert later.status == ("pending" if when_full == "queue" else "cancelled")
    assert world.start(plan, key="k").outcome == "exists"
    assert finish(world, first).work.names == (("a",) if when_full == "queue" else ())


def test_a_held_run_takes_its_place_and_begins_when_it_is_resumed(world):
    plan = lane_plan()
    first, second = world.run(plan), world.run(plan)
    world.scripts.pause(second.id, plan.hash, reason="")
    assert finish(world, first).work.names == ()
    assert (second.status, going_on(world)) == ("paused", [second.id])
    assert second.resume().work.names == ("a",)


def test_a_gate_waits_from_the_admission_on(world):
    plan = plan_of(flow().with_max_runs(1).then(sleep("rest", timedelta(hours=1))).then(node("a")))
    first, second = world.run(plan), world.run(plan)
    assert (first.status, second.status) == ("running", "pending")
    follow(world, first.cancel())
    assert second.status == "running"
    assert second.states() == {"rest": "waiting"}


def test_a_child_in_the_lane_of_its_ancestor_is_admitted_within_its_place(world):
    plan = plan_of(flow().with_max_runs(1).then(Node("again", RemoteFlow("f"))))
    parent = world.run(plan, input_json=b"1")
    child = spawn(world, parent, plan)
    assert child.started.work.names == ("again",)
    assert going_on(world) == [parent.id]
    other = world.run(plan, input_json=b"1")
    assert spawn(world, child, plan).started.work.names == ("again",)
    assert queued(world) == [other.id]


@pytest.mark.parametrize("when_full", ["queue", "skip"])
def test_a_child_waits_or_is_skipped_as_any_run(world, when_full):
    plan = lane_plan(name="shipping", when_full=when_full)
    first = world.run(plan)
    parent = world.run(plan_of(flow().then(Node("ship", RemoteFlow("shipping"))).then(node("last"))), input_json=b"1")
    child = spawn(world, parent, plan, "ship")
    if when_full == "skip":
        assert (child.status, parent.status) == ("cancelled", "failed")
        assert "at most 1 run of flow shipping" in parent.field("error")
        return
    assert child.status == "pending"
    assert finish(world, first).work.names == ("a",)
    assert finish(world, child).work.names == ("last",)
    parent.do("last")


def spawn(world, parent, plan, name="again"):
    spawned = world.scripts.children.spawn(
        parent.id,
        parent.plan.hash,
        name,
        parent.hold(name),
        child_plan=plan,
        number=1,
        most_depth=16,
        most_bytes=1000,
        lasts_ms=0,
        follows=False,
        message_of=lambda _plan, _run_id: ("", ""),
        send_plan=True,
        input_json=b"1",
        retention_ms=600_000,
        history_limit=100,
        chords=True,
    )
    return Run(world, plan, world.store.children(parent.id)[-1], spawned.started)


@pytest.mark.parametrize("is_resumed", [False, True])
def test_a_wide_first_step_is_entered_at_once(world, is_resumed):
    members = [node(f"m-{number}") for number in range(300)]
    plan = plan_of(flow().with_max_runs(1).then_parallel("fan", *members))
    first, second = world.run(plan), world.run(plan)
    if is_resumed:
        second.cancel()
        second.resume()
    first.complete(first.cancel())
    assert len(second.wake(ADMIT).work.names) == 300


def test_a_run_whose_plan_is_gone_leaves_its_place_all_the_same(world):
    plan = lane_plan()
    first, second = world.run(plan), world.run(plan)
    world.client.delete(world.keys.plan(plan.hash))
    world.scripts.abandon(first.id, plan.hash, ["a"], verdict="failed", failure=FAILURE, is_last=False)
    assert world.scripts.abandon(first.id, plan.hash, [], verdict="failed", failure=FAILURE, is_last=True) == "ended"
    world.scripts.restore_plan(plan)
    assert [seen.node for seen in second.look()] == [ADMIT]
    assert second.wake(ADMIT).work.names == ("a",)
    follow(world, second.cancel())
    world.client.hset(world.keys.plan(plan.hash), "live", 0)
    world.client.pexpire(world.keys.plan(plan.hash), 600_000)


def test_a_full_server_admits_nothing_and_does_so_later(world):
    plan = lane_plan()
    first, second = world.run(plan), world.run(plan)
    first.do("a")
    first.do("b")
    refused = world.client.config_get("maxmemory")["maxmemory"]
    world.client.config_set("maxmemory", 1)
    try:
        with world.unchanged(), pytest.raises(redis.RedisError, match="maxmemory"):
            second.wake(ADMIT)
    finally:
        world.client.config_set("maxmemory", refused)
    assert second.wake(ADMIT).work.names == ("a",)


def test_a_run_at_the_head_of_the_queue_that_is_gone_holds_up_nobody(world):
    plan = lane_plan()
    first, gone, behind = (world.run(plan) for _ in range(3))
    world.client.delete(*[name for name in world.names() if gone.id in name])
    world.client.zrem(world.keys.live, gone.id)
    world.client.zrem(world.keys.lane("f"), first.id)
    world.client.zadd(world.keys.live, {behind.id: 1})
    assert [each[0] for each in world.scripts.due_looks(count=10)[1]] == [behind.id]
    assert [seen.node for seen in behind.look()] == [ADMIT]
    assert behind.wake(ADMIT).work.names == ("a",)


def test_who_comes_first_by_a_cancel_is_looked_at_soon(world):
    plan = lane_plan()
    _, second, third = (world.run(plan) for _ in range(3))
    world.client.zadd(world.keys.live, {third.id: world.store.now_ms() + 600_000})
    second.cancel()
    assert world.client.zscore(world.keys.live, third.id) - world.store.now_ms() <= 1000


# --- the lane of a schedule ------------------------------------------------------------------------
SCHEDULE = "f:0123"
LANE = "f@0123"


def clock_plan():
    return plan_of(flow().then(node("a", attempts=1)).then(node("b", attempts=1)))


def tick(world, plan, at, *, run_id="", overlap="queue"):
    """What a tick answers, and its run."""
    started = world.start(plan, run_id=run_id or run_named(at), schedule=SCHEDULE, scheduled_ms=at, overlap=overlap)
    return started, Run(world, plan, started.run_id, started)


def test_the_runs_of_a_schedule_go_on_one_after_the_other_in_the_order_of_their_instants(world):
    plan = clock_plan()
    runs = [tick(world, plan, at)[1] for at in range(1, 4)]
    with world.unchanged():
        assert [tick(world, plan, at)[0].outcome for at in range(1, 4)] == ["exists"] * 3
        assert tick(world, plan, 3, run_id=run_named("late"))[0].outcome == "ticked"
    assert [run.started.work.names for run in runs] == [("a",), (), ()]
    assert (going_on(world, LANE), queued(world, LANE)) == ([runs[0].id], [run.id for run in runs[1:]])
    assert (runs[1].status, runs[1].claim("a").outcome) == ("pending", "not ready")
    for run, following in zip(runs, [*runs[1:], None], strict=True):
        # The plan says nothing of the lane: the fast path of an end learns of it from the run.
        moved = finish(world, run)
        assert moved.work.names == (() if following is None else ("a",))
    assert [run.status for run in runs] == ["succeeded"] * 3
    assert [name for name in world.names() if ":lane:" in name] == []


def test_of_a_hundred_ticks_at_once_each_instant_has_one_run_and_one_goes_on(world):
    plan = clock_plan()
    tick(world, plan, 1)
    answers = at_once(lambda number: tick(world, plan, 2 + number % 4, run_id=run_named(2 + number % 4))[0])
    begun = [each.run_id for each in answers if each.outcome == "started"]
    assert len(begun) == len(set(begun)) >= 1
    assert sorted(queued(world, LANE)) == sorted(begun)
    assert going_on(world, LANE) == [run_named(1)]


def test_a_schedule_queues_a_hundred_runs_and_passes_over_further_instants(world):
    plan = clock_plan()
    runs = [tick(world, plan, at)[1] for at in range(1, 102)]
    assert len(queued(world, LANE)) == 100
    with world.unchanged(but=[world.keys.slots]):
        skipped, _ = tick(world, plan, 102)
    assert (skipped.outcome, skipped.run_id) == ("skipped", runs[-1].id)
    with world.unchanged():
        assert tick(world, plan, 102)[0].outcome == "ticked"
    finish(world, runs[0])
    assert tick(world, plan, 103)[0].outcome == "started"


@pytest.mark.parametrize("overlap", ["skip", "allow"])
def test_the_first_run_that_queues_waits_for_one_that_was_started_before_the_schedule_did(world, overlap):
    plan = clock_plan()
    _, before = tick(world, plan, 1, overlap=overlap)
    _, behind = tick(world, plan, 2)
    assert (behind.status, behind.started.work.names) == ("pending", ())
    assert behind.look() == [], "the other one still goes on"
    finish(world, before)
    assert [(seen.kind, seen.node) for seen in behind.look()] == [("awake", ADMIT)], "of which no script knew that"
    assert behind.wake(ADMIT).work.names == ("a",)
    finish(world, behind)


def test_a_run_of_a_schedule_queues_again_when_it_is_resumed(world):
    plan = clock_plan()
    (_, first), (_, second) = tick(world, plan, 1), tick(world, plan, 2)
    follow(world, first.cancel())
    assert second.states() == {"a": "ready"}
    first.resume()
    assert (first.status, first.states(), queued(world, LANE)) == ("pending", {"a": "skipped"}, [first.id])
    assert finish(world, second).work.names == ("a",)
    finish(world, first)
    assert first.status == "succeeded"
