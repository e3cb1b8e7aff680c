"""kill -9 at each named point between two messages: the run goes on, and only the killed attempt repeats."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.chaos.world import check_keys, check_run
from tests.harness import child_pids, wait_until

# Point and node, and how often the function of that node may run.
POINTS = {
    "before_claim@link-2": 1,
    "after_claim@link-2": 1,
    "before_store@link-2": 2,
    "after_store@link-2": 1,
    "after_publish@link-2": 1,
    "before_store@member-5": 2,
    "after_store@member-5": 1,
    "after_publish@member-5": 1,
    "after_store@join": 1,
}
MODES = pytest.mark.parametrize("mode", ["", "-fused"], ids=["canvas", "fused"])
PHASES = ("before_claim", "after_claim", "before_store", "after_store", "after_publish")


@pytest.mark.parametrize(
    ("point", "mode"),
    [pytest.param(point, "", id=f"{point}-canvas") for point in POINTS]
    + [
        pytest.param(point, "-fused", id=f"{point}-fused", marks=pytest.mark.chaos_long if "claim" in point else ())
        for point in POINTS
        if "link" in point
    ],
)
def test_a_pool_process_killed_at_a_point_repeats_at_most_its_own_node(point, mode, world):
    node = point.partition("@")[2]
    world.fail_at(f"{point}:kill9:1")
    run = world.orchestrator().start(f"{'chain' if node.startswith('link') else 'fan'}{mode}")
    assert run.result(int, timeout=30) == (5 if node.startswith("link") else 37)
    # The result of the last node is there a moment before its process reaches the point behind the store.
    wait_until(lambda: world.hits, "the point is reached")
    check_run(run, "succeeded")
    calls = Counter(name.split("/")[1] for name in world.ledger.names("start"))
    assert calls.pop(node) <= POINTS[point]
    assert set(calls.values()) == {1}
    check_keys(world.client)


@pytest.mark.parametrize("phase", ["after_claim", "before_store", "after_store"])
@pytest.mark.parametrize("parts", [("pages", "fetch", "page"), ("rounds", "go", "round")], ids=["pages", "rounds"])
def test_a_process_killed_at_a_part_repeats_at_most_that_part(parts, phase, world):
    flow, node, part = parts
    world.fail_at(f"{phase}@{node}:kill9:3")
    run = world.orchestrator().start(flow)
    assert run.result(int, timeout=30) == {"pages": sum(range(6)) + 1, "rounds": 6 + 1}[flow]
    assert world.hits, "the point was not reached"
    check_run(run, "succeeded")
    calls = Counter(name.split("/")[1] for name in world.ledger.names("start"))
    made = {f"{part}-{number}": 1 for number in range(6)} | {"beside": 1, "total": 1}
    assert calls == made | {f"{part}-2": 2 if phase == "before_store" else 1}
    check_keys(world.client)


def test_a_worker_that_shuts_down_hands_its_pages_on(plain_world):
    with plain_world.lent(work_s=0.2) as world:
        run = world.orchestrator().start("pages")
        second = f"{run.id}/page-1/1"
        world.ledger.wait_for("start", second)
        at_work = next(pid for _, name, _, pid in world.ledger.lines() if name == second)
        next(worker for worker in world.workers if at_work in child_pids(worker.pid)).process.terminate()
        assert run.result(int, timeout=30) == sum(range(6)) + 1
        check_run(run, "succeeded")
        fetched = [(name, pid) for _, name, _, pid in world.ledger.lines() if "/page-" in name]
        assert [name for name, _ in fetched] == [f"{run.id}/page-{number}/1" for number in range(6)]
        assert len({pid for _, pid in fetched}) > 1, "the worker fetched them all"
        assert "lost" not in {event.event for event in run.history()}
        check_keys(world.client)


@pytest.mark.parametrize("phase", PHASES)
def test_a_saga_killed_at_a_point_undoes_everything_in_reverse(phase, world):
    world.fail_at(f"{phase}@undo-two:kill9:1")
    run = world.orchestrator().start("saga")
    assert run.wait(timeout=30) == "failed"
    assert run.failures()["refuse"].type == "builtins.ValueError"
    assert world.hits, "the point was not reached"
    undone = [event.node for event in run.history() if event.event == "succeeded" and event.node.startswith("undo")]
    assert undone == ["undo-three", "undo-two", "undo-one"]
    acted = Counter(line.split("/")[1] for line in world.ledger.names("undo"))
    assert acted == {"three": 1, "two": 2 if phase == "before_store" else 1, "one": 1}


@MODES
def test_a_decision_is_recorded_once_and_never_taken_again(mode, world):
    world.fail_at("after_store@when-1:kill9:1")
    run = world.orchestrator().start(f"pick{mode}")
    assert run.wait(timeout=30) == "succeeded"
    assert world.hits, "the point was not reached"
    assert world.ledger.count(f"asked-{run.id}") == 2  # once by the predicate, once just now
    assert {event.node for event in run.history()} >= {"odd"}
