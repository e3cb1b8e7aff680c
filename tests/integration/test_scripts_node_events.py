"""Rows for hooks and monitors: of each wait for something outside, and of each end in no process of an attempt."""

from __future__ import annotations

from datetime import timedelta

import pytest

from orchestrator import Node, signal, sleep
from orchestrator.definition.gates import approval
from tests.harness import wait_until
from tests.scripts_world import flow, node, plan_of

LONG = timedelta(hours=1)


def built(*steps, gated=False):
    builder = flow("f")
    if gated:
        builder.then(node("first"))
    for step in steps:
        builder.then(step)
    return plan_of(builder)


def rows(world, run):
    """Event, node, attempt and kind of each row of a run, and whether its wait has an instant."""
    found = [row for _, row in world.store.upkeep.node_events.unsent(count=10_000) if row["run"] == run.id]
    assert {row["flow"] for row in found} <= {"f"}
    return [(row["event"], row["node"], int(row["attempt"]), row["waits"], row["since"] != "") for row in found]


def send(run):
    run.scripts.outside.send_signal(run.id, run.plan.hash, "paid", b"1", is_checked=True, key=None)


def vote(run, verb):
    run.scripts.outside.vote(run.id, run.plan.hash, "ok", verb=verb, by="ann", reason="")


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize(
    ("gate", "kind", "act", "state"),
    [
        (lambda: signal("paid", int), "signal", send, "succeeded"),
        (lambda: approval("ok"), "approval", lambda run: vote(run, "approve"), "succeeded"),
        (lambda: approval("ok"), "approval", lambda run: vote(run, "reject"), "failed"),
        (lambda: approval("ok"), "approval", lambda run: run.cancel(), "skipped"),
        (lambda: sleep("nap", LONG), "sleep", lambda run: run.cancel(), "skipped"),
    ],
)
def test_a_gate_says_that_it_waits_and_how_it_ends(world, gate, kind, act, state, *, is_first):
    opened = gate()
    run = world.run(built(opened, node("last"), gated=not is_first))
    if not is_first:
        run.do("first")
    waits = ("waits", opened.name, 0, kind, True)
    assert rows(world, run) == [waits]
    act(run)
    assert rows(world, run) == [waits, (state, opened.name, 0, kind, True)]


def test_a_node_behind_an_attempt_says_it_too(world):
    run = world.run(built(node("ask"), node("last")))
    token = run.hold("ask")
    secret = run.scripts.outside.open_callback(run.id, run.plan.hash, "ask", token, "secret")
    run.scripts.outside.wait(run.id, run.plan.hash, "ask", token, waits="callback", lasts_ms=5000, delay_ms=0)
    run.scripts.outside.end_callback(
        run.id, run.plan.hash, "ask", verb="complete", text=b"1", secret=secret, generation=0
    )
    assert rows(world, run) == [("waits", "ask", 1, "callback", True), ("succeeded", "ask", 1, "callback", True)]


def test_a_wait_that_an_attempt_follows_is_over_and_its_node_has_not_ended(world):
    run = world.run(built(node("ask", attempts=2), node("last")))
    token = run.hold("ask")
    run.scripts.outside.open_callback(run.id, run.plan.hash, "ask", token, "secret")
    run.scripts.outside.wait(run.id, run.plan.hash, "ask", token, waits="callback", lasts_ms=1, delay_ms=60_000)
    wait_until(lambda: world.store.now_ms() >= run.node("ask")["due"], "its time is over")
    run.wake("ask")
    assert rows(world, run) == [("waits", "ask", 1, "callback", True), ("over", "ask", 1, "callback", True)]


@pytest.mark.parametrize(("timed_out", "state"), [(True, "failed"), (False, "unknown")])
def test_a_last_attempt_that_was_lost_says_how_its_node_ended(world, timed_out, state):
    run = world.run(built(node("a", attempts=2), node("last")))
    run.lose("a", run.hold("a"), timed_out=timed_out)
    assert rows(world, run) == []
    run.lose("a", run.hold("a"), timed_out=timed_out)
    assert rows(world, run) == [(state, "a", 2, "", False)]


def test_a_lost_compensation_names_what_it_undoes(world):
    run = world.run(built(node("a", undone="succeeded"), node("b", attempts=1)))
    run.do("a")
    run.break_off("b")
    for _ in range(run.plan.nodes["undo-a"].attempts):
        run.lose("undo-a", run.hold("undo-a"))
    (row,) = [row for _, row in world.store.upkeep.node_events.unsent(count=10_000) if row["run"] == run.id]
    assert (row["event"], row["node"], row["undoes"]) == ("unknown", "undo-a", "a")


def test_a_node_that_an_attempt_ends_says_nothing(world):
    run = world.run(built(node("a"), node("b", attempts=1)))
    run.do("a")
    run.fail("b", run.hold("b"))
    assert run.status == "failed"
    assert rows(world, run) == []


def test_a_deadline_between_two_attempts_ends_a_node_aloud(world):
    late = Node("late", lambda: None).with_deadline(timedelta(milliseconds=1))
    run = world.run(plan_of(flow("f").then(late)))
    wait_until(lambda: world.store.now_ms() >= run.node("late")["ends"], "its deadline has come")
    run.wake("late")
    assert rows(world, run) == [("failed", "late", 0, "", False)]
