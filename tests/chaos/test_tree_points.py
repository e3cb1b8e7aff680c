"""kill -9 of the leader while it passes on, row by row, to the runs of a tree what the one at the top has come to.

How long they are kept, that they live again, and that they are held: each run has a timer `:tree`, which writes those
of its children.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chaos.world import check_keys
from tests.harness import await_children, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator import FlowRun
    from tests.chaos.world import World

ROWS = 3
"""Of a tree: the run at the top, its child, and the child of that one."""
KILLS = [(point, hit) for point in ("before_wake", "after_wake") for hit in range(1, ROWS + 1)]
IN_MAKE_TEST = ("after_wake", 2)
"""In the middle: the rows of the children are written, and that of the last one is not."""


def runs_of(run: FlowRun) -> Iterator[FlowRun]:
    yield run
    for child in run.children():
        yield from runs_of(child)


def kept(world: World, run: FlowRun) -> list[bool]:
    """Of each run of a tree: whether it is kept for its retention only."""
    store = run._engine.store
    return [world.client.pttl(store.keys.run(each.id)) > 0 for each in runs_of(run)]


def kill(world: World, point: str, hit: int) -> None:
    """Let the leader die at a row of a tree, from now on."""
    await_children(world.client)  # what was written before is not what is meant
    world.fail_at(f"{point}@:tree:kill9:{hit}")


def await_death(world: World, hit: int) -> None:
    wait_until(lambda: world.hits >= hit, "the point is reached", timeout=30)


def check_tree(world: World, run: FlowRun) -> None:
    """Every run of the tree goes with the one at the top, once, and lets its plan go."""
    check_keys(world.client)
    runs, store = list(runs_of(run)), run._engine.store
    assert len(runs) == ROWS
    assert kept(world, run) == [True] * ROWS
    for each in runs:
        record = store.run(each.id)
        assert world.client.zscore(store.keys.expiring, f"{record.status}|{record.flow}|{each.id}") is not None
        assert int(world.client.hget(store.keys.plan(record.plan), "live") or 0) == 0, record.flow


@pytest.mark.parametrize(
    ("point", "hit"),
    [each if each == IN_MAKE_TEST else pytest.param(*each, marks=pytest.mark.chaos_long) for each in KILLS],
)
def test_a_tree_is_kept_as_long_as_its_root_though_the_leader_is_killed(point, hit, world: World):
    kill(world, point, hit)
    run = world.orchestrator().start("journey")
    assert run.result(int, timeout=60) == 4
    await_death(world, hit)
    check_tree(world, run)


@pytest.mark.chaos_long
@pytest.mark.parametrize(("point", "hit"), KILLS)
def test_a_tree_lives_again_with_its_root_though_the_leader_is_killed(point, hit, world: World):
    run = world.orchestrator().start("journey")
    run.wait(timeout=60)
    check_tree(world, run)
    kill(world, point, hit)
    run.undo("not wanted")
    assert run.wait(timeout=60) == "cancelled"
    await_death(world, hit)
    check_tree(world, run)
    assert [each.status for each in runs_of(run)] == ["cancelled"] * ROWS
    undone = [line.split("/")[1] for line in world.ledger.names("undo")]
    assert list(dict.fromkeys(undone)) == ["leg-2", "leg-1", "first"]


@pytest.mark.chaos_long
@pytest.mark.parametrize(("point", "hit"), KILLS)
def test_a_tree_is_held_with_its_root_though_the_leader_is_killed(point, hit, world: World):
    run = world.orchestrator().start("outing")
    waiting = world.orchestrator().waiting
    (leaf,) = wait_until(lambda: [row.run_id for row in waiting()], "the tree is whole", timeout=30)
    kill(world, point, hit)
    run.pause("somebody has to look")
    wait_until(lambda: {each.status for each in runs_of(run)} == {"paused"}, "all of it is held", timeout=30)
    await_death(world, hit)
    wait_until(world.is_whole, "workers ready", timeout=60)
    kill(world, point, hit)
    run.resume()
    await_death(world, hit)
    world.orchestrator().get(leaf).signal("paid", 3)
    assert run.result(int, timeout=60) == 5
    check_tree(world, run)
