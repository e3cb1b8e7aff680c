"""spawn.lua, wake.lua, undo.lua and resume.lua of a tree: a child is a run of its own, and its parent goes on once."""

from __future__ import annotations

import pytest

from orchestrator import Node
from orchestrator.store.keys import child_id
from orchestrator.store.scripts.results import Moved
from tests.scripts_tree import MOST_BYTES, failure_json, parent_plan, shipping, starts
from tests.scripts_world import (
    Run,
    at_once,
    flow,
    line_plan,
    mapped_run,
    node,
    plan_of,
)


def test_a_child_and_the_wait_for_it_are_one_step(world, tree):
    run = world.run(parent_plan(), tags={"shop": "x"})
    token = run.hold("ship")

    spawned, child = tree.spawn(run, "ship", shipping(), token)

    assert (spawned.outcome, spawned.started.outcome) == ("waiting", "started")
    assert child.id == child_id(run.id, "ship", 1)
    record = run.node("ship")
    assert (record["state"], record["waits"], record["attempt"], record["child"]) == ("waiting", "child", 1, child.id)
    assert run.field("running") == "1", "its wait counts"
    assert (child.field("parent"), child.field("parent_node"), child.field("root")) == (run.id, "ship", run.id)
    assert (child.field("depth"), child.field("tags"), child.status) == ("1", '{"shop": "x"}', "pending")
    assert world.store.children(run.id) == [child.id]
    assert run.claim("ship").outcome == "held"
    assert world.claims() == []
    with world.unchanged():
        again, _ = tree.spawn(run, "ship", shipping(), token)
    assert (again.outcome, again.started) == ("waiting", None)
    run.cancel()
    child.cancel(only_late=True)
    tree.follow(Moved("", world.scripts.wake(run.id, run.plan.hash, "ship").work))
    assert (run.status, child.status, run.node("ship")["state"]) == ("cancelled", "cancelled", "skipped")


def test_the_end_of_a_child_wakes_its_parent_once(world, tree):
    run = world.run(parent_plan())
    _, child = tree.spawn(run, "ship", shipping(undone=False))

    moved = tree.finish(child)

    assert (moved.work.kind, moved.work.names) == ("parent", (run.id, "ship", run.plan.hash, "1"))
    assert tree.due() == [f"{run.id}|ship"]
    moved = tree.follow(moved)
    assert (moved.outcome, moved.work.names) == ("ended", ("last",))
    assert run.outputs()["ship"] == b"1"
    assert run.node("ship")["state"] == "succeeded"
    with world.unchanged():
        assert run.wake("ship").outcome == "asleep"
    assert tree.due() == []
    run.do("last")
    assert run.status == "succeeded"


def test_a_wake_before_the_end_and_a_lost_one_do_no_harm(world, tree):
    run = world.run(parent_plan(behind=False))
    _, child = tree.spawn(run, "ship", shipping())
    with world.unchanged():
        assert run.wake("ship").work.names == ()

    tree.finish(child)
    world.client.zrem(world.keys.timers, f"{run.id}|ship")

    assert run.look() == []
    assert tree.due() == [f"{run.id}|ship"]
    assert tree.follow(run.wake("ship")).outcome == "ended"
    assert run.status == "succeeded"


def test_a_hundred_starts_at_once_make_one_child(world, tree):
    run = world.run(parent_plan())
    token, plan = run.hold("ship"), shipping()

    made = at_once(lambda _: tree.spawn(run, "ship", plan, token)[0])

    assert [each.outcome for each in made] == ["waiting"] * 100
    assert len([each for each in made if each.started]) == 1
    assert len(world.store.children(run.id)) == 1
    child = Run(world, plan, world.store.children(run.id)[0], made[0].started)
    tree.follow(tree.finish(child))
    run.do("last")


