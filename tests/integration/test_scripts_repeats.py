"""Iterations in the scripts: the output of one is the input of the next, and a pause between two is a timer."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.scripts_world import flow, new_token, node, plan_of


def start(world, *, every=timedelta(0), most=5, **options):
    counter = node("count", **options).with_repeat(until=lambda _: True, every=every, max_iterations=most)
    return world.run(plan_of(flow().then(counter).then(node("after"))))


def test_an_output_is_the_input_of_the_next_iteration_and_the_last_one_stays(world):
    run = start(world)
    claimed = run.claim("count", token := new_token())
    assert (claimed.index, claimed.item) == (0, b"null")
    assert run.turn("count", token, "7").work.names == ("count",)
    assert "count" not in run.outputs()
    claimed = run.claim("count", token := new_token())
    assert (claimed.index, claimed.item, claimed.attempt) == (1, b"7", 1)
    moved = run.close("count", token, "8")
    assert (moved.outcome, moved.work.names) == ("stored", ("after",))
    assert run.outputs()["count"] == b"8"
    assert [run.count("iteration", "count"), run.count("started", "count")] == [2, 1]


def test_between_two_iterations_there_is_a_timer_and_nothing_to_publish(world):
    run = start(world, every=timedelta(hours=1))
    moved = run.turn("count", token := run.hold("count"), "7")
    assert (moved.outcome, moved.work.names) == ("turned", ())
    with world.unchanged():
        assert run.turn("count", token, "7") == moved
    record = run.node("count")
    assert (record["state"], record["attempt"]) == ("parked", 0)
    assert run.claim("count", new_token()).outcome == "not ready"


def test_what_asks_for_one_iteration_too_many_is_not_held_back(world):
    run = start(world, every=timedelta(hours=1), most=1)
    assert run.turn("count", run.hold("count"), "7").work.names == ("count",)
    assert run.node("count")["state"] == "ready"


@pytest.mark.parametrize("every", [timedelta(0), timedelta(hours=1)])
def test_a_cancel_between_two_iterations_fails_the_node_and_undoes_it(world, every):
    run = start(world, every=every, undone="started")
    run.turn("count", run.hold("count"), "7")
    run.cancel()
    assert run.node("count")["ended_as"] == "failed"
    assert run.node("undo-count")["state"] == "ready"


def test_a_resume_goes_on_behind_the_last_iteration(world):
    run = start(world)
    run.turn("count", run.hold("count"), "7")
    run.cancel()
    run.resume()
    claimed = run.claim("count", new_token())
    assert (claimed.index, claimed.item) == (1, b"7")
