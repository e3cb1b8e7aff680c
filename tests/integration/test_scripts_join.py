"""Join of a parallel step: counted once for each member, published once, by Celery or by the stored count."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tests.scripts_world import at_once, fan_plan, flow, node, plan_of

MANY = 300


def counts(run):
    """Members that have not ended, and members that succeeded."""
    return int(run.field("open")), int(run.field("won"))


def two_fans(count: int):
    one = [node(f"a-{number}") for number in range(count)]
    other = [node(f"b-{number}") for number in range(count)]
    return plan_of(flow().then_parallel("one", *one).then_parallel("two", *other).then(node("after")))


def test_only_the_last_member_makes_the_next_step_ready(world):
    run = world.run(fan_plan(3))
    assert counts(run) == (3, 0)
    assert run.do("m-1").work.kind == run.do("m-0").work.kind == ""
    assert counts(run) == (1, 2)
    assert "after" not in run.states()
    assert run.do("m-2").work.names == ("after",)


def test_a_chord_counts_its_members_itself(world):
    run = world.run(fan_plan(3))
    assert [run.do(f"m-{number}", follows=True).work.kind for number in range(3)] == ["", "", ""]
    assert run.states()["after"] == "ready"


def test_the_body_of_a_chord_publishes_a_parallel_step_once(world):
    run = world.run(two_fans(2))
    run.do("a-0", follows=True)
    assert run.do("a-1", follows=True).work.kind == ""
    run.age("b-0", 5000)
    announced = run.announce(1)
    assert announced.work.names == ("b-0", "b-1")
    assert announced.work.since == run.node("b-0")["since"], "a later instant would look like a lost message"
    with world.unchanged():
        assert run.announce(1).outcome == "nothing"


def test_who_publishes_a_joined_step_announces_it(world):
    run = world.run(two_fans(2), chords=False)
    run.do("a-0")
    assert run.do("a-1").work.names == ("b-0", "b-1")
    with world.unchanged():
        assert run.announce(1).outcome == "nothing"


@pytest.mark.parametrize("how", ["parks", "is lost", "is published again"])
def test_once_a_member_left_the_chord_the_stored_count_publishes(world, how):
    run = world.run(fan_plan(3))
    run.do("m-0", follows=True)
    if how == "parks":
        run.break_off("m-1", delay_ms=0, follows=True)
        run.wake("m-1")
    elif how == "is lost":
        run.lose("m-1", run.hold("m-1"))
    else:
        run.age("m-1", 5000)
        run.republish("m-1")
    assert run.field("detached") == "1"
    run.do("m-1", follows=False)
    assert run.do("m-2", follows=True).work.names == ("after",), "whatever its message carried"
    assert run.field("detached") == "0", "the mark is the step's"


def test_the_last_member_of_a_detached_step_may_be_the_one_that_came_back(world):
    run = world.run(fan_plan(2))
    run.break_off("m-0", delay_ms=0, follows=True)
    assert run.do("m-1", follows=True).work.kind == ""
    assert run.wake("m-0").work.names == ("m-0",)
    assert run.do("m-0", follows=False).work.names == ("after",)


def test_an_excused_member_is_joined_without_an_output(world):
    run = world.run(fan_plan(3, attempts=1, on_failure="continue"))
    assert run.break_off("m-0", follows=True).outcome == "excused"
    run.do("m-1", follows=True)
    assert run.break_off("m-2", follows=True).work.kind == "", "its message returns, and the chord goes on"
    assert (run.status, counts(run), run.states()["after"]) == ("running", (1, 0), "ready")
    assert run.outputs().keys() == {"m-1"}
    run.do("after")
    assert run.status == "succeeded"
    assert world.store.failures(run.id).keys() == {"m-0", "m-2"}
    assert run.field("error") == ""


def test_the_last_member_to_be_lost_publishes_what_follows(world):
    run = world.run(fan_plan(2, attempts=1, on_failure="continue"))
    run.do("m-0", follows=True)
    moved = run.lose("m-1", run.hold("m-1"))
    assert (moved.outcome, moved.work.names, run.node("m-1")["state"]) == ("ended", ("after",), "unknown")


@pytest.mark.parametrize(("require", "status"), [(2, "running"), (3, "failed")])
def test_too_few_successes_fail_the_run_at_the_join(world, require, status):
    run = world.run(fan_plan(3, attempts=1, on_failure="continue", require=require))
    run.do("m-0")
    run.break_off("m-1")
    assert run.status == "running", "the count is taken at the join"
    run.do("m-2")
    assert run.status == status
    if status == "failed":
        error = world.store.run(run.id).error
        assert error.message == "step fan: 2 of 3 nodes succeeded, 3 are required"
        assert error.node_name is None


def test_all_members_excused_go_on_where_none_is_required(world):
    run = world.run(fan_plan(3, attempts=1, on_failure="continue"))
    kinds = [run.break_off(f"m-{number}").work.kind for number in range(3)]
    assert (kinds, run.states()["after"]) == (["", "", "step"], "ready")


def test_a_failure_skips_the_members_that_did_not_start(world):
    run = world.run(fan_plan(4, attempts=2))
    started = run.hold("m-0")
    run.break_off("m-1", delay_ms=60_000)
    run.break_off("m-2")
    assert run.states() == {"m-0": "running", "m-1": "failed", "m-2": "failed", "m-3": "skipped"}
    assert (run.status, run.field("running")) == ("compensating", "1")
    assert world.members(world.keys.timers) == []
    run.commit("m-0", started)
    assert run.status == "failed"


@pytest.mark.parametrize("chords", [True, False])
def test_a_hundred_members_at_once_are_joined_once(world, chords):
    run = world.run(fan_plan(100), chords=chords)
    answers = at_once(lambda n: run.do(f"m-{n}"))
    assert Counter(answer.work.kind for answer in answers) == {"": 99, "step": 1}
    assert next(answer.work.names for answer in answers if answer.work.kind) == ("after",)
    assert sorted(record["seq"] for record in world.store.nodes(run.id).values() if "seq" in record) == [*range(1, 101)]
    assert (run.field("seq"), run.field("running"), run.states()["after"]) == ("100", "0", "ready")
    assert len(run.outputs()) == 100


def test_a_hundred_repeated_commits_of_ten_members_are_joined_once(world):
    run = world.run(fan_plan(10), chords=False)
    tokens = {f"m-{number}": run.hold(f"m-{number}") for number in range(10)}
    answers = at_once(lambda n: run.commit(f"m-{n % 10}", tokens[f"m-{n % 10}"]))
    assert {answer.outcome for answer in answers} == {"stored"}
    assert sum(answer.work.kind == "step" for answer in answers) == 1
    assert (run.field("seq"), run.field("running"), counts(run)) == ("10", "0", (1, 0))


def test_members_that_fail_succeed_and_get_lost_at_once_are_each_counted_once(world):
    run = world.run(fan_plan(99, attempts=1, on_failure="continue"))
    tokens = [run.hold(f"m-{number}") for number in range(99)]
    calls = [run.commit, run.fail, run.lose]
    answers = at_once(lambda n: calls[n % 3](f"m-{n}", tokens[n]), 99)
    assert Counter(answer.outcome for answer in answers) == {"stored": 33, "excused": 33, "ended": 33}
    assert [answer.work.names for answer in answers if answer.work.kind] == [("after",)]
    assert Counter(run.states().values()) == {"succeeded": 33, "failed": 33, "unknown": 33, "ready": 1}


def test_three_hundred_members_end_in_any_order(world):
    run = world.run(fan_plan(MANY, undone="succeeded"))
    assert run.started.work.joined_in_store, "too many for one chord"
    names = [f"m-{number}" for number in range(MANY)]
    random.Random(1).shuffle(names)
    joins = [name for name in names if run.do(name).work.kind]
    assert joins == names[-1:]
    run.complete(run.break_off("after"))
    for name in reversed(names):
        run.do(f"undo-{name}")
    assert (run.status, run.undone()) == ("failed", [f"undo-{name}" for name in reversed(names)])


def test_three_hundred_waiting_members_are_skipped(world):
    run = world.run(fan_plan(MANY))
    run.complete(run.break_off("m-7"))
    assert Counter(run.states().values()) == {"skipped": MANY - 1, "failed": 1}
    assert run.status == "failed"
