"""fail.lua and expire_claim.lua: an attempt that raised, and one that nobody will finish."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tests.scripts_world import FAILURE, HOLDER, at_once, fan_plan, line_plan


def failure_of(world, run, name):
    return world.client.hget(world.keys.failures(run.id), name)


def test_an_attempt_with_another_to_come_is_parked(world):
    run = world.run(line_plan("a"))
    token = run.hold("a")
    moved = run.fail("a", token, delay_ms=5000)
    assert (moved.outcome, moved.work.names) == ("parked", ())
    record = run.node("a")
    assert (record["state"], record["attempt"]) == ("parked", 1)
    assert world.client.zscore(world.keys.timers, f"{run.id}|a") == record["due"]
    assert failure_of(world, run, "a") == FAILURE.encode()
    assert (run.status, run.field("running"), world.claims()) == ("running", "0", [])
    assert run.count("retrying", "a") == 1


@pytest.mark.parametrize(("attempts", "delay_ms"), [(1, 0), (3, -1)])
def test_an_attempt_without_another_fails_the_run(world, attempts, delay_ms):
    run = world.run(line_plan("a", attempts=attempts))
    moved = run.fail("a", run.hold("a"), delay_ms=delay_ms)
    assert (moved.outcome, moved.work.kind) == ("failed", "")
    assert (run.status, run.node("a")["state"], run.node("a")["seq"]) == ("failed", "failed", 1)
    assert json.loads(run.field("error")) == json.loads(FAILURE)
    assert world.store.failures(run.id).keys() == {"a"}


def test_attempts_are_counted_to_the_last(world):
    run = world.run(line_plan("a", attempts=3))
    outcomes = []
    for _ in range(3):
        outcomes.append(run.break_off("a", delay_ms=0).outcome)
        run.wake("a")
    assert outcomes == ["parked", "parked", "failed"]
    assert run.node("a")["attempt"] == 3


def test_the_repeat_of_a_failure_answers_as_the_first_and_writes_nothing(world):
    run = world.run(line_plan("a", attempts=2))
    first, second = run.hold("a"), ""
    run.fail("a", first, delay_ms=0)
    with world.unchanged():
        assert run.fail("a", first, delay_ms=0).outcome == "parked"
    run.wake("a")
    with world.unchanged():
        assert run.fail("a", first, delay_ms=0).outcome == "parked"
    second = run.hold("a")
    with world.unchanged():
        assert run.fail("a", first, delay_ms=0).outcome == "fenced"
    run.fail("a", second, delay_ms=0)
    with world.unchanged():
        assert run.fail("a", second, delay_ms=0).outcome == "failed"
        assert run.fail("a", first, delay_ms=0).outcome == "fenced"


def test_the_repeat_of_the_failure_that_ended_a_run_names_its_saga(world):
    run = world.run(line_plan("a", "b", undone="succeeded"))
    run.do("a")
    token = run.hold("b")
    first = run.fail("b", token, follows=True)
    assert (first.outcome, first.work.kind, first.work.names) == ("failed", "saga", ("undo-a",))
    with world.unchanged():
        assert run.fail("b", token, follows=True) == first
    undo = run.hold("undo-a")
    assert run.fail("b", token, follows=True).work.names == ()
    run.commit("undo-a", undo)
    assert run.fail("b", token, follows=True).work.names == ()


def test_an_excused_member_stays_excused(world):
    run = world.run(fan_plan(2, attempts=1, on_failure="continue"))
    token = run.hold("m-0")
    for _ in range(2):
        assert run.fail("m-0", token, follows=True).outcome == "excused", "its message returns to the chord"
    assert (run.status, run.field("open")) == ("running", "1")


def test_another_token_is_fenced_off(world):
    run = world.run(line_plan("a"))
    with world.unchanged():
        assert run.fail("a", "x").outcome == run.lose("a", "x").outcome == "fenced"
        assert run.fail("no-such-node", "x").outcome == run.lose("no-such-node", "x").outcome == "fenced"
    token = run.hold("a")
    with world.unchanged():
        assert run.fail("a", "x").outcome == run.lose("a", "x").outcome == "fenced"
    run.commit("a", token)
    with world.unchanged():
        assert run.fail("a", token).outcome == run.lose("a", token).outcome == "fenced"


def test_a_lost_attempt_is_due_now(world):
    run = world.run(line_plan("a"))
    token = run.hold("a")
    moved = run.lose("a", token)
    assert (moved.outcome, moved.work.kind, moved.work.names) == ("again", "nodes", ("a",))
    assert moved.work.since == run.node("a")["since"]
    assert (run.node("a")["state"], run.field("running"), world.claims()) == ("ready", "0", [])
    assert failure_of(world, run, "a") == FAILURE.encode()
    with world.unchanged():
        assert run.lose("a", token).outcome == "fenced"
    assert run.claim("a").attempt == 2


def test_an_attempt_past_its_deadline_waits_for_its_next(world):
    run = world.run(line_plan("a"))
    moved = run.lose("a", run.hold("a"), timed_out=True, delay_ms=1000)
    assert (moved.outcome, run.node("a")["state"]) == ("parked", "parked")
    assert world.client.zscore(world.keys.timers, f"{run.id}|a") == run.node("a")["due"]
    assert run.count("timed-out", "a") == 1


def test_the_history_says_what_follows_a_lost_attempt(world):
    run, late = world.run(line_plan("a", attempts=2)), world.run(line_plan("a", attempts=2))
    for _ in range(2):
        run.lose("a", run.hold("a"))
    late.lose("a", late.hold("a"), timed_out=True, delay_ms=1500)
    told = [(each.event, each.detail) for made in (run, late) for each in world.store.history(made.id)]
    assert [each for each in told if each[0] in {"lost", "timed-out"}] == [
        ("lost", "attempt 2 of 2 follows"),
        ("lost", "no attempt follows"),
        ("timed-out", "attempt 2 of 2 follows in 1500 ms"),
    ]


@pytest.mark.parametrize(("timed_out", "state"), [(False, "unknown"), (True, "failed")])
def test_the_last_attempt_lost_ends_the_run(world, timed_out, state):
    run = world.run(line_plan("a", attempts=1))
    moved = run.lose("a", run.hold("a"), timed_out=timed_out)
    assert (moved.outcome, run.node("a")["state"], run.status) == ("ended", state, "failed")
    assert world.store.failures(run.id).keys() == {"a"}


def test_an_attempt_that_raises_after_a_lost_one_failed(world):
    run = world.run(line_plan("a", attempts=3))
    run.lose("a", run.hold("a"))
    run.break_off("a", delay_ms=60_000)
    run.cancel()
    assert (run.node("a")["state"], run.status) == ("failed", "cancelled"), "its last attempt raised"


def test_a_lost_attempt_that_waits_when_the_run_ends_is_unknown(world):
    run = world.run(line_plan("a", attempts=3))
    run.lose("a", run.hold("a"))
    run.cancel()
    assert (run.node("a")["state"], run.status) == ("unknown", "cancelled")


def test_a_hundred_failures_of_one_attempt_are_one(world):
    run = world.run(line_plan("a"))
    token = run.hold("a")
    answers = at_once(lambda _: run.fail("a", token, delay_ms=60_000))
    assert {answer.outcome for answer in answers} == {"parked"}
    assert (run.node("a")["attempt"], run.field("running"), run.count("retrying", "a")) == (1, "0", 1)
    assert world.members(world.keys.timers) == [f"{run.id}|a"]


def test_a_hundred_final_failures_are_one_verdict(world):
    run = world.run(line_plan("a", "b", undone="succeeded"))
    run.do("a")
    token = run.hold("b")
    answers = at_once(lambda _: run.fail("b", token))
    assert {(answer.outcome, answer.work.names) for answer in answers} == {("failed", ("undo-a",))}
    assert (run.field("seq"), run.count("run-ending"), run.count("failed", "b")) == ("2", 1, 1)
    assert (run.status, run.field("running")) == ("compensating", "0")


def test_a_hundred_losses_of_one_attempt_are_one(world):
    run = world.run(line_plan("a"))
    token = run.hold("a")
    answers = at_once(lambda _: run.lose("a", token))
    assert Counter(answer.outcome for answer in answers) == {"again": 1, "fenced": 99}
    assert (run.node("a")["attempt"], run.field("running"), run.count("lost", "a")) == (1, "0", 1)


def test_of_commit_failure_and_loss_at_once_one_holds(world):
    run = world.run(line_plan("a", attempts=1))
    token = run.hold("a", holder=HOLDER)
    calls = [lambda: run.commit("a", token), lambda: run.fail("a", token), lambda: run.lose("a", token)]
    answers = at_once(lambda n: calls[n % 3]())
    kinds = {answer.outcome for answer in answers} - {"fenced"}
    assert kinds in ({"stored"}, {"failed"}, {"ended"})
    assert run.status == ("succeeded" if kinds == {"stored"} else "failed")
    assert (run.field("seq"), run.field("running"), world.claims()) == ("1", "0", [])
