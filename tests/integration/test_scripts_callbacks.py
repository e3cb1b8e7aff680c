"""defer.lua, open_callback.lua, complete.lua, wake.lua: attempts that wait for a callback or an instant."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from orchestrator import RetryPolicy
from tests.scripts_waits import lead, make_due, outside, waiting_rows
from tests.scripts_world import FAILURE, mapped_run, node

STANDS = RetryPolicy(maximum_attempts=1, on_exhausted="pause")


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