def test_the_failure_of_a_child_is_its_node_s(world, tree):
    run = world.run(parent_plan(before=True))
    run.do("first")
    _, child = tree.spawn(run, "ship", shipping())
    child.do("pack")
    child.break_off("hand-over")

    moved = tree.follow(child.do("undo-pack"))

    assert (moved.work.kind, moved.work.names) == ("saga", ("undo-first",))
    error = world.store.run(run.id).error
    assert error.type == "orchestrator.errors.RunFailed"
    assert child.id in error.message
    run.do("undo-first")
    assert (run.status, child.status) == ("failed", "failed")


def test_a_child_that_succeeded_is_undone_in_the_order_of_ends(world, tree):
    run = world.run(parent_plan(before=True))
    run.do("first")
    _, child = tree.spawn(run, "ship", shipping())
    tree.follow(tree.finish(child))

    moved = run.break_off("last")

    assert (moved.work.kind, moved.work.names[:2]) == ("undo", (child.id, "ship.undo"))
    moved = tree.follow(moved)
    assert (moved.work.kind, moved.work.names) == ("saga", ("undo-hand-over", "undo-pack"))
    assert (run.node("ship")["state"], run.node("ship.undo")["state"]) == ("compensating", "waiting")
    assert run.look() == []
    moved = tree.follow(tree.undo(child, "undo-hand-over", "undo-pack"))
    assert (moved.work.kind, moved.work.names) == ("saga", ("undo-first",))
    assert (child.status, run.node("ship")["state"]) == ("cancelled", "compensated")
    run.do("undo-first")
    assert run.status == "failed"


def test_a_lost_undo_is_asked_again(world, tree):
    run = world.run(parent_plan())
    _, child = tree.spawn(run, "ship", shipping())
    tree.follow(tree.finish(child))
    run.break_off("last")
    world.client.zadd(world.keys.timers, {f"{run.id}|ship.undo": 1})

    moved = run.wake("ship.undo")

    assert moved.work.kind == "undo"
    tree.follow(moved)
    assert run.wake("ship.undo").work.kind == ""
    tree.follow(tree.undo(child, "undo-hand-over", "undo-pack"))
    assert run.status == "failed"


def test_a_saga_chain_ends_in_front_of_a_child(world, tree):
    builder = flow().then(node("a", undone="succeeded")).then(starts()).then(node("b", undone="succeeded"))
    run = world.run(plan_of(builder.then(node("c", attempts=1))))
    run.do("a")
    _, child = tree.spawn(run, "ship", shipping(undone=False))
    tree.follow(tree.finish(child))
    run.do("b")

    moved = run.break_off("c")

    assert moved.work.names == ("undo-b",)
    moved = tree.follow(run.do("undo-b"))
    assert moved.work.names == ("undo-a",), "a child without compensations is undone at once"
    run.do("undo-a")
    assert (run.status, child.status) == ("failed", "cancelled")


def test_what_a_child_could_not_undo_is_its_root_s_and_resume_repeats_only_that(world, tree):
    run = world.run(parent_plan())
    _, child = tree.spawn(run, "ship", shipping())
    tree.follow(tree.finish(child))
    tree.follow(run.break_off("last"))
    child.epoch = 2
    child.break_off("undo-hand-over")
    tree.follow(child.do("undo-pack"))
    assert (child.status, run.status) == ("compensation_failed", "compensation_failed")

    moved = tree.follow(run.resume())

    assert moved.work.names == ("undo-hand-over",)
    child.epoch = 3
    tree.follow(child.do("undo-hand-over"))
    assert (child.status, run.status, run.node("ship")["state"]) == ("cancelled", "failed", "compensated")


