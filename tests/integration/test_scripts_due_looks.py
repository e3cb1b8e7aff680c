"""due_looks: runs that are due for a look; those that wait and are whole need no other one."""

from __future__ import annotations

import pytest

from orchestrator.store.scripts.results import Due, Look, Seen
from tests.scripts_world import fan_plan, line_plan

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
    return [each.run_id for each in world.scripts.due_looks(count=COUNT)[1] if each.look is None]


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


def sent_again(world):
    run = world.run(line_plan("a"))
    run.age("a", 1000)
    run.republish("a")
    due(world, run)
    return run


def test_what_runs_or_waits_for_a_worker_that_has_come_is_left_to_a_full_look_with_its_plan(world):
    again, running = sent_again(world), world.run(fan_plan(2))
    running.hold("m-0")
    due(world, running)
    found = world.scripts.due_looks(count=COUNT, joined_ms=again.node("a")["sent"] + 1)[1]
    assert {each.run_id: (each.plan, each.look) for each in found} == {
        run.id: (run.plan.hash, None) for run in (again, running)
    }


def test_what_is_ready_is_found_as_by_a_full_look(world):
    run = world.run(fan_plan(3))
    run.age("m-1", 1000)
    run.age("m-2", 6000)
    run.break_off("m-0", delay_ms=60_000_000)
    due(world, run)
    found = world.scripts.due_looks(count=COUNT)[1]
    next_look = world.client.zscore(world.keys.live, run.id) - world.store.now_ms()
    assert found == [Due(run.id, run.plan.hash, Look("looked", 1, tuple(run.look())))]
    assert {seen.node for each in found for seen in each.look.findings} == {"m-1", "m-2"}
    assert next_look <= 1001, "the one that became ready last says when"


def test_what_was_sent_again_is_found_when_its_back_off_is_over(world):
    run = sent_again(world)
    sent = run.node("a")["sent"]
    assert world.scripts.due_looks(count=COUNT, joined_ms=sent) == (False, [])
    assert world.client.zscore(world.keys.live, run.id) <= run.node("a")["again"] + 1
    run.age("a", 2000)
    due(world, run)
    look = Look("looked", 1, (Seen("ready", "a", str(sent)),))
    assert world.scripts.due_looks(count=COUNT, joined_ms=sent) == (False, [Due(run.id, run.plan.hash, look)])


def test_what_has_just_become_ready_is_looked_at_within_a_second(world):
    run = world.run(line_plan("a"))
    due(world, run)
    assert world.scripts.due_looks(count=COUNT) == (False, [])
    assert 1 < world.client.zscore(world.keys.live, run.id) <= world.store.now_ms() + 1001


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
    for run in many:
        run.age("a", 1000)
    due(world, *many)
    due(world, many[-1], at=2)
    is_full, found = world.scripts.due_looks(count=COUNT)
    assert is_full
    assert {each.run_id for each in found} > {many[-1].id}
    assert len(found) == COUNT + 1
