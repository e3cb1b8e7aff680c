"""due_looks: runs that are due for a look; those that wait and are whole need no other one."""

from __future__ import annotations

import pytest

from tests.scripts_world import line_plan

COUNT = 20


def due(world, *runs, at=1):
    """Let runs be due for a look since an instant."""
    world.client.zadd(world.keys.live, {run.id: at for run in runs})


def waiting(world):
    """A run that waits for an instant."""
    run = world.run(line_plan("a", "b"))
    run.do("a")
    run.break_off("b", delay_ms=60_000_000)
    due(world, run)
    return run


def looked_at(world):
    """The runs that a full look is left to."""
    return [run_id for run_id, _ in world.scripts.due_looks(count=COUNT)[1]]


def test_a_run_that_waits_is_looked_at_ever_more_seldom(world):
    run = waiting(world)
    waits = []
    for _ in range(4):
        assert world.scripts.due_looks(count=COUNT) == (False, [])
        waits.append(world.client.zscore(world.keys.live, run.id) - world.store.now_ms())
        due(world, run, at=1 + waits[-1] % 1)
    assert all(
        longest - 1900 < wait <= longest + 1 for wait, longest in zip(waits, [2000, 4000, 8000, 16_000], strict=True)
    )


def test_what_is_ready_or_runs_is_left_to_a_full_look_with_its_plan(world):
    ready, running = world.run(line_plan("a")), world.run(line_plan("a"))
    running.hold("a")
    due(world, ready, running)
    assert dict(world.scripts.due_looks(count=COUNT)[1]) == {run.id: run.plan.hash for run in (ready, running)}


def test_a_timer_that_an_index_has_lost_is_put_back(world):
    run = waiting(world)
    world.client.delete(world.keys.timers)
    assert looked_at(world) == []
    assert world.members(world.keys.timers) == [f"{run.id}|b"]


@pytest.mark.parametrize("key", ["run", "nodes", "outputs", "plan"])
@pytest.mark.parametrize("value", ["gone", "of another type"])
def test_a_run_of_which_something_is_gone_is_left_to_a_full_look(key, value, world):
    run = waiting(world)
    name = world.keys.plan(run.plan.hash) if key == "plan" else getattr(world.keys, key)(run.id)
    world.client.rename(name, f"{name}-whole")
    if value != "gone":
        world.client.set(name, "x")
    assert looked_at(world) == [run.id]
    world.client.rename(f"{name}-whole", name)


def test_some_of_the_newest_are_found_before_a_multitude(world):
    many = [world.run(line_plan("a")) for _ in range(COUNT + 5)]
    due(world, *many)
    due(world, many[-1], at=2)
    is_full, found = world.scripts.due_looks(count=COUNT)
    assert is_full
    assert {run_id for run_id, _ in found} > {many[-1].id}
    assert len(found) == COUNT + 1
