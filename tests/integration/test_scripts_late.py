"""Late calls: on a run that is gone and on one that has ended no script writes anything, or brings a key back."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.scripts_world import Run, flow, new_token, node, plan_of, run_named

CALLS = {
    "claim": lambda run, token: run.claim("a", token),
    "commit": lambda run, token: run.commit("a", token, follows=False),
    "commit of a compensation": lambda run, token: run.commit("undo-a", token),
    "fail": lambda run, token: run.fail("a", token, delay_ms=0),
    "lose": lambda run, token: run.lose("a", token),
    "give back": lambda run, token: run.give_back("a", token),
    "report": lambda run, token: run.report("a", token),
    "wake": lambda run, token: run.wake("a"),
    "announce": lambda run, token: run.announce(0),
    "announce the saga": lambda run, token: run.announce("saga"),
    "cancel": lambda run, token: run.cancel(),
    "cancel at the deadline": lambda run, token: run.cancel(verdict="failed", only_late=True),
    "go on": lambda run, token: run.go_on(),
    "republish": lambda run, token: run.republish("a", "undo-a"),
}
QUIET = {"done", "ending", "fenced", "asleep", "nothing", "too late", "too early"}


@pytest.fixture(scope="module")
def plan():
    return plan_of(
        flow().then(node("a", undone="succeeded")).then(node("b", attempts=1)).with_timeout(timedelta(hours=1))
    )


def succeed(run: Run) -> None:
    run.do("b")


def fail(run: Run) -> None:
    run.break_off("b")
    run.do("undo-a")


def cancel(run: Run) -> None:
    run.cancel()
    run.do("undo-a")


def fail_to_undo(run: Run) -> None:
    run.break_off("b")
    run.break_off("undo-a")


@pytest.mark.parametrize("name", [*CALLS, "resume", "look"])
def test_a_run_that_is_gone_is_unknown_and_nothing_is_written(world, plan, name):
    run = world.run(plan, key="k")
    token = run.hold("a")
    run.commit("a", token)
    gone = Run(world, plan, new_token(), run.started)
    with world.unchanged():
        if name == "look":
            assert world.scripts.inspect_run(gone.id, plan.hash).outcome == "unknown"
        else:
            moved = gone.resume() if name == "resume" else CALLS[name](gone, token)
            assert moved.outcome == "unknown"


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("end", "status"),
    [(succeed, "succeeded"), (fail, "failed"), (cancel, "cancelled"), (fail_to_undo, "compensation_failed")],
)
def test_a_run_that_has_ended_is_left_as_it_is(world, plan, end, status, name):
    run = world.run(plan, key="k")
    run.do("a")
    end(run)
    assert run.status == status
    with world.unchanged():
        assert CALLS[name](run, new_token()).outcome in QUIET
        assert run.look() == []


@pytest.mark.parametrize("name", ["commit", "fail"])
def test_the_repeat_of_a_call_after_the_end_writes_nothing(world, plan, name):
    run = world.run(plan)
    run.do("a")
    token = run.hold("b")
    call = {"commit": run.commit, "fail": run.fail}[name]
    first = call("b", token)
    if name == "fail":
        run.do("undo-a")
    with world.unchanged():
        again = call("b", token)
    assert (again.outcome, again.work.kind) == (first.outcome, "")


def test_a_start_brings_no_run_back_that_is_gone(world, plan):
    """A run whose keys have expired is a new one: nothing of the old is left to be mixed with it."""
    run = world.run(plan, run_id=run_named("one"), key="k")
    run.do("a")
    run.cancel()
    run.do("undo-a")
    for key in world.names():
        if f":run:{run_named('one')}" in key or ":idem:" in key:
            world.client.delete(key)
    again = world.run(plan, run_id=run_named("one"), key="k")
    assert (again.states(), again.outputs(), again.field("epoch")) == ({"a": "ready"}, {}, "1")
