"""commit.lua and report.lua: an output is stored once, by the holder of the claim, and says what became ready."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.scripts_world import always, at_once, fan_plan, flow, line_plan, node, plan_of


def test_a_commit_stores_the_output_and_makes_the_next_node_ready(world):
    run = world.run(line_plan("a", "b"))
    moved = run.commit("a", run.hold("a"), b'{"v": 1}')
    assert (moved.outcome, moved.work.kind, moved.work.position, moved.work.names) == ("stored", "step", 1, ("b",))
    assert moved.work.since == run.node("b")["since"]
    assert run.outputs() == {"a": b'{"v": 1}'}
    assert run.states() == {"a": "succeeded", "b": "ready"}
    assert (run.node("a")["seq"], run.field("seq"), run.field("running")) == (1, "1", "0")
    assert world.claims() == []
    assert "token" not in run.node("a")


def test_the_last_commit_ends_the_run(world):
    run = world.run(line_plan("a", "b"), key="k")
    run.do("a")
    moved = run.do("b")
    assert (moved.outcome, moved.work.kind) == ("stored", "")
    assert (run.status, run.events()[-1]) == ("succeeded", ("run-succeeded", ""))
    assert world.members(world.keys.live) == world.members(world.keys.by_status("open")) == []
    assert world.members(world.keys.by_status("succeeded")) == [run.id]
    assert world.members(world.keys.expiring) == [f"succeeded|f|{run.id}"]


def test_where_celery_goes_on_nothing_is_left_to_publish(world):
    run = world.run(line_plan("a", "b", "c"))
    token = run.hold("a")
    for _ in range(2):  # the second one is a repeat
        moved = run.commit("a", token, follows=True)
        assert (moved.outcome, moved.work.kind, run.states()["b"]) == ("stored", "", "ready")
    run.do("b", follows=False)
    assert run.count("succeeded", "a") == 1


def test_a_repeat_stores_nothing_and_names_what_nobody_claimed(world):
    run = world.run(line_plan("a", "b"))
    token = run.hold("a")
    first = run.commit("a", token, b"1")
    with world.unchanged():
        again = run.commit("a", token, b"2")
    assert (again.outcome, again.work.kind, again.work.names) == ("stored", "nodes", ("b",))
    assert again.work.since == first.work.since
    second = run.hold("b")
    with world.unchanged():
        assert run.commit("a", token).work.names == ()
    run.commit("b", second)
    with world.unchanged():
        assert run.commit("b", second).outcome == run.commit("a", token).outcome == "stored"
    assert run.outputs() == {"a": b"1", "b": b"1"}


def test_a_repeat_before_the_join_names_nobody(world):
    """Or every reply lost in a step of 300 would publish its other members once more."""
    run = world.run(fan_plan(60))
    token = run.hold("m-0")
    run.commit("m-0", token)
    with world.unchanged():
        assert run.commit("m-0", token).work.names == ()


def test_the_repeat_of_the_commit_that_joined_a_detached_step_names_what_follows(world):
    run = world.run(fan_plan(2))
    run.lose("m-0", run.hold("m-0"))
    run.do("m-0")
    token = run.hold("m-1")
    assert run.commit("m-1", token, follows=True).work.names == ("after",)
    assert run.commit("m-1", token, follows=True).work.names == ("after",), "the chord never will"


def test_the_repeat_of_the_commit_that_made_the_run_quiet_names_the_saga(world):
    run = world.run(fan_plan(2, attempts=1, undone="succeeded"))
    token = run.hold("m-0")
    run.break_off("m-1")
    first = run.commit("m-0", token, follows=True)
    assert (first.work.kind, first.work.names) == ("saga", ("undo-m-0",))
    with world.unchanged():
        assert run.commit("m-0", token, follows=True).work == first.work
    run.hold("undo-m-0")
    assert run.commit("m-0", token, follows=True).work.names == ()


def test_another_token_is_fenced_off(world):
    run = world.run(line_plan("a"))
    with world.unchanged():
        assert run.commit("a", "x").outcome == "fenced"
    old = run.hold("a")
    run.lose("a", old)
    with world.unchanged():
        assert run.commit("a", old, b"old").outcome == "fenced"
    new = run.hold("a")
    with world.unchanged():
        assert run.commit("a", old, b"old").outcome == "fenced"
    assert run.commit("a", new, b"new").outcome == "stored"
    with world.unchanged():
        assert run.commit("a", old, b"old").outcome == "fenced"
    assert run.outputs() == {"a": b"new"}


def test_a_commit_clears_the_failure_of_an_earlier_attempt(world):
    run = world.run(line_plan("a"))
    run.lose("a", run.hold("a"))
    assert world.client.hkeys(world.keys.failures(run.id)) == [b"a"]
    run.do("a")
    assert world.client.exists(world.keys.failures(run.id)) == 0
    assert world.store.failures(run.id) == {}


@pytest.mark.parametrize(("choice", "taken"), [(0, "x"), (1, "y"), (2, "z")])
def test_a_decision_is_recorded_and_leads_to_its_branch(world, choice, taken):
    builder = flow().when(always).then(node("x")).else_when(always).then(node("y")).else_().then(node("z")).end_when()
    run = world.run(plan_of(builder.then(node("end"))))
    token = run.hold("when-1")
    assert run.commit("when-1", token, choice=choice).work.names == (taken,)
    assert run.node("when-1")["choice"] == choice
    with world.unchanged():
        assert run.commit("when-1", token, choice=2 - choice).work.names == (taken,)
    assert run.do(taken).work.names == ("end",)
    run.do("end")
    assert (run.status, run.states().keys()) == ("succeeded", {"when-1", taken, "end"})
    assert run.outputs().keys() == {taken, "end"}


def test_a_decision_without_a_branch_goes_past_the_block(world):
    run = world.run(plan_of(flow().when(always).when(always).then(node("x")).end_when().end_when()))
    assert run.do("when-1", choice=0).work.names == ("when-2",)
    assert run.do("when-2", choice=1).work.kind == ""
    assert run.status == "succeeded"


def test_a_hundred_commits_with_one_token_are_one(world):
    run = world.run(line_plan("a", "b"))
    token = run.hold("a")
    answers = at_once(lambda n: run.commit("a", token, str(n).encode()))
    assert {answer.outcome for answer in answers} == {"stored"}
    assert Counter(answer.work.kind for answer in answers) == {"step": 1, "nodes": 99}
    winner = next(n for n, answer in enumerate(answers) if answer.work.kind == "step")
    assert run.outputs() == {"a": str(winner).encode()}
    assert (run.field("seq"), run.field("running"), run.count("succeeded", "a")) == ("1", "0", 1)


def test_of_a_hundred_commits_only_the_holders_counts(world):
    run = world.run(line_plan("a"))
    token = run.hold("a")
    answers = at_once(lambda n: run.commit("a", token if n == 50 else f"other-{n}", str(n).encode()))
    assert Counter(answer.outcome for answer in answers) == {"stored": 1, "fenced": 99}
    assert (run.status, run.outputs()) == ("succeeded", {"a": b"50"})


def test_a_report_is_kept_with_the_attempt(world):
    run = world.run(line_plan("a"))
    token = run.hold("a")
    assert run.report("a", token, '{"done": "50 %"}').outcome == "stored"
    record = run.node("a")
    assert record["detail"] == '{"done": "50 %"}'
    assert run.report("a", token, '{"done": "50 %"}').outcome == "stored"
    assert run.node("a") == record
    with world.unchanged():
        assert run.report("a", "other").outcome == run.report("no-such-node", token).outcome == "fenced"
    run.cancel()
    assert run.report("a", token).outcome == "ending"
    run.commit("a", token)
    with world.unchanged():
        assert run.report("a", token).outcome == "fenced"


def test_a_hundred_reports_leave_the_attempt_as_it_is(world):
    run = world.run(line_plan("a"))
    token = run.hold("a")
    before = run.node("a")
    answers = at_once(lambda n: run.report("a", token if n % 2 else "other", str(n)))
    assert Counter(answer.outcome for answer in answers) == {"stored": 50, "fenced": 50}
    after = run.node("a")
    assert int(after.pop("detail")) % 2 == 1
    assert after == before
    assert run.commit("a", token).outcome == "stored"