@pytest.mark.parametrize(
    "plan",
    [parent_plan(), plan_of(flow().then(starts().on_error(node("undo-ship"))).then(node("last")))],
    ids=["plain", "with a compensation"],
)
def test_a_child_that_fails_and_cannot_undo_makes_its_root_end_so_and_a_resume_repeats_what_it_owes(world, tree, plan):
    run = world.run(plan)
    _, child = tree.spawn(run, "ship", shipping())
    child.do("pack")
    child.break_off("hand-over")
    tree.follow(child.break_off("undo-pack"))
    assert (child.status, run.status) == ("compensation_failed", "compensation_failed")

    moved = tree.follow(run.resume())

    assert moved.work.names == ("undo-pack",)
    child.epoch = 2
    tree.follow(child.do("undo-pack"))
    assert (child.status, run.status, run.count("started", "undo-ship")) == ("failed", "failed", 0)


def test_a_run_that_is_ending_ends_its_open_children_first(world, tree):
    run = world.run(plan_of(flow().then_parallel("both", starts(), node("beside", attempts=1)).then(node("last"))))
    _, child = tree.spawn(run, "ship", shipping())
    child.do("pack")

    run.break_off("beside")

    assert (run.node("ship")["state"], run.status) == ("waiting", "compensating")
    assert tree.due() == [f"{child.id}|"]
    child.cancel(only_late=True)
    moved = tree.follow(child.do("undo-pack"))
    assert (moved.work.kind, run.node("ship")["state"], run.status) == ("", "failed", "failed")


def test_a_child_that_still_succeeds_in_an_ending_run_is_rolled_back(world, tree):
    run = world.run(plan_of(flow().then_parallel("both", starts(), node("beside", attempts=1)).then(node("last"))))
    _, child = tree.spawn(run, "ship", shipping(undone=False))
    child.do("pack")
    token = child.hold("hand-over")
    run.break_off("beside")

    tree.follow(child.commit("hand-over", token))

    assert (run.node("ship")["state"], child.status, run.status) == ("compensated", "cancelled", "failed")


def test_nothing_is_started_in_a_run_that_is_ending(world, tree):
    run = world.run(parent_plan())
    token = run.hold("ship")
    run.cancel()

    spawned, _ = tree.spawn(run, "ship", shipping(), token)

    assert (spawned.outcome, spawned.started) == ("ended", None)
    assert (run.node("ship")["state"], run.status) == ("skipped", "cancelled")
    assert world.store.children(run.id) == []


def test_resume_takes_up_the_last_child_and_one_that_was_undone_is_followed_by_another(world, tree):
    run = world.run(parent_plan())
    _, child = tree.spawn(run, "ship", shipping(undone=False))
    child.do("pack")
    tree.follow(child.break_off("hand-over"))
    assert run.status == "failed"

    run.resume()
    spawned, same = tree.spawn(run, "ship", shipping(undone=False))

    assert (spawned.outcome, spawned.started, same.id) == ("waiting", None, child.id)
    assert spawned.work.kind == "resume"
    tree.follow(Moved("", spawned.work))
    child.epoch = 2
    tree.follow(child.do("hand-over"))
    tree.follow(run.break_off("last"))
    assert (run.status, child.status) == ("failed", "cancelled")

    run.resume()
    spawned, other = tree.spawn(run, "ship", shipping(undone=False))

    assert other.id == child_id(run.id, "ship", 2)
    tree.follow(tree.finish(other))
    run.do("last")
    assert run.status == "succeeded"
    assert world.store.children(run.id) == [child.id, other.id]


def test_children_are_kept_as_long_as_their_root(world, tree):
    run = world.run(plan_of(flow("top").then(starts("order", "f"))))
    _, middle = tree.spawn(run, "order", parent_plan())
    _, child = tree.spawn(middle, "ship", shipping(undone=False))
    tree.follow(tree.finish(child))
    tree.tend()
    assert world.client.pttl(world.keys.run(child.id)) == -1
    assert world.plan_ttl(child.plan) == -1
    assert world.scripts.delete_run(child.id, child.plan.hash) == "kept"
    tree.follow(middle.do("last"))

    assert run.status == "succeeded"
    tree.tend()

    assert world.client.pttl(world.keys.run(child.id)) > 0
    assert world.plan_ttl(child.plan) > 0
    undone = world.scripts.undo(run.id, run.plan.hash, token="t", failure=failure_json())
    tree.tend()
    assert world.client.pttl(world.keys.run(child.id)) == -1
    assert world.plan_ttl(child.plan) == -1
    tree.follow(undone)
    assert (run.status, middle.status, child.status) == ("cancelled", "cancelled", "cancelled")


