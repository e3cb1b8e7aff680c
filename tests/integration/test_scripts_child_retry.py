"""Retries of a flow node, in spawn and wake.lua: another child follows one that failed, as the policy has it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from orchestrator import RetryPolicy
from tests.scripts_tree import shipping, starts
from tests.scripts_world import flow, node, plan_of

TWICE = RetryPolicy(maximum_attempts=2)


@pytest.fixture
def run(world):
    builder = flow().then(node("first", undone="succeeded")).then(starts().with_retry(TWICE))
    made = world.run(plan_of(builder.then(node("last", attempts=1))))
    made.do("first")
    return made


def fail(tree, child):
    """Let a child fail and undo what it has done; returns what that left for its parent."""
    child.do("pack")
    child.break_off("hand-over")
    return tree.follow(child.do("undo-pack"))


def wake_in_time(world, run):
    """Let the delay be over."""
    record = run.node("ship")
    assert world.client.zscore(world.keys.timers, f"{run.id}|ship") == record["due"] > world.store.now_ms()
    now = world.store.now_ms()
    world.client.hset(world.keys.nodes(run.id), "ship", json.dumps(record | {"due": now}))
    return run.wake("ship")


def test_another_child_follows_one_that_failed(world, tree, run):
    _, first = tree.spawn(run, "ship", shipping())

    assert fail(tree, first).work.names == ()

    assert (run.node("ship")["state"], run.status, run.field("running")) == ("parked", "running", "0")
    told = [row["event"] for _, row in world.store.upkeep.node_events.unsent(count=1000) if row["run"] == run.id]
    assert told == ["waits", "over"], "for monitors the wait is over, and no hook hears of an end"
    (retried,) = [each for each in world.store.history(run.id) if each.event == "retrying"]
    assert (retried.attempt, first.id in retried.error) == (1, True)
    assert first.id in world.store.last_failure(run.id, "ship").message
    assert run.wake("ship").outcome == "asleep"
    assert wake_in_time(world, run).work.names == ("ship",)
    spawned, second = tree.spawn(run, "ship", shipping())
    assert (spawned.outcome, second.id != first.id) == ("waiting", True)
    assert tree.follow(tree.finish(second)).work.names == ("last",)
    assert run.outputs()["ship"] == b"1"
    moved = tree.follow(run.break_off("last"))
    assert moved.work.names == ("undo-hand-over", "undo-pack"), "of the one that succeeded"
    tree.follow(tree.undo(second, "undo-hand-over", "undo-pack"))
    run.do("undo-first")
    assert (run.status, first.status, second.status) == ("failed", "failed", "cancelled")


def test_no_child_follows_the_last_one_and_a_resume_takes_that_up(world, tree, run):
    tree_of = []
    for _ in range(2):
        _, child = tree.spawn(run, "ship", shipping())
        tree_of.append(child)
        moved = fail(tree, child)
        if len(tree_of) == 1:
            wake_in_time(world, run)
    assert moved.work.names == ("undo-first",)
    run.do("undo-first")
    assert run.status == "failed"

    run.resume()
    run.do("first")
    spawned, _ = tree.spawn(run, "ship", shipping())

    assert (spawned.outcome, spawned.started, tree.last(run, "ship")) == ("waiting", None, tree_of[-1].id)
    assert (spawned.work.kind, spawned.work.names[0]) == ("resume", tree_of[-1].id)
    assert tree.follow(spawned).work.names == ("pack",)
    run.cancel()
    tree.follow(replace(tree_of[-1], epoch=2).cancel())
    run.do("undo-first")


def test_a_child_without_time_is_followed_by_another_one(world, tree, run):
    _, child = tree.spawn(run, "ship", shipping(), lasts_ms=5000)
    record = run.node("ship")
    world.client.hset(world.keys.nodes(run.id), "ship", json.dumps(record | {"due": world.store.now_ms()}))
    run.wake("ship")
    tree.follow(child.cancel(only_late=True))
    assert run.node("ship")["state"] == "parked"
    assert "longer than its timeout" in world.store.last_failure(run.id, "ship").message
    assert wake_in_time(world, run).work.names == ("ship",)
    _, second = tree.spawn(run, "ship", shipping(undone=False), lasts_ms=5000)
    assert tree.follow(tree.finish(second)).work.names == ("last",)
    run.do("last")


def test_what_was_cancelled_by_somebody_is_not_tried_again(tree, run):
    _, child = tree.spawn(run, "ship", shipping())
    assert tree.follow(child.cancel()).work.names == ("undo-first",)
    run.do("undo-first")
    assert (child.status, run.status, run.node("ship")["state"]) == ("cancelled", "failed", "failed")


def test_a_run_that_ends_meanwhile_starts_no_other_child(tree, run):
    _, child = tree.spawn(run, "ship", shipping())
    fail(tree, child)
    run.cancel()
    run.do("undo-first")
    assert (run.status, run.node("ship")["state"]) == ("cancelled", "failed")


def test_a_claim_that_is_lost_before_it_has_started_a_child_counts_for_none(world, tree, run):
    run.lose("ship", run.hold("ship"))
    _, first = tree.spawn(run, "ship", shipping())
    fail(tree, first)
    assert run.node("ship")["state"] == "parked", "the second of two follows"
    wake_in_time(world, run)
    run.lose("ship", run.hold("ship"))
    _, second = tree.spawn(run, "ship", shipping(undone=False))
    assert second.id != first.id
    assert tree.follow(tree.finish(second)).work.names == ("last",)
    run.do("last")


def test_claims_that_are_lost_again_and_again_end_the_node(run):
    for _ in range(3):
        run.lose("ship", run.hold("ship"))
    assert run.node("ship")["state"] == "ready"
    run.lose("ship", run.hold("ship"))
    assert run.node("ship")["state"] == "unknown"
    run.do("undo-first")
    assert run.status == "failed"
