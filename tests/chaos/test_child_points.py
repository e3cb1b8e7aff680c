"""kill -9 at each named point of a child: where it starts and ends, where its parent is woken, where it is undone.

And where another one follows a child that has failed, as the retry policy of its node has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chaos.world import check_keys, check_run
from tests.harness import wait_until

if TYPE_CHECKING:
    from orchestrator import FlowRun
    from tests.chaos.world import World


def succeeded(run: FlowRun) -> list[str]:
    return [event.node for event in run.history() if event.event == "succeeded"]


def the_child(run: FlowRun) -> FlowRun:
    """The one child: no crash has started another one."""
    (child,) = run.children()
    return child


@pytest.mark.parametrize(
    ("flow", "order"),
    [
        ("there", "before_spawn@ride:kill9:1"),
        ("there", "after_spawn@ride:kill9:1"),
        ("there", "after_store@ride:kill9:1"),
        ("there", "after_store@leg-2:kill9:1"),
        ("there", "before_parent@ride:kill9:1"),
        ("there", "after_parent@ride:kill9:1"),
        # Of fused flows the process has kept what comes next, and no message of it is on its way.
        ("there-fused", "after_spawn@ride:kill9:1"),
        ("there-fused", "before_claim@leg-1:kill9:1"),
        ("there-fused", "before_claim@last:kill9:1"),
        # There the end of the child and what follows it in its parent are one step.
        ("there-fused", "before_store@leg-2:kill9:1"),
        ("there-fused", "after_store@leg-2:kill9:1"),
    ],
)
def test_a_worker_killed_on_the_way_into_a_child_or_out_of_it_loses_nothing(flow, order, world: World):
    world.fail_at(order)
    run = world.orchestrator().start(flow)
    assert run.result(int, timeout=60) == 3
    assert world.hits, "the point was not reached"
    child = the_child(run)
    assert (succeeded(run), succeeded(child)) == (["first", "ride", "last"], ["leg-1", "leg-2"])
    check_keys(world.client)
    check_run(run, "succeeded")
    check_run(child, "succeeded")


@pytest.mark.parametrize(
    "order",
    [
        "before_undo@ride.undo:kill9:1",
        "after_undo@ride.undo:kill9:1",
        "after_store@undo-leg-1:kill9:1",
        "before_parent@ride:kill9:2",
        "after_parent@ride:kill9:2",
    ],
)
def test_a_worker_killed_while_a_child_is_undone_undoes_all_of_it_once(order, world: World):
    world.fail_at(order)
    run = world.orchestrator().start("and-back")
    assert run.wait(timeout=60) == "failed"
    wait_until(lambda: world.hits, "the point is reached")
    child = the_child(run)
    assert child.status == "cancelled"
    assert [name for name in succeeded(child) if name.startswith("undo")] == ["undo-leg-2", "undo-leg-1"]
    assert [name for name in succeeded(run) if "undo" in name] == ["ride.undo", "undo-first"]
    assert sorted(line.split("/")[1] for line in world.ledger.names("undo")) == ["first", "leg-1", "leg-2"]
    check_keys(world.client)
    check_run(run, "failed")


@pytest.mark.parametrize(
    ("flow", "order"),
    [
        ("laps", "before_spawn@lap-by-lap:kill9:2"),
        ("laps", "after_spawn@lap-by-lap:kill9:2"),
        ("laps", "after_parent@lap-by-lap:kill9:2"),
        ("laps", "before_store@lap-by-lap:kill9:2"),
        ("laps", "after_store@lap-by-lap:kill9:4"),
        ("laps-fused", "after_parent@lap-by-lap:kill9:2"),
    ],
)
def test_a_worker_killed_between_iterations_starts_each_child_once(flow, order, world: World):
    world.fail_at(order)
    run = world.orchestrator().start(flow, 0)
    assert run.result(int, timeout=60) == 3
    assert world.hits, "the point was not reached"
    assert [child.result(int, timeout=1) for child in run.children()] == [1, 2, 3]
    check_keys(world.client)


def test_a_cancel_reaches_a_child_whose_worker_is_killed(world: World):
    world.fail_at("before_store@leg-1:kill9:1")
    run = world.orchestrator().start("there")
    wait_until(run.children, "the child has started", timeout=30)
    run.cancel("enough")
    assert run.wait(timeout=60) == "cancelled"
    assert the_child(run).status == "cancelled"
    check_keys(world.client)


@pytest.mark.parametrize(
    ("flow", "order"),
    [
        # The first child fails, and undoes what it has done.
        pytest.param("there-again", "before_fail@leg-2:kill9:1", marks=pytest.mark.chaos_long),
        pytest.param("there-again", "after_store@undo-leg-1:kill9:1", marks=pytest.mark.chaos_long),
        # Its parent notes that, and parks the node.
        pytest.param("there-again", "before_parent@ride:kill9:1", marks=pytest.mark.chaos_long),
        ("there-again", "after_parent@ride:kill9:1"),
        # The node starts another child.
        pytest.param("there-again", "before_claim@ride:kill9:2", marks=pytest.mark.chaos_long),
        pytest.param("there-again", "after_claim@ride:kill9:2", marks=pytest.mark.chaos_long),
        ("there-again", "before_spawn@ride:kill9:2"),
        pytest.param("there-again", "after_spawn@ride:kill9:2", marks=pytest.mark.chaos_long),
        # That one ends.
        pytest.param("there-again", "before_parent@ride:kill9:2", marks=pytest.mark.chaos_long),
        pytest.param("there-again", "after_parent@ride:kill9:2", marks=pytest.mark.chaos_long),
        pytest.param("there-again-fused", "after_parent@ride:kill9:1", marks=pytest.mark.chaos_long),
        pytest.param("there-again-fused", "after_spawn@ride:kill9:2", marks=pytest.mark.chaos_long),
        # The leader wakes the node.
        pytest.param("there-again", "before_wake@ride:kill9:1", marks=pytest.mark.chaos_long),
        pytest.param("there-again", "after_wake@ride:kill9:1", marks=pytest.mark.chaos_long),
    ],
)
def test_a_worker_killed_between_a_child_that_failed_and_the_next_one_starts_that_once(flow, order, world: World):
    world.fail_at(order)
    run = world.orchestrator().start(flow)
    assert run.result(int, timeout=60) == 3
    assert world.hits >= int(order.rpartition(":")[2]), "the point was not reached"
    failed, followed = run.children()
    assert (failed.status, followed.status) == ("failed", "succeeded")
    story = [event.event for event in run.history() if event.node == "ride"]
    told = [each for each in story if each in {"child", "retrying", "succeeded", "failed"}]
    assert told == ["child", "retrying", "child", "succeeded"]
    assert (succeeded(run), succeeded(followed)) == (["first", "ride", "last"], ["leg-1", "leg-2"])
    assert set(world.ledger.names("undo")) == {f"{failed.id}/leg-1/1"}, "what the first one did, and nothing else"
    check_keys(world.client)
    check_run(run, "succeeded")
    check_run(failed, "failed")
    check_run(followed, "succeeded")