def test_what_cannot_be_started_is_no_child(world, tree):
    run = world.run(parent_plan())
    token = run.hold("ship")
    with world.unchanged():
        deep, _ = tree.spawn(run, "ship", shipping(), token, most_depth=0)
        assert (deep.outcome, deep.detail) == ("too deep", "1")
        gone, _ = tree.spawn(run, "ship", shipping(), token, send_plan=False)
        assert gone.outcome == "no plan"
    key = (run.id, run.plan.hash, "ship")

    parked = world.scripts.children.wait_for_flow(*key, token, delay_ms=5000, follows=False)

    assert parked.outcome == "parked"
    record = run.node("ship")
    assert (record["state"], record["attempt"], record["unannounced"]) == ("parked", 0, True)
    assert world.scripts.children.wait_for_flow(*key, token, delay_ms=5000, follows=False).outcome == "fenced"
    run.cancel()
    assert run.node("ship")["state"] == "skipped"


def test_a_result_that_is_too_large_fails_its_node(world, tree):
    run = world.run(parent_plan())
    _, child = tree.spawn(run, "ship", line_plan("only"))

    tree.follow(child.commit("only", child.hold("only"), b'"' + b"x" * MOST_BYTES + b'"'))

    assert (run.status, child.status) == ("failed", "cancelled"), "the child is undone"
    assert world.store.run(run.id).error.type == "orchestrator.errors.PayloadTooLarge"


def test_the_result_of_a_map_is_put_together(world, tree):
    run = world.run(parent_plan())
    mapped = mapped_run(world, 0)
    plan = plan_of(flow("listed").then_map("all", Node("item", len), over=lambda _state: []))
    mapped.cancel()
    _, child = tree.spawn(run, "ship", plan)
    token = child.hold("all.over")
    world.store.stage_items(child.id, token, [b"0", b"1", b"2"])
    child.commit("all.over", token, choice=3)
    moved = Moved("")
    for _ in range(3):
        claimed = "t" * 31 + str(_)
        found = child.claim("item", claimed)
        moved = child.commit(f"item[{found.index}]", claimed, str(found.index * 10).encode())

    tree.follow(moved)

    assert run.outputs()["ship"] == b"[0,10,20]"
    run.do("last")


def test_a_map_of_children_keeps_its_width(world, tree):
    plan = plan_of(flow().then_map("all", starts("ship"), over=lambda _state: [], max_concurrency=2).then(node("last")))
    run = world.run(plan)
    token = run.hold("all.over")
    world.store.stage_items(run.id, token, [b"0", b"1", b"2"])
    run.commit("all.over", token, choice=3)
    children = []
    for number in range(2):
        item = f"{number}" * 32
        assert run.claim("ship", item).index == number
        children.append(tree.spawn(run, f"ship[{number}]", shipping(undone=False), item)[1])
    assert run.claim("ship").outcome == "full"

    moved = tree.follow(tree.finish(children[0]))

    assert moved.work.names == ("ship",), "the next item is asked for"
    assert run.claim("ship", "2" * 32).index == 2
    children.append(tree.spawn(run, "ship[2]", shipping(undone=False), "2" * 32)[1])
    tree.follow(tree.finish(children[1]))
    moved = tree.follow(tree.finish(children[2]))
    assert moved.work.names == ("last",)
    tree.follow(run.break_off("last", delay_ms=-1))
    assert [child.status for child in children] == ["cancelled"] * 3
    assert run.status == "failed"
