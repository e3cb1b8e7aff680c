"""Repetitions of a flow node, and children of a run that is held or gone, in spawn, wake, undo and resume.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.store.keys import child_id
from orchestrator.store.scripts.results import Moved
from tests.scripts_tree import Tree, failure_json, parent_plan, shipping, starts
from tests.scripts_world import (
    Run,
    flow,
    new_token,
    node,
    plan_of,
)

if TYPE_CHECKING:
    from orchestrator.definition.plan import Plan


def climbing() -> Plan:
    """A flow node that repeats, between a node that can be undone and one that may fail."""
    climb = starts("climb", "shipping").with_repeat(until=bool)
    return plan_of(flow().then(node("first", undone="succeeded")).then(climb).then(node("last", attempts=1)))


def climb(tree: Tree, run: Run, iteration: int, *, is_last: bool = False) -> Run:
    """Make an iteration: its child, and the attempt that says whether there is another one."""
    token = new_token()
    claimed = run.claim("climb", token)
    assert (claimed.index, claimed.item) == (iteration, b"1" if iteration else b"null")
    _, child = tree.spawn(run, "climb", shipping(), token)
    assert tree.follow(tree.finish(child)).work.names == ("climb",)
    token = new_token()
    judged = run.claim("climb", token)
    assert (judged.outcome, judged.index, judged.item) == ("run", iteration, b"!1")
    moved = run.close("climb", token, "1") if is_last else run.turn("climb", token, "1")
    assert moved.work.names == (("last",) if is_last else ("climb",))
    return child


def test_the_iterations_of_a_flow_node_are_children_and_all_of_them_are_undone(world, tree):
    run = world.run(climbing())
    run.do("first")
    children = [climb(tree, run, number, is_last=number == 2) for number in range(3)]
    assert run.outputs()["climb"] == b"1"
    assert [each.decode() for each in world.client.hkeys(f"{world.keys.run(run.id)}:children")].count("climb|") == 0

    moved = tree.follow(run.break_off("last"))

    for child in reversed(children):
        assert moved.work.names == ("undo-hand-over", "undo-pack")
        moved = tree.follow(tree.undo(child, "undo-hand-over", "undo-pack"))
    assert moved.work.names == ("undo-first",)
    run.do("undo-first")
    assert (run.status, [child.status for child in children]) == ("failed", ["cancelled"] * 3)
    run.resume()
    run.do("first")
    again = climb(tree, run, 0, is_last=True)
    assert again.id == child_id(run.id, "climb", 4)
    run.do("last")
    assert run.status == "succeeded"


def test_a_repetition_that_ends_early_undoes_what_it_has_done(world, tree):
    run = world.run(climbing())
    run.do("first")
    child = climb(tree, run, 0)
    token = run.hold("climb")
    _, second = tree.spawn(run, "climb", shipping(), token)
    second.break_off("pack")

    moved = tree.follow(Moved("", world.scripts.wake(run.id, run.plan.hash, "climb").work))

    assert moved.work.names == ("undo-hand-over", "undo-pack")
    tree.follow(tree.undo(child, "undo-hand-over", "undo-pack"))
    run.do("undo-first")
    assert (run.status, child.status, second.status) == ("failed", "cancelled", "failed")


def test_resume_goes_on_with_the_iteration_that_is_missing(world, tree):
    run = world.run(plan_of(flow().then(starts("climb").on_error(node("undo-climb")).with_repeat(until=bool))))
    first = climb_alone(tree, run)
    token = run.hold("climb")
    _, second = tree.spawn(run, "climb", shipping(undone=False), token)
    tree.follow(second.break_off("pack"))
    assert (run.status, first.status) == ("failed", "succeeded")

    run.resume()
    spawned, same = tree.spawn(run, "climb", shipping(undone=False))

    assert (spawned.work.kind, same.id) == ("resume", second.id)
    tree.follow(Moved("", spawned.work))
    second.epoch = 2
    tree.follow(tree.finish(second))
    run.close("climb", run.hold("climb"), "1")
    assert run.status == "succeeded"


def climb_alone(tree: Tree, run: Run) -> Run:
    token = run.hold("climb")
    _, child = tree.spawn(run, "climb", shipping(undone=False), token)
    tree.follow(tree.finish(child))
    run.turn("climb", run.hold("climb"), "1")
    return child


def test_a_child_is_held_as_long_as_its_parent(world, tree):
    run = world.run(plan_of(flow("top").then(starts("order", "f"))))
    _, middle = tree.spawn(run, "order", parent_plan())
    _, child = tree.spawn(middle, "ship", shipping(undone=False))

    assert world.scripts.pause(run.id, run.plan.hash, reason="wait") == "paused"
    tree.tend()

    assert [each.status for each in (run, middle, child)] == ["paused"] * 3
    assert child.claim("pack").outcome == "paused"
    run.resume()
    tree.tend()
    assert [each.status for each in (run, middle, child)] == ["running"] * 3
    assert child.node("pack")["state"] == "ready"
    tree.follow(tree.finish(child))
    tree.follow(middle.do("last"))
    assert run.status == "succeeded"


def test_a_child_that_is_started_while_its_parent_is_held_is_held_too(world, tree):
    run = world.run(parent_plan(behind=False))
    token = run.hold("ship")
    world.scripts.pause(run.id, run.plan.hash, reason="wait")

    _, child = tree.spawn(run, "ship", shipping(undone=False), token)
    tree.tend()

    assert (child.status, child.claim("pack").outcome) == ("paused", "paused")
    child.resume()
    tree.follow(tree.finish(child))
    assert (child.status, run.status) == ("succeeded", "succeeded"), "it may be resumed by itself"


def test_a_child_of_a_run_that_was_abandoned_is_not_kept_for_ever(world, tree):
    run = world.run(parent_plan())
    _, child = tree.spawn(run, "ship", shipping(undone=False))
    options = {"verdict": "failed", "failure": failure_json()}
    world.scripts.abandon(run.id, run.plan.hash, ["ship"], is_last=False, **options)
    world.scripts.abandon(run.id, run.plan.hash, [], is_last=True, **options)
    assert (run.status, run.node("ship")["state"]) == ("failed", "unknown")
    tree.tend()

    assert f"{child.id}|" in tree.due()
    tree.follow(child.cancel(only_late=True))
    tree.tend()

    assert child.status == "cancelled"
    assert run.wake("ship").outcome == "asleep"
    assert world.client.pttl(world.keys.run(child.id)) > 0
