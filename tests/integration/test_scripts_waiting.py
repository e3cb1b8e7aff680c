"""complete.lua, defer.lua, wake.lua: a node that waits is ended from outside exactly as a commit or a fail would."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator import Node, RetryPolicy, approval, signal, sleep
from tests.scripts_world import FAILURE, at_once, flow, mapped_run, node, plan_of

if TYPE_CHECKING:
    from orchestrator.store.scripts.outside import Outside

SHORT = timedelta(seconds=5)

STANDS = RetryPolicy(maximum_attempts=1, on_exhausted="pause")


def lead(*steps, name="f"):
    """A plan of gates and nodes one behind the other."""
    builder = flow(name)
    for step in steps:
        builder.then(step)
    return plan_of(builder)


def gated(name: str, *gates: Node[Any, Any], before: Any = None):
    """A node, gates beside the node "beside", and a node behind them."""
    builder = flow(name).then(before or node("first", undone="succeeded"))
    builder.then_parallel("both", *gates, node("beside", undone="succeeded")).then(node("last"))
    return plan_of(builder)


def outside(run) -> Outside:
    found: Outside = run.scripts.outside
    return found


def send(run, name="paid", value=b"1", *, checked=True, key=None):
    return outside(run).send_signal(run.id, run.plan.hash, name, value, is_checked=checked, key=key)


def vote(run, by, verb="approve", reason="", name="ok"):
    return outside(run).vote(run.id, run.plan.hash, name, verb=verb, by=by, reason=reason)


def make_due(world, run, name):
    """Let the due instant of a node that waits have come."""
    record = run.node(name)
    assert world.client.zscore(world.keys.timers, f"{run.id}|{name}") == record["due"]
    now = world.store.now_ms()
    world.client.hset(world.keys.nodes(run.id), name, json.dumps(record | {"due": now}))
    world.client.zadd(world.keys.timers, {f"{run.id}|{name}": now})


def waiting_rows(world, kind):
    return world.members(f"{world.keys.index}:waiting:{kind}")


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


# Behind an attempt.


def wait(run, name, token, *, waits="callback", **options):
    return outside(run).wait(run.id, run.plan.hash, name, token, waits=waits, **options)


def opened(run, name, token, secret="s3cret"):
    assert outside(run).open_callback(run.id, run.plan.hash, name, token, secret) == secret
    return secret


def call_back(run, name, secret, text=b'"done"', *, verb="complete", generation=0):
    return outside(run).end_callback(
        run.id, run.plan.hash, name, verb=verb, text=text, secret=secret, generation=generation
    )


def deferred(world, *, lasts_ms=0, attempts=3):
    """A run whose first node waits for its callback, with another node behind it."""
    run = world.run(lead(node("ask", attempts=attempts, undone="started"), node("last")))
    token = run.hold("ask")
    secret = opened(run, "ask", token)
    assert wait(run, "ask", token, lasts_ms=lasts_ms, delay_ms=1000).outcome == "waiting"
    return run, token, secret


def test_a_deferred_node_is_completed_once(world):
    run, token, secret = deferred(world)

    assert run.claim("ask").outcome == "held"
    assert (run.field("running"), world.store.claims("worker/1")) == ("1", [])
    with world.unchanged():
        assert wait(run, "ask", token).outcome == "waiting"
        assert call_back(run, "ask", "other").outcome == "stale"
        assert call_back(run, "ask", secret, generation=1).outcome == "stale"
        assert run.commit("ask", token).outcome == "fenced"
    moved = call_back(run, "ask", secret)
    assert (moved.outcome, moved.work.names, run.field("running")) == ("ended", ("last",), "0")
    assert run.outputs()["ask"] == b'"done"'
    with world.unchanged():
        assert call_back(run, "ask", secret).outcome == "stale"


def test_a_callback_that_fails_is_a_failure_of_the_node(world):
    run, _, secret = deferred(world)

    assert call_back(run, "ask", secret, FAILURE.encode(), verb="fail").work.names == ("undo-ask",)
    assert run.node("ask")["state"] == "compensating"


def test_the_timeout_of_a_deferred_node_is_a_failed_attempt(world):
    run, _, secret = deferred(world, lasts_ms=5000, attempts=2)
    make_due(world, run, "ask")

    assert run.wake("ask").outcome == "ended"
    assert (run.node("ask")["state"], run.node("ask")["attempt"], run.field("running")) == ("parked", 1, "0")
    make_due(world, run, "ask")
    assert run.wake("ask").work.names == ("ask",)
    token = run.hold("ask")
    assert outside(run).open_callback(run.id, run.plan.hash, "ask", token, "new") == secret
    assert wait(run, "ask", token, lasts_ms=5000).outcome == "waiting"
    make_due(world, run, "ask")
    assert run.wake("ask").work.names == ("undo-ask",)


@pytest.mark.parametrize("lasts_ms", [0, 120_000])
def test_a_deadline_ends_the_wait_for_a_callback_and_no_attempt_follows(world, lasts_ms):
    run = world.run(lead(node("ask", attempts=3, undone="started").with_deadline(timedelta(minutes=1)), node("last")))
    token = run.hold("ask")
    secret = opened(run, "ask", token)
    wait(run, "ask", token, lasts_ms=lasts_ms, delay_ms=1000)
    record = run.node("ask")
    assert record["due"] == record["ends"]
    world.client.hset(world.keys.nodes(run.id), "ask", json.dumps(record | {"ends": record["ends"] - 60_000}))
    make_due(world, run, "ask")

    assert run.wake("ask").work.names == ("undo-ask",)

    assert run.node("ask")["state"] == "compensating"
    assert world.client.zscore(world.keys.timers, f"{run.id}|ask") is None
    assert "within its deadline of 60 s" in world.store.run(run.id).error.message
    assert call_back(run, "ask", secret).outcome == "stale"


def test_no_attempt_follows_a_callback_that_could_not_begin_before_the_deadline(world):
    run = world.run(lead(node("ask", attempts=3, undone="started").with_deadline(timedelta(minutes=1)), node("last")))
    wait(run, "ask", run.hold("ask"), lasts_ms=5000, delay_ms=60_000)
    make_due(world, run, "ask")
    assert run.wake("ask").work.names == ("undo-ask",)


@pytest.mark.parametrize("how", ["defers", "lost", "last lost", "parked", "returns", "fails"])
def test_a_completion_while_the_attempt_runs_is_kept(world, how):
    run = world.run(lead(node("ask", attempts=1 if how == "last lost" else 2), node("last")))
    token = run.hold("ask")
    secret = opened(run, "ask", token)

    assert call_back(run, "ask", secret).outcome == "kept"
    with world.unchanged():
        assert call_back(run, "ask", secret).outcome == "stale"
    if how == "defers":
        moved = wait(run, "ask", token)
        assert moved.outcome == "completed"
    elif how == "returns":
        moved = run.commit("ask", token, b'"own"')
    elif how in {"parked", "fails"}:
        moved = run.fail("ask", token, delay_ms=1000 if how == "parked" else -1)
    else:
        moved = run.lose("ask", token)
    if how == "fails":
        assert run.status == "failed"
        return
    assert moved.work.names == ("last",)
    assert run.outputs()["ask"] == (b'"own"' if how == "returns" else b'"done"')
    assert run.node("ask")["state"] == "succeeded"


@pytest.mark.parametrize("state", ["parked", "ready"])
def test_a_completion_between_two_attempts_ends_the_node(world, state):
    run = world.run(lead(node("ask"), node("last")))
    token = run.hold("ask")
    secret = opened(run, "ask", token)
    run.lose("ask", token, delay_ms=1000 if state == "parked" else 0)
    assert run.node("ask")["state"] == state

    assert call_back(run, "ask", secret).work.names == ("last",)
    assert run.claim("ask").outcome == "done"
    assert world.members(world.keys.timers) == []


def test_the_timeout_of_its_last_attempt_lets_a_node_stand_that_waits_for_somebody(world):
    run = world.run(lead(node("ask").with_retry(STANDS), node("last")))
    secret = opened(run, "ask", token := run.hold("ask"))
    wait(run, "ask", token, lasts_ms=5000, delay_ms=1000)
    make_due(world, run, "ask")

    assert run.wake("ask").outcome == "ended"
    assert (run.status, run.node("ask")["state"], run.field("running")) == ("paused", "paused", "0")
    assert run.resume().outcome == "continued"
    token = run.hold("ask")
    assert outside(run).open_callback(run.id, run.plan.hash, "ask", token, "new") == secret, "somebody may have it"


def test_a_completion_is_kept_where_the_last_attempt_would_let_the_node_stand(world):
    run = world.run(lead(node("ask").with_retry(STANDS), node("last")))
    secret = opened(run, "ask", token := run.hold("ask"))
    call_back(run, "ask", secret)

    assert run.fail("ask", token, delay_ms=1000).work.names == ("last",)
    assert (run.status, run.outputs()["ask"]) == ("running", b'"done"')


def test_a_callback_that_waits_is_unknown_when_the_run_ends(world):
    run, _, secret = deferred(world)

    assert run.cancel().work.names == ("undo-ask",)
    assert run.node("ask")["ended_as"] == "unknown"
    assert (run.field("running"), call_back(run, "ask", secret).outcome) == ("0", "stale")
    assert waiting_rows(world, "callback") == []


def test_an_attempt_that_defers_in_an_ending_run_is_unknown(world):
    run = world.run(lead(node("ask", undone="started"), node("last")))
    token = run.hold("ask")
    run.cancel()

    assert wait(run, "ask", token).work.names == ("undo-ask",)
    assert run.node("ask")["ended_as"] == "unknown"


def test_items_of_a_map_wait_within_its_width(world):
    run = mapped_run(world, 3, max_concurrency=1)
    token = run.hold("item")
    secret = opened(run, "item[0]", token)

    assert wait(run, "item[0]", token).work.names == ()
    assert run.claim("item").outcome == "full"
    assert call_back(run, "item[0]", secret, b"5").work.names == ("item",)
    for number in (1, 2):
        moved = run.commit(f"item[{number}]", run.hold("item"), b"6")
    assert moved.work.names == ("after",)
    assert run.outputs()["item"] == b"[5,6,6]"


def test_an_instant_that_an_attempt_computed_holds_nothing(world):
    run = world.run(lead(node("opens"), node("last")))
    token = run.hold("opens")
    due = world.store.now_ms() + 60_000

    assert wait(run, "opens", token, waits="sleep", due_ms=due).outcome == "waiting"
    assert (run.node("opens")["due"], run.field("running")) == (due, "0")
    make_due(world, run, "opens")
    assert run.wake("opens").work.names == ("last",)
