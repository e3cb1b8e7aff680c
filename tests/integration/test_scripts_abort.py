"""cancel.lua and the saga: one verdict, nothing starts after it, what succeeded is undone, last completed first."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest

from tests.scripts_world import at_once, fan_plan, flow, line_plan, node, plan_of


def undone_line(*names):
    return line_plan(*names, undone="succeeded")


def test_a_quiet_run_is_cancelled_at_once(world):
    run = world.run(line_plan("a"))
    moved = run.cancel()
    assert (moved.outcome, moved.work.kind) == ("ending", "")
    assert (run.status, run.states(), run.field("verdict")) == ("cancelled", {"a": "skipped"}, "cancelled")
    with world.unchanged():
        assert run.cancel().outcome == run.cancel(verdict="failed").outcome == "too late"


def test_what_runs_at_the_cancel_may_end_and_is_undone(world):
    run = world.run(undone_line("a", "b", "c"))
    run.do("a")
    token = run.hold("b")
    assert run.cancel().work.kind == ""
    assert (run.status, run.field("running")) == ("compensating", "1")
    moved = run.commit("b", token, follows=True)
    assert (moved.work.kind, moved.work.position, moved.work.names) == ("saga", 1, ("undo-b", "undo-a"))
    assert run.states() == {"a": "compensating", "b": "compensating", "undo-b": "ready"}
    run.do("undo-b")
    assert run.states()["undo-a"] == "ready"
    run.do("undo-a")
    assert (run.status, run.undone()) == ("cancelled", ["undo-b", "undo-a"])
    assert "c" not in run.states()


@pytest.mark.parametrize("ends", ["fail", "lose"])
def test_what_raises_or_gets_lost_after_the_cancel_is_not_repeated(world, ends):
    run = world.run(line_plan("a", attempts=5))
    token = run.hold("a")
    run.cancel()
    moved = run.fail("a", token, delay_ms=0) if ends == "fail" else run.lose("a", token)
    assert moved.outcome == ("failed" if ends == "fail" else "ended")
    assert (run.status, run.node("a")["state"]) == ("cancelled", "failed" if ends == "fail" else "unknown")


def test_the_first_verdict_holds(world):
    run = world.run(fan_plan(2, attempts=1))
    token = run.hold("m-1")
    run.break_off("m-0")
    assert run.cancel().outcome == "too late"
    run.commit("m-1", token)
    assert run.status == "failed"
    run = world.run(fan_plan(2, attempts=1))
    tokens = [run.hold("m-0"), run.hold("m-1")]
    run.cancel()
    run.fail("m-0", tokens[0])
    run.fail("m-1", tokens[1])
    assert run.status == "cancelled"


def test_a_run_is_ended_at_its_deadline_and_not_before(world):
    plan = plan_of(flow().then(node("a", undone="succeeded")).then(node("b")).with_timeout(timedelta(hours=1)))
    run = world.run(plan)
    run.do("a")
    with world.unchanged():
        assert run.cancel(verdict="failed", only_late=True).outcome == "too early"
    world.client.hset(world.keys.run(run.id), "deadline", 1)
    moved = run.cancel(verdict="failed", only_late=True)
    assert (moved.outcome, moved.work.names) == ("ending", ("undo-a",))
    assert world.members(world.keys.timers) == []
    run.do("undo-a")
    assert run.status == "failed"


def test_a_deadline_during_the_rollback_changes_nothing(world):
    plan = plan_of(flow().then(node("a", undone="succeeded")).then(node("b")).with_timeout(timedelta(hours=1)))
    run = world.run(plan)
    run.do("a")
    run.break_off("b")
    world.client.hset(world.keys.run(run.id), "deadline", 1)
    assert run.cancel(verdict="failed", only_late=True).outcome == "too late"
    assert world.members(world.keys.timers) == [], "nor does it come back"
    run.do("undo-a")
    assert run.status == "failed"


def test_only_what_succeeded_is_undone_unless_the_compensation_says_started(world):
    members = [
        node("good", attempts=1, undone="succeeded"),
        node("bad", attempts=1, undone="succeeded"),
        node("bad-started", attempts=1, undone="started"),
        node("lost-started", attempts=1, undone="started"),
        node("skipped-started", attempts=1, undone="started"),
    ]
    run = world.run(plan_of(flow().then_parallel("fan", *members).then(node("after"))))
    tokens = {name: run.hold(name) for name in ("good", "bad", "bad-started", "lost-started")}
    run.commit("good", tokens["good"])
    run.lose("lost-started", tokens["lost-started"])
    run.fail("bad-started", tokens["bad-started"])
    moved = run.fail("bad", tokens["bad"])
    assert moved.work.names == ("undo-bad-started", "undo-lost-started", "undo-good"), "by order of completion"
    for name in moved.work.names:
        run.do(name)
    assert {name: state for name, state in run.states().items() if not name.startswith("undo-")} == {
        "good": "compensated", "bad": "failed", "bad-started": "compensated", "lost-started": "compensated",
        "skipped-started": "skipped",
    }  # fmt: skip
    assert (run.node("bad-started")["ended_as"], run.node("good")["generation"]) == ("failed", 1)


def test_a_compensation_is_claimed_and_retried_like_a_node(world):
    run = world.run(undone_line("a", "b", "c"))
    run.do("a")
    run.do("b")
    run.break_off("c")
    with world.unchanged():
        assert run.claim("undo-a").outcome == "not ready"
    assert run.break_off("undo-b", delay_ms=0, follows=True).outcome == "parked"
    assert run.wake("undo-b").work.names == ("undo-b",)
    moved = run.lose("undo-b", run.hold("undo-b"))
    assert (moved.outcome, run.node("b")["state"]) == ("ended", "compensation_failed")
    assert (moved.work.kind, moved.work.names) == ("saga", ("undo-a",))
    run.do("undo-a")
    assert (run.status, run.node("a")["state"]) == ("compensation_failed", "compensated")
    assert run.node("undo-b")["attempt"] == 2


def test_a_lost_compensation_comes_back_and_the_saga_goes_on(world):
    run = world.run(undone_line("a", "b", "c"))
    run.do("a")
    run.do("b")
    run.break_off("c")
    moved = run.lose("undo-b", run.hold("undo-b"))
    assert (moved.outcome, moved.work.kind, moved.work.names) == ("again", "nodes", ("undo-b",))
    assert run.do("undo-b", follows=False).work.names == ("undo-a",), "its old chain does not follow it"
    run.do("undo-a")
    assert run.status == "failed"


def test_in_a_chain_of_compensations_celery_goes_on(world):
    run = world.run(undone_line("a", "b", "c"))
    run.do("a")
    run.do("b")
    run.break_off("c")
    token = run.hold("undo-b")
    assert run.commit("undo-b", token, follows=True).work.kind == ""
    assert run.commit("undo-b", token, follows=True).work.kind == ""
    with world.unchanged():
        assert run.announce("saga").outcome == "nothing", "an error callback that comes late does not send it again"
        assert run.commit("undo-b", token, follows=False).work.names == ("undo-a",)
    assert run.break_off("undo-a", follows=True).outcome == "failed"
    assert run.status == "compensation_failed"


def test_a_failed_compensation_ends_its_chain_and_the_rest_is_published(world):
    run = world.run(undone_line("a", "b", "c"))
    run.do("a")
    run.do("b")
    run.break_off("c")
    moved = run.break_off("undo-b", follows=True)
    assert (moved.outcome, moved.work.kind, moved.work.names) == ("failed", "saga", ("undo-a",))


def test_the_generation_of_a_compensation_is_that_of_its_node(world):
    """Or its idempotency key would be the same for every rollback, and the second one refused outside."""
    run = world.run(undone_line("a", "b"))
    for generation in range(3):
        claimed = run.claim("a", "t")
        assert claimed.generation == generation
        run.commit("a", "t")
        run.break_off("b")
        assert run.claim("undo-a", "u").generation == generation
        run.commit("undo-a", "u")
        run.resume()


def test_a_run_that_fails_before_anything_succeeded_ends_at_once(world):
    run = world.run(undone_line("a", "b"))
    moved = run.break_off("a")
    assert (moved.outcome, moved.work.kind, run.status) == ("failed", "", "failed")


def test_a_failed_decision_ends_the_run(world):
    run = world.run(plan_of(flow().when(lambda _: True).then(node("x")).end_when()))
    run.break_off("when-1")
    assert (run.status, run.states()) == ("failed", {"when-1": "failed"})


def test_a_hundred_cancels_are_one_verdict(world):
    run = world.run(undone_line("a", "b"))
    run.do("a")
    verdicts = ["cancelled", "failed"]
    answers = at_once(lambda n: run.cancel(verdict=verdicts[n % 2]))
    assert Counter(answer.outcome for answer in answers) == {"ending": 1, "too late": 99}
    winner = next(n for n, answer in enumerate(answers) if answer.outcome == "ending")
    assert run.field("verdict") == verdicts[winner % 2]
    assert [answer.work.names for answer in answers if answer.work.kind] == [("undo-a",)]
    assert run.count("run-ending") == 1


def test_a_hundred_cancels_against_a_hundred_commits_are_one_verdict(world):
    run = world.run(fan_plan(50, undone="succeeded"))
    tokens = [run.hold(f"m-{number}") for number in range(50)]
    answers = at_once(lambda n: run.commit(f"m-{n // 2}", tokens[n // 2]) if n % 2 else run.cancel())
    works = [answer.work for answer in answers if answer.work.kind]
    assert len(works) == 1
    assert run.field("running") == "0"
    if works[0].kind == "step":  # every commit came before every cancel
        assert run.cancel().work.kind == "saga"
    assert run.status == "compensating"
    order = sorted(range(50), key=lambda number: -run.node(f"m-{number}")["seq"])
    for number in order:
        run.do(f"undo-m-{number}")
    assert (run.status, run.undone()) == ("cancelled", [f"undo-m-{number}" for number in order])


def test_a_hundred_compensations_committed_at_once_are_one_step_of_the_saga(world):
    run = world.run(undone_line("a", "b", "c"))
    run.do("a")
    run.do("b")
    run.break_off("c")
    token = run.hold("undo-b")
    answers = at_once(lambda _: run.commit("undo-b", token))
    assert {(answer.outcome, answer.work.names) for answer in answers} == {("stored", ("undo-a",))}
    assert (run.field("saga_at"), run.field("running"), run.node("b")["generation"]) == ("2", "0", 1)
