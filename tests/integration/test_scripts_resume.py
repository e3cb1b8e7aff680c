"""resume.lua: an ended run is taken up again, forward or for what its rollback lacks, and older messages do nothing."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest

from tests.scripts_world import (
    FAILURE,
    RETENTION_MS,
    always,
    at_once,
    fan_plan,
    flow,
    line_plan,
    new_token,
    node,
    plan_of,
)


def test_only_an_ended_run_that_did_not_succeed_is_resumed(world):
    run = world.run(line_plan("a", "b"))
    with world.unchanged():
        assert run.resume().outcome == "not ended"
    run.do("a")
    run.do("b")
    with world.unchanged():
        assert run.resume().outcome == "not ended", "it succeeded"


def test_a_failed_run_goes_forward_from_what_is_done(world):
    run = world.run(line_plan("a", "b", attempts=2), key="k")
    run.do("a")
    run.break_off("b")
    assert run.status == "failed"
    moved = run.resume()
    assert (moved.outcome, moved.work.kind, moved.work.names) == ("resumed", "step", ("b",))
    assert run.states() == {"a": "succeeded", "b": "ready"}
    assert run.node("b")["attempt"] == 0
    assert (run.status, run.field("epoch"), run.field("error"), run.field("verdict")) == ("running", "2", "", "")
    assert (run.field("finished"), world.members(world.keys.expiring)) == ("", [])
    assert world.store.failures(run.id) == {}
    with world.unchanged():
        assert run.resume().outcome == "not ended"
    run.do("b")
    assert (run.status, run.count("started", "a"), run.count("started", "b")) == ("succeeded", 1, 2)


def test_messages_of_an_older_epoch_do_nothing(world):
    run = world.run(line_plan("a"))
    run.break_off("a")
    run.resume()
    run.age("a", 5000)
    with world.unchanged():
        assert run.claim("a", epoch=1).outcome == "old"
        assert run.announce(0, epoch=1).outcome == run.republish("a", epoch=1).outcome == "nothing"
    assert run.claim("a").outcome == "run"


def test_what_was_undone_is_done_again_and_done_nodes_are_passed_over(world):
    builder = flow().then(node("a", undone="succeeded")).then(node("b")).then(node("c", undone="succeeded"))
    run = world.run(plan_of(builder.then(node("d"))))
    for name in ("a", "b", "c"):
        run.do(name, follows=True)
    run.break_off("d")
    run.do("undo-c", follows=True)
    run.do("undo-a")
    assert run.outputs().keys() == {"a", "b", "c"}
    assert run.resume().work.names == ("a",)
    assert run.outputs().keys() == {"b"}
    assert run.do("a", follows=True).work.names == ("c",), "Celery would go to b, which is done"
    run.do("c")
    run.do("d")
    assert (run.status, run.count("started", "b")) == ("succeeded", 1)


@pytest.mark.parametrize("chords", [True, False])
def test_a_parallel_step_that_was_half_done_is_joined_anew(world, chords):
    run = world.run(fan_plan(4, attempts=1), chords=chords)
    run.do("m-0")
    run.do("m-1")
    run.break_off("m-2")
    assert run.states()["m-3"] == "skipped"
    moved = run.resume()
    assert (moved.work.names, moved.work.joined_in_store) == (("m-2", "m-3"), True)
    assert (run.field("open"), run.field("won")) == ("2", "2")
    run.do("m-3", follows=True)
    assert run.do("m-2", follows=True).work.names == ("after",)


def test_after_a_resume_every_parallel_step_is_detached(world):
    run = world.run(fan_plan(3))
    run.cancel()
    assert run.resume().work.joined_in_store
    assert run.announce(0).outcome == "nothing"


def test_members_excused_before_are_tried_again(world):
    run = world.run(fan_plan(3, attempts=1, on_failure="continue", require=2))
    run.break_off("m-0")
    run.break_off("m-1")
    run.do("m-2")
    assert run.status == "failed"
    assert run.resume().work.names == ("m-0", "m-1")
    run.break_off("m-0")
    assert run.do("m-1").work.names == ("after",), "two of three"


def test_a_decision_holds_over_a_resume(world):
    builder = flow().when(always).then(node("x")).else_().then(node("y", undone="succeeded")).then(node("z")).end_when()
    run = world.run(plan_of(builder))
    run.do("when-1", choice=1)
    run.do("y")
    run.break_off("z")
    run.do("undo-y")
    assert run.resume().work.names == ("y",)
    run.do("y")
    run.do("z")
    assert (run.status, run.count("started", "when-1")) == ("succeeded", 1)
    assert "x" not in run.states()


def test_a_cancelled_run_starts_what_was_skipped(world):
    run = world.run(fan_plan(3))
    token = run.hold("m-0")
    run.cancel()
    run.commit("m-0", token)
    assert (run.status, Counter(run.states().values())) == ("cancelled", {"succeeded": 1, "skipped": 2})
    assert run.resume().work.names == ("m-1", "m-2")
    run.do("m-1")
    run.do("m-2")
    run.do("after")
    assert run.status == "succeeded"


def test_a_cancelled_run_whose_nodes_are_all_done_succeeds(world):
    run = world.run(line_plan("a"), key="k")
    token = run.hold("a")
    run.cancel()
    run.commit("a", token)
    assert run.status == "cancelled"
    moved = run.resume()
    assert (moved.outcome, moved.work.kind, run.status) == ("resumed", "", "succeeded")
    assert world.client.hget(world.keys.plan(run.plan.hash), "live") == b"0"
    assert world.members(world.keys.by_status("succeeded")) == [run.id]
    assert world.members(world.keys.by_status("open")) == []


def failed_rollback(world, **options):
    """A run of a, b, c and d of which only the compensation of b failed."""
    run = world.run(line_plan("a", "b", "c", "d", attempts=1, undone="succeeded"), **options)
    for name in ("a", "b", "c"):
        run.do(name)
    run.break_off("d")
    run.do("undo-c")
    run.break_off("undo-b")
    run.do("undo-a")
    assert run.status == "compensation_failed"
    return run


def test_of_a_failed_rollback_only_what_failed_is_repeated(world):
    run = failed_rollback(world)
    moved = run.resume()
    assert (moved.outcome, moved.work.kind, moved.work.names) == ("resumed", "saga", ("undo-b",))
    assert (run.status, run.node("b")["state"], run.node("undo-b")["attempt"]) == ("compensating", "compensating", 0)
    with world.unchanged():
        assert run.announce("saga").outcome == "nothing"
        assert run.claim("undo-a").outcome == "done"
        assert run.claim("d").outcome == "done"
    run.break_off("undo-b")
    assert run.status == "compensation_failed", "it may fail again"
    run.resume()
    run.do("undo-b")
    assert (run.status, run.undone()) == ("failed", ["undo-c", "undo-a", "undo-b"])


def test_after_the_rollback_is_whole_the_run_goes_forward(world):
    run = failed_rollback(world)
    run.resume()
    run.do("undo-b")
    assert run.resume().work.names == ("a",)
    assert run.states() == {"a": "ready", "b": "pending", "c": "pending", "d": "pending"}
    for name in ("a", "b", "c", "d"):
        run.do(name)
    assert (run.status, run.field("epoch")) == ("succeeded", "3")
    assert {name: run.node(name)["generation"] for name in ("a", "b", "c", "d")} == {"a": 1, "b": 1, "c": 1, "d": 0}


def test_a_second_rollback_undoes_in_the_order_of_the_second_completion(world):
    run = world.run(fan_plan(2, attempts=1, undone="succeeded"))
    run.do("m-0")
    run.do("m-1")
    run.break_off("after")
    run.do("undo-m-1")
    run.do("undo-m-0")
    run.resume()
    run.do("m-1")
    run.do("m-0")
    assert run.break_off("after").work.names == ("undo-m-0", "undo-m-1")


def test_resume_takes_the_limits_off_the_keys_and_renews_the_deadline(world):
    plan = plan_of(flow().then(node("a")).then(node("b")).with_timeout(timedelta(hours=1)))
    run = world.run(plan, key="k")
    run.do("a")
    run.break_off("b")
    assert world.members(world.keys.timers) == []
    before = int(run.field("deadline"))
    idempotency = world.keys.idempotency("f", "k")
    assert 0 < world.client.pttl(idempotency) <= RETENTION_MS
    run.resume()
    assert world.client.pttl(idempotency) == world.plan_ttl(plan) == -1
    assert world.client.zscore(world.keys.timers, f"{run.id}|") == int(run.field("deadline")) >= before
    assert world.client.hget(world.keys.plan(plan.hash), "live") == b"1"
    assert world.start(plan, key="k").outcome == "exists"


def test_a_commit_of_the_time_before_is_fenced_off(world):
    run = world.run(fan_plan(2, attempts=1))
    frozen = run.hold("m-0")
    run.lose("m-0", frozen)
    assert run.status == "failed"
    run.resume()
    new = run.hold("m-0")
    with world.unchanged():
        assert run.commit("m-0", frozen).outcome == run.fail("m-0", frozen).outcome == "fenced"
    run.commit("m-0", new)


def test_a_hundred_resumes_are_one(world):
    run = world.run(line_plan("a", "b"))
    run.do("a")
    run.break_off("b")
    answers = at_once(lambda number: run.scripts.resume(run.id, run.plan.hash, token=str(number)))
    assert Counter(answer.outcome for answer in answers) == {"resumed": 1, "not ended": 99}
    assert [answer.work.names for answer in answers if answer.work.kind] == [("b",)]
    assert (run.field("epoch"), run.count("resumed")) == ("2", 1)
    assert world.client.hget(world.keys.plan(run.plan.hash), "live") == b"1"


def test_a_resume_whose_reply_was_lost_is_repeated_by_its_token(world):
    run = world.run(line_plan("a", "b"))
    run.break_off("a")
    assert run.scripts.resume(run.id, run.plan.hash, token="mine").work.names == ("a",)
    again = run.scripts.resume(run.id, run.plan.hash, token="mine")
    assert (again.outcome, again.work.names) == ("resumed", ())
    assert run.scripts.resume(run.id, run.plan.hash, token="yours").outcome == "not ended"
    assert (run.field("epoch"), run.count("resumed")) == ("2", 1)
    run.epoch = 2
    run.do("a")
    run.do("b")
    assert run.status == "succeeded"


def test_a_hundred_resumes_of_a_failed_rollback_are_one(world):
    run = failed_rollback(world)
    answers = at_once(lambda number: run.scripts.resume(run.id, run.plan.hash, token=str(number)))
    assert [answer.work.names for answer in answers if answer.work.kind] == [("undo-b",)]
    assert world.client.lrange(f"{world.keys.run(run.id)}:saga", 0, -1) == [b"undo-b"]


def undo(run, token):
    return run.scripts.undo(run.id, run.plan.hash, token=token, failure=FAILURE)


def test_a_run_that_succeeded_is_undone_last_completed_first(world):
    run = world.run(line_plan("a", "b", undone="succeeded"), key="k")
    with world.unchanged():
        assert undo(run, new_token()).outcome == "not succeeded"
    run.do("a")
    run.do("b")
    token = new_token()
    moved = undo(run, token)
    assert (moved.outcome, moved.work.kind, moved.work.names) == ("undone", "saga", ("undo-b", "undo-a"))
    assert (run.status, run.field("verdict"), run.field("epoch")) == ("compensating", "cancelled", "2")
    with world.unchanged():
        assert undo(run, token).outcome == "undone"
        assert undo(run, new_token()).outcome == "not succeeded"
    run.epoch = 2
    run.do("undo-b")
    run.do("undo-a")
    assert (run.status, run.undone()) == ("cancelled", ["undo-b", "undo-a"])


def test_without_compensations_an_undone_run_has_ended_at_once(world):
    run = world.run(line_plan("a"))
    run.do("a")
    assert undo(run, new_token()).work.names == ()
    assert run.status == "cancelled"
