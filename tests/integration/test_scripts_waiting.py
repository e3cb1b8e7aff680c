"""complete.lua, defer.lua, wake.lua: a node that waits is ended from outside exactly as a commit or a fail would."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from orchestrator import Node, RetryPolicy, approval, signal, sleep
from tests.scripts_waits import lead, make_due, outside, waiting_rows
from tests.scripts_world import at_once, flow, node, plan_of

SHORT = timedelta(seconds=5)

STANDS = RetryPolicy(maximum_attempts=1, on_exhausted="pause")


def gated(name: str, *gates: Node[Any, Any], before: Any = None):
    """A node, gates beside the node "beside", and a node behind them."""
    builder = flow(name).then(before or node("first", undone="succeeded"))
    builder.then_parallel("both", *gates, node("beside", undone="succeeded")).then(node("last"))
    return plan_of(builder)


def send(run, name="paid", value=b"1", *, checked=True, key=None):
    return outside(run).send_signal(run.id, run.plan.hash, name, value, is_checked=checked, key=key)


def vote(run, by, verb="approve", reason="", name="ok"):
    return outside(run).vote(run.id, run.plan.hash, name, verb=verb, by=by, reason=reason)


def test_a_gate_behind_a_node_waits_and_a_signal_ends_it(world):
    run = world.run(lead(node("first"), signal("paid", int), node("last")))

    assert run.do("first").work.names == ()

    record = run.node("paid")
    assert (record["state"], record["waits"], record["attempt"]) == ("waiting", "signal", 0)
    assert run.claim("paid").outcome == "held"
    assert run.status == "running"
    assert waiting_rows(world, "signal") == [f"{run.id}|paid"]
    assert world.members(world.keys.timers) == []
    moved = send(run, value=b"7")
    assert (moved.outcome, moved.work.kind, moved.work.names) == ("taken", "step", ("last",))
    assert run.outputs()["paid"] == b"7"
    assert waiting_rows(world, "signal") == []
    run.do("last")
    assert run.status == "succeeded"


def test_a_gate_at_the_first_position_waits_from_the_start(world):
    run = world.run(lead(signal("paid", int).with_timeout(SHORT), node("last")))

    assert run.started.work.names == ()
    assert (run.status, run.node("paid")["state"]) == ("running", "waiting")
    assert run.node("paid")["due"] - run.node("paid")["since"] == 5000
    assert world.client.zscore(world.keys.timers, f"{run.id}|paid") == run.node("paid")["due"]
    assert waiting_rows(world, "signal") == [f"{run.id}|paid"]
    assert send(run).work.names == ("last",)
    assert world.members(world.keys.timers) == []


def test_gates_beside_nodes_are_joined_with_them(world):
    plan = plan_of(flow().then_parallel("all", signal("paid", int), node("beside")).then(node("last")))
    run = world.run(plan)

    assert run.started.work.names == ("beside",)
    assert run.started.work.joined_in_store
    assert run.do("beside").work.names == ()
    assert send(run).work.names == ("last",)


def test_a_gate_of_a_run_that_begins_later_waits_from_then_on(world):
    plan = plan_of(flow().then_parallel("all", signal("paid", int).with_timeout(SHORT), node("beside")))
    run = world.run(plan, begins="+60000")
    assert run.states() == {"paid": "parked", "beside": "parked"}
    assert send(run).outcome == "kept"
    record = run.node("paid") | {"due": 1}
    world.client.hset(world.keys.nodes(run.id), "paid", json.dumps(record))

    assert run.wake("paid").outcome == "ended"
    assert (run.node("paid")["state"], run.status) == ("succeeded", "running")
    assert world.members(world.keys.timers) == [f"{run.id}|beside"]
    run.cancel()


def test_a_run_of_gates_alone_ends_without_any_worker(world):
    run = world.run(lead(signal("paid", int), approval("ok"), sleep("cool", SHORT)))

    assert send(run).outcome == "taken"
    assert vote(run, "ann").outcome == "ended"
    make_due(world, run, "cool")
    assert run.wake("cool").outcome == "ended"
    assert run.status == "succeeded"
    assert run.outputs()["cool"] == b"null"


def test_what_is_sent_early_lies_in_the_inbox_and_a_key_counts_once(world):
    run = world.run(lead(node("first"), signal("paid", int), node("last")))

    assert send(run, value=b"7", key="evt-1").outcome == "kept"
    with world.unchanged():
        assert send(run, value=b"8", key="evt-1").outcome == "again"
    assert run.do("first").work.names == ("last",)
    assert run.outputs()["paid"] == b"7"
    with world.unchanged():
        assert send(run, value=b"8", key="evt-1").outcome == "again"
        assert send(run, value=b"8").outcome == "no gate"


def test_the_inbox_has_a_hundred_of_a_name(world):
    run = world.run(lead(node("first"), signal("paid", int), signal("other", int)))

    assert {send(run).outcome for _ in range(100)} == {"kept"}
    with world.unchanged():
        assert send(run).outcome == "full"
    assert send(run, "other").outcome == "kept"


def test_what_no_gate_took_is_noted_at_the_end(world):
    run = world.run(lead(node("first"), signal("paid", int), node("last")))
    send(run)
    send(run)
    run.do("first")
    run.do("last")

    assert run.count("signal-unused") == 1


def test_a_signal_of_a_branch_that_is_not_taken_is_refused(world):
    builder = flow().when(lambda _state: True, name="choose").then(signal("yes", int)).else_().then(signal("no", int))
    run = world.run(plan_of(builder.end_when()))

    assert send(run, "no").outcome == "kept"
    run.do("choose", choice=0)
    assert send(run, "no").outcome == "no gate"
    assert send(run, "yes").outcome == "taken"
    assert run.status == "succeeded"


def test_what_nobody_checked_waits_for_a_worker_to_judge_it(world):
    run = world.run(lead(signal("paid", int), node("last")))
    judge = outside(run).judge_signal

    assert send(run, value=b'"x"', checked=False).outcome == "kept"
    assert send(run, value=b"7").outcome == "kept", "behind what came before it"
    assert ("unjudged", "paid", "0") in [(seen.kind, seen.node, seen.detail) for seen in run.look()]
    assert judge(run.id, run.plan.hash, "paid", 0, fits=False, text=b"not a number").work.names == ("last",)
    assert run.outputs()["paid"] == b"7"
    assert run.count("signal-refused") == 1
    with world.unchanged():
        assert judge(run.id, run.plan.hash, "paid", 0, fits=True, text=b"8").outcome == "again"


def test_two_gates_of_one_signal_take_one_each_the_oldest_first(world):
    gates = [signal("one", int, of="paid"), signal("two", int, of="paid")]
    run = world.run(plan_of(flow().then(gates[0]).then(gates[1])))

    assert send(run, value=b"1").outcome == "taken"
    assert run.states() == {"one": "succeeded", "two": "waiting"}
    assert send(run, value=b"2").outcome == "taken"
    assert (run.outputs()["one"], run.outputs()["two"]) == (b"1", b"2")


def test_a_timeout_goes_on_with_the_default(world):
    run = world.run(lead(signal("paid", int, default=0).with_timeout(SHORT), node("last")))

    with world.unchanged():
        assert run.wake("paid").outcome == "asleep"
    make_due(world, run, "paid")
    assert run.wake("paid").work.names == ("last",)
    assert run.outputs()["paid"] == b"0"
    with world.unchanged():
        assert run.wake("paid").outcome == "asleep"
        assert send(run).outcome == "no gate", "a late signal counts as sent after the timeout"


def test_a_timeout_without_a_default_fails_and_compensates(world):
    run = world.run(gated("f", signal("paid", int).with_timeout(SHORT)))
    run.do("first")
    run.do("beside")
    make_due(world, run, "paid")

    moved = run.wake("paid")

    assert (moved.outcome, moved.work.kind, moved.work.names[0]) == ("ended", "saga", "undo-beside")
    assert run.node("paid")["state"] == "failed"
    assert world.store.failure(run.id, "paid")
    assert world.store.run(run.id).error.type == "orchestrator.errors.NodeTimeout"


def test_a_quorum_of_votes_approves(world):
    run = world.run(lead(approval("ok", quorum=2, approvers=["ann", "bob"]), node("last")))

    assert vote(run, "eve").outcome == "no approver"
    assert vote(run, "ann", reason="fits").outcome == "counted"
    with world.unchanged():
        assert vote(run, "ann").outcome == "voted"
        assert vote(run, "ann", "reject").outcome == "voted"
    assert vote(run, "bob").work.names == ("last",)
    output = json.loads(run.outputs()["ok"])
    assert [(each["by"], each["reason"]) for each in output["votes"]] == [("ann", "fits"), ("bob", "")]
    with world.unchanged():
        assert vote(run, "cid").outcome == "not open"


def test_the_first_rejection_is_final(world):
    run = world.run(gated("f", approval("ok", quorum=2)))
    run.do("first")
    run.do("beside")
    vote(run, "ann")

    assert vote(run, "bob", "reject", reason="too dear").work.names[0] == "undo-beside"
    assert world.store.run(run.id).error.message == "bob rejected it: too dear"
    assert world.store.run(run.id).error.type == "orchestrator.errors.Rejected"
    assert vote(run, "cid").outcome == "ending"


@pytest.mark.parametrize("sends", [True, False])
def test_a_cancel_skips_gates_and_a_signal_is_refused(world, *, sends):
    run = world.run(gated("f", signal("paid", int).with_timeout(SHORT), approval("ok")))
    run.do("first")
    run.do("beside")
    if sends:
        send(run)

    moved = run.cancel()

    assert run.states()["paid"] == ("succeeded" if sends else "skipped")
    assert run.states()["ok"] == "skipped"
    assert moved.work.names[0] == "undo-beside"
    assert (send(run).outcome, vote(run, "ann").outcome) == ("ending", "ending")
    assert world.members(world.keys.timers) == waiting_rows(world, "signal") == waiting_rows(world, "approval") == []


def test_resume_asks_afresh_what_failed_and_not_what_succeeded(world):
    run = world.run(lead(signal("paid", int), approval("ok"), node("last")))
    send(run, value=b"7")
    vote(run, "bob", "reject")
    assert run.status == "failed"

    assert run.resume().work.names == ()

    assert run.states() == {"paid": "succeeded", "ok": "waiting"}
    assert vote(run, "bob").work.names == ("last",)


def test_the_inbox_survives_resume(world):
    run = world.run(lead(signal("one", int), node("bad", attempts=1), signal("two", int, of="one"), node("last")))
    send(run, "one", b"1")
    send(run, "one", b"2")
    run.break_off("bad")
    assert run.status == "failed"
    run.resume()

    assert run.do("bad").work.names == ("last",)
    assert run.outputs()["two"] == b"2"


def test_a_look_puts_back_what_the_indexes_have_lost(world):
    run = world.run(lead(signal("paid", int).with_timeout(SHORT)))
    world.client.delete(world.keys.timers, f"{world.keys.index}:waiting:signal")

    assert run.look() == []

    assert world.members(world.keys.timers) == waiting_rows(world, "signal") == [f"{run.id}|paid"]


@pytest.mark.parametrize("default", [True, False])
def test_of_a_signal_and_a_timeout_at_once_one_counts(world, *, default):
    options: dict[str, Any] = {"default": 0} if default else {}
    run = world.run(lead(signal("paid", int, **options).with_timeout(SHORT), node("last")))
    make_due(world, run, "paid")

    answers = at_once(lambda number: (run.wake("paid") if number % 2 else send(run)).outcome, 20)

    assert answers.count("ended") + answers.count("taken") == 1
    expected = (
        {"ended", "asleep", "no gate" if default else "ending"}
        if "ended" in answers
        else {"taken", "asleep", "no gate"}
    )
    assert set(answers) <= expected


def test_of_a_signal_and_a_cancel_at_once_one_counts(world):
    run = world.run(lead(signal("paid", int), node("last", undone="succeeded")))

    answers = at_once(lambda number: (run.cancel() if number % 2 else send(run)).outcome, 20)

    assert answers.count("ending") >= 1
    assert answers.count("taken") + (run.node("paid")["state"] == "skipped") == 1
    assert run.status == "cancelled"
