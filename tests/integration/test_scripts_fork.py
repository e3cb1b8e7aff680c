"""take_over.lua, take_parts.lua and fork.lua: a new run that begins at a step of one that has ended."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta

import pytest

from orchestrator import InvalidInput, RunError, approval, signal
from orchestrator.store.scripts.forking import Copied
from tests.scripts_fork import Fork, fork_of
from tests.scripts_tree import parent_plan, shipping
from tests.scripts_world import (
    FAILURE,
    RETENTION_MS,
    always,
    at_once,
    fan_plan,
    flow,
    line_plan,
    mapped_run,
    new_token,
    node,
    paged,
    plan_of,
)


def done(world, plan, *names, **options):
    """A run of which these nodes succeeded, one after the other."""
    run = world.run(plan, **options)
    for name in names:
        run.do(name)
    return run


def refusal(run, at, outputs=None, kind=RunError):
    """Why a fork is refused; nothing is written."""
    with run.world.unchanged(), pytest.raises(kind) as raised:
        Fork(run.world, run.plan, run.world.store.run(run.id), at, outputs or {}).take_over()
    return raised.value.message


def test_a_fork_begins_at_its_step_with_what_was_done_before(world):
    run = done(world, line_plan("a", "b", "c"), "a", "b", "c", input_json=b"7")
    fork = fork_of(run, "b", input_json=b"8")
    assert (fork.started.work.kind, fork.started.work.names, fork.status) == ("step", ("b",), "pending")
    assert (fork.states(), fork.outputs()) == ({"a": "succeeded", "b": "ready"}, {"a": b"1"})
    assert (world.store.input(fork.id), world.store.input(run.id)) == (b"8", b"7")
    assert (fork.field("forked_from"), fork.field("forked_at"), world.store.forks(run.id)) == (run.id, "b", [fork.id])
    assert run.count("forked") == fork.count("forked-from") == 1
    fork.do("b")
    fork.do("c")
    assert (fork.status, run.status, fork.count("started", "a")) == ("succeeded", "succeeded", 0)
    assert 0 < world.client.pttl(world.keys.forks(run.id)) <= RETENTION_MS


def test_a_fork_that_has_begun_is_begun_once(world):
    run = done(world, line_plan("a", "b"), "a", "b")
    made = Fork(world, run.plan, world.store.run(run.id), "b")
    copied = made.take_over()
    answers = at_once(lambda _number: made.begin(copied).outcome, 20)
    assert Counter(answers) == {"started": 1, "exists": 19}
    assert world.store.forks(run.id) == [made.id]
    with world.unchanged():
        assert made.begin(copied).outcome == "exists"
        with pytest.raises(RunError, match="what was copied is gone"):
            made.take_over()


def test_what_is_copied_and_never_begun_goes_away_and_is_no_run(world):
    run = done(world, line_plan("a", "b"), "a", "b")
    made = Fork(world, run.plan, world.store.run(run.id), "b")
    made.take_over()
    own = [name for name in world.names() if made.id in name]
    assert own
    assert all(0 < world.client.pttl(name) <= 3_600_000 for name in own)
    assert not world.store.has_run(made.id)


def test_a_source_that_was_taken_up_again_or_is_gone_is_not_forked(world):
    run = done(world, line_plan("a", "b"), "a")
    assert Fork(world, run.plan, world.store.run(run.id), "a").begin(Copied()).outcome == "not ended running"
    run.break_off("b")
    made = Fork(world, run.plan, world.store.run(run.id), "b")
    copied = made.take_over()
    run.resume()
    run.break_off("b")
    assert made.begin(copied).outcome == "changed"
    with pytest.raises(RunError, match="taken up again"):
        made.take_over()
    made = Fork(world, run.plan, world.store.run(run.id), "b")
    copied = made.take_over()
    world.client.delete(world.keys.outputs(made.id))
    assert made.begin(copied).outcome == "lost"
    world.scripts.delete_run(run.id, run.plan.hash)
    assert made.begin(copied).outcome == "unknown"


def test_what_a_fork_has_taken_over_is_never_compensated_by_it(world):
    run = done(world, line_plan("a", "b", "c", undone="succeeded", attempts=1), "a", "b", "c")
    fork = fork_of(run, "b")
    fork.do("b")
    assert fork.break_off("c").work.names == ("undo-b",)
    fork.do("undo-b")
    assert (fork.status, fork.undone(), fork.node("a")["state"]) == ("failed", ["undo-b"], "succeeded")
    assert fork.resume().work.names == ("b",), "a resume goes forward from the fork"
    fork.do("b")
    fork.do("c")
    undone = world.scripts.undo(fork.id, fork.plan.hash, token=new_token(), failure=FAILURE)
    assert undone.work.names == ("undo-c", "undo-b")


def test_a_fork_that_cannot_get_on_owes_nothing_for_what_it_has_taken_over(world):
    run = done(world, line_plan("a", "b", undone="succeeded"), "a", "b")
    fork = fork_of(run, "b")
    abandon = {"verdict": "failed", "failure": FAILURE}
    world.scripts.abandon(fork.id, fork.plan.hash, ["a", "b"], **abandon, is_last=False)
    assert world.scripts.abandon(fork.id, fork.plan.hash, [], **abandon, is_last=True) == "ended"
    assert (fork.status, fork.states()) == ("failed", {"a": "succeeded", "b": "skipped"})


def test_a_cancelled_fork_that_has_done_nothing_ends_at_once_and_is_taken_up_at_its_step(world):
    run = done(world, line_plan("a", "b", undone="succeeded"), "a", "b")
    fork = fork_of(run, "b")
    fork.cancel()
    assert (fork.status, fork.states()) == ("cancelled", {"a": "succeeded", "b": "skipped"})
    assert fork.resume().work.names == ("b",)
    fork.do("b")
    assert fork.status == "succeeded"


def test_what_was_compensated_is_refused_unless_its_output_is_given(world):
    builder = flow().then(node("a", undone="succeeded")).then(node("b")).then(node("c", attempts=1))
    run = done(world, plan_of(builder), "a", "b")
    run.break_off("c")
    run.do("undo-a")
    assert "node a was compensated; give the output" in refusal(run, "c")
    fork = fork_of(run, "c", {"a": "mine"})
    assert (fork.outputs(), fork.states()) == (
        {"a": b'"mine"', "b": b"1"},
        {"a": "succeeded", "b": "succeeded", "c": "ready"},
    )
    assert fork_of(run, "a").started.work.names == ("a",), "nothing is before it"


def test_what_is_missing_is_refused_unless_it_is_given(world):
    run = done(world, line_plan("a", "b", "c", attempts=1), "a")
    run.break_off("b")
    assert "node b has no output; give the output" in refusal(run, "c")
    assert fork_of(run, "c", {"b": 2}).outputs() == {"a": b"1", "b": b"2"}
    world.client.hdel(world.keys.outputs(run.id), "a")
    assert "node a has no output" in refusal(run, "b")


def test_names_that_are_none_are_refused(world):
    run = done(world, line_plan("alpha", "beta"), "alpha", "beta")
    assert "there is no node or step alpa; did you mean alpha?" in refusal(run, "alpa", kind=InvalidInput)
    assert "output key bet; " in refusal(run, "beta", {"bet": 1}, InvalidInput)
    assert "output key beta; " in refusal(run, "beta", {"beta": 1}, InvalidInput)


def test_a_member_of_a_parallel_step_stands_for_all_of_it(world):
    run = done(world, fan_plan(3), "m-0", "m-1", "m-2", "after")
    fork = fork_of(run, "m-1")
    assert fork.started.work.names == ("m-0", "m-1", "m-2")
    assert not fork.started.work.joined_in_store, "a chord joins it as in any other run"
    assert fork_of(run, "fan").started.work.names == fork.started.work.names


def test_failures_that_a_step_allows_are_taken_over(world):
    run = world.run(fan_plan(3, attempts=1, on_failure="continue", require=2))
    run.break_off("m-0")
    run.do("m-1")
    run.do("m-2")
    run.do("after")
    fork = fork_of(run, "after")
    assert fork.states() == {"m-0": "failed", "m-1": "succeeded", "m-2": "succeeded", "after": "ready"}
    assert world.store.failures(fork.id).keys() == {"m-0"}
    fork.cancel()
    assert fork.resume().work.names == ("after",), "what was taken over is not tried again"
    assert fork.node("m-0")["state"] == "failed"
    few = world.run(fan_plan(3, attempts=1, on_failure="continue", require=2))
    few.break_off("m-0")
    few.break_off("m-1")
    few.do("m-2")
    assert "step fan: 1 of its nodes succeeded, 2 are required" in refusal(few, "after")
    assert fork_of(few, "after", {"m-0": 1}).started.work.names == ("after",)


def test_a_decision_is_taken_over_and_the_other_branch_is_refused(world):
    builder = flow().when(always).then(node("x")).else_().then(node("y")).then(node("z")).end_when().then(node("last"))
    run = world.run(plan_of(builder))
    run.do("when-1", choice=1)
    for name in ("y", "z", "last"):
        run.do(name)
    fork = fork_of(run, "z")
    assert (fork.started.work.names, fork.node("when-1")["choice"]) == (("z",), 1)
    assert "which is on another branch" in refusal(run, "x")
    assert "leave it out" in refusal(run, "last", {"x": 1}, InvalidInput)
    again = fork_of(run, "when-1")
    assert again.started.work.names == ("when-1",)
    again.do("when-1", choice=0)
    again.do("x")
    assert again.do("last").outcome == "stored"


def test_gates_are_taken_over_or_wait_anew(world):
    plan = plan_of(flow().then(signal("paid", str)).then(approval("ok")).then(node("c")))
    run = world.run(plan)
    outside = world.scripts.outside
    outside.send_signal(run.id, plan.hash, "paid", b'"yes"', is_checked=True)
    outside.send_signal(run.id, plan.hash, "paid", b'"more"', is_checked=True)
    outside.vote(run.id, plan.hash, "ok", verb="approve", by="ann", reason="")
    run.do("c")
    fork = fork_of(run, "ok")
    assert (fork.started.work.kind, fork.status, fork.node("ok")["state"]) == ("", "running", "waiting")
    assert fork.outputs() == {"paid": b'"yes"'}
    assert outside.vote(fork.id, plan.hash, "ok", verb="approve", by="ann", reason="").outcome == "ended"
    behind = fork_of(run, "c")
    assert json.loads(behind.outputs()["ok"])["votes"][0]["by"] == "ann"


def test_the_items_of_a_map_are_taken_over_with_their_failures_or_computed_anew(world):
    run = mapped_run(world, 450, attempts=1, on_failure="continue")
    for number in range(450):
        token = run.hold("item")
        if number % 100:
            run.commit(f"item[{number}]", token, str(number).encode())
        else:
            run.fail(f"item[{number}]", token)
    run.do("after")
    fork = fork_of(run, "after")
    assert world.store.outputs(fork.id, ["item"]) == world.store.outputs(run.id, ["item"])
    assert sorted(world.store.item_failures(fork.id, "item")) == [0, 100, 200, 300, 400]
    assert fork.states() == {"all.over": "succeeded", "after": "ready"}
    fork.do("after")
    assert fork_of(run, "item").started.work.names == ("all.over",)
    given = fork_of(run, "after", {"item": [1, None]})
    assert given.outputs() == {"item": b"[1, null]"}


def test_items_that_were_compensated_are_refused(world):
    run = mapped_run(world, 3, undone=True)
    for number in range(3):
        run.commit(f"item[{number}]", run.hold("item"))
    run.fail("after", run.hold("after"))
    for number in (2, 1, 0):
        run.complete(run.do(f"undo-item[{number}]"))
    made = Fork(world, run.plan, world.store.run(run.id), "after")
    with pytest.raises(RunError, match=r"item 0 of node item was compensated; give the whole output"):
        made.take_over()


def test_pages_are_taken_over_and_a_success_moves_the_cursor_once(world):
    plan = plan_of(flow().then(paged(cursor_source="shop")).then(node("last", attempts=1)))
    run = world.run(plan)
    token = run.hold("sync")
    run.turn("sync", token, "[1]", cursor='"one"')
    run.close("sync", run.hold("sync"), "[2]")
    run.break_off("last")
    fork = fork_of(run, "last")
    assert json.loads(fork.outputs()["sync"])["items"] == [1, 2]
    fork.do("last")
    assert (world.store.cursor("f", "shop"), fork.count("cursor-moved", "sync")) == ("one", 1)
    again = fork_of(fork, "last")
    again.do("last")
    assert again.count("cursor-kept", "sync") == 1


def test_a_child_stays_the_source_s(world, tree):
    run = world.run(parent_plan(before=True))
    run.do("first")
    _, child = tree.spawn(run, "ship", shipping())
    tree.follow(tree.finish(child))
    run.do("last")
    fork = fork_of(run, "last")
    assert fork.states() == {"first": "succeeded", "ship": "succeeded", "last": "ready"}
    assert fork.break_off("last").work.kind == ""
    assert (fork.status, world.store.children(fork.id), world.store.run(child.id).status) == ("failed", [], "succeeded")


def test_a_fork_queues_again_and_its_time_begins_with_its_admission(world):
    builder = flow().with_max_runs(1).with_timeout(timedelta(minutes=5)).then(node("a")).then(node("b"))
    plan = plan_of(builder)
    run = done(world, plan, "a", "b")
    other = world.run(plan)
    fork = fork_of(run, "b")
    assert (fork.status, fork.started.work.kind, fork.field("deadline")) == ("pending", "", "")
    assert world.members(world.keys.queued("f")) == [fork.id]
    assert f"{fork.id}|" not in world.members(world.keys.timers)
    assert fork.look() == []
    other.do("a")
    other.do("b")
    assert fork.wake(":admit").work.names == ("b",)
    assert fork.field("deadline") != ""
    fork.do("b")
    assert fork.status == "succeeded"
    alone = fork_of(run, "b")
    assert (alone.started.work.names, world.members(world.keys.lane("f"))) == (("b",), [alone.id])


def test_a_deadline_and_a_schedule_s_instant_are_those_of_a_run(world):
    plan = plan_of(flow().then(node("a")).then(node("b").with_deadline(timedelta(hours=1))))
    run = done(world, plan, "a", "b")
    fork = fork_of(run, "b")
    assert fork.node("b")["ends"] > world.store.now_ms()
    assert world.members(world.keys.timers) == [f"{fork.id}|b"]
