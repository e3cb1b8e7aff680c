"""Gates and callbacks on real workers: nothing of the fleet is held while a node waits, and it ends once."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from celery import Celery

from orchestrator import (
    Approval,
    ApprovalRefused,
    InvalidInput,
    Orchestrator,
    RunStatus,
    SignalRefused,
    StaleCallback,
    UnknownRun,
)
from tests.harness import load_program, wait_until, workers


@pytest.fixture(scope="module")
def waiting(server, tmp_path_factory):
    program = load_program("waiting", server.url)
    folder = tmp_path_factory.mktemp("waiting")
    with workers("tests.programs.waiting", server.url, folder, options=["-c", "2", "-Q", "waiting"]):
        yield program


@pytest.fixture(scope="module")
def elsewhere(server):
    """A client that has no code of any flow."""
    return Orchestrator(Celery("elsewhere", broker=server.url, backend=server.url))


def start(waiting, flow, given=None, **options):
    return waiting.orchestrator.start(flow, given, **options)


def state_of(waiting, run, node):
    return waiting.orchestrator._engine.store.node(run.id, node).get("state")


def await_state(waiting, run, node, state="waiting"):
    wait_until(lambda: state_of(waiting, run, node) == state, f"{node} is {state}")


def callback_of(waiting, run, suffix=""):
    key = f"callback {run.id}{suffix}"
    return wait_until(lambda: waiting.LEDGER.client.get(key), "the callback is known")


def test_gates_wait_for_a_signal_and_a_person(waiting):
    run = start(waiting, "gated")
    run.signal("paid", waiting.Payment(amount=7), key="evt-1")
    run.signal("paid", waiting.Payment(amount=8), key="evt-1")
    await_state(waiting, run, "ok")
    assert run.status == RunStatus.RUNNING
    run.approve("ok", by="ann", reason="fits")
    assert run.result(int, timeout=30) == 7
    (vote,) = run.output("ok", Approval).votes
    assert (vote.by, vote.reason) == ("ann", "fits")
    assert abs((datetime.now(UTC) - vote.at).total_seconds()) < 60


def test_a_rejection_compensates(waiting):
    run = start(waiting, "gated")
    await_state(waiting, run, "ok")
    run.reject("ok", by="bob", reason="too dear")
    assert run.wait(timeout=30) == RunStatus.FAILED
    assert run.error is not None
    assert (run.error.type, run.error.message) == ("orchestrator.errors.Rejected", "bob rejected it: too dear")
    assert waiting.LEDGER.names("undo-reserve") == [run.id]


@pytest.mark.parametrize("flow", ["first", "mixed", "fused-gates"])
def test_a_signal_ends_a_gate_wherever_it_stands(waiting, flow):
    run = start(waiting, flow)
    await_state(waiting, run, "paid")
    run.signal("paid", waiting.Payment(amount=3))
    assert run.result(int, timeout=30) == 3


def test_timeouts_and_sleeps_of_many_runs_hold_no_worker(waiting):
    runs = [start(waiting, "late") for _ in range(20)]
    began = time.monotonic()
    assert [run.result(int, timeout=60) for run in runs] == [0] * 20
    assert time.monotonic() - began < 10, "12 seconds of waiting on two processes"


def test_a_timeout_without_a_default_compensates(waiting):
    run = start(waiting, "never")
    assert run.wait(timeout=30) == RunStatus.FAILED
    assert run.error is not None
    assert run.error.type == "orchestrator.errors.NodeTimeout"
    assert run.id in waiting.LEDGER.names("undo-reserve")


@pytest.mark.parametrize("ahead", [-5.0, 0.5])
def test_an_instant_is_computed_once_and_the_past_is_now(waiting, ahead):
    run = start(waiting, "opens", time.time() + ahead)
    assert run.wait(timeout=30) == RunStatus.SUCCEEDED
    assert run.output("opening") is None
    assert [event.attempt for event in run.history() if event.node == "opening" and event.event == "started"] == [1]


def test_what_is_refused_says_why(waiting):
    run = start(waiting, "gated")
    await_state(waiting, run, "ok")
    with pytest.raises(SignalRefused, match="signals: paid"):
        run.signal("payed", 1)
    with pytest.raises(InvalidInput, match="amount"):
        run.signal("paid", {"amount": "many"})
    with pytest.raises(ApprovalRefused, match="approvals: ok"):
        run.approve("paid", by="ann")
    with pytest.raises(InvalidInput, match="by is a text"):
        run.approve("ok", by="")
    run.cancel()
    run.wait(timeout=30)
    with pytest.raises(SignalRefused, match="has ended"):
        run.signal("paid", {"amount": 1})
    with pytest.raises(ApprovalRefused, match="has ended"):
        run.approve("ok", by="ann")


def test_a_worker_judges_what_a_client_without_code_sends(waiting, elsewhere):
    run = elsewhere.start("first")
    run.signal("paid", {"amount": "many"})
    run.signal("paid", {"amount": 4})
    assert run.result(int, timeout=30) == 4
    assert "amount" in next(event.detail for event in run.history() if event.event == "signal-refused")


def test_what_waits_is_listed_oldest_first_and_found_by_its_key(waiting, elsewhere):
    runs = [start(waiting, "gated", idempotency_key=f"order-{number}") for number in range(2)]
    for run in runs:
        await_state(waiting, run, "ok")
    rows = [row for row in elsewhere.waiting("gated", kind="approval") if row.run_id in {run.id for run in runs}]
    assert [row.run_id for row in rows] == sorted((run.id for run in runs), key=[row.run_id for row in rows].index)
    assert rows[0].since <= rows[1].since
    assert (rows[0].flow, rows[0].node, rows[0].kind, rows[0].quorum, rows[0].until) == (
        "gated",
        "ok",
        "approval",
        1,
        None,
    )
    found = elsewhere.find("gated", idempotency_key="order-1")
    assert found.id == runs[1].id
    with pytest.raises(UnknownRun):
        elsewhere.find("gated", idempotency_key="order-9")
    for run in runs:
        run.cancel()
        run.wait(timeout=30)
    assert not [row for row in elsewhere.waiting() if row.run_id in {run.id for run in runs}]


@pytest.mark.parametrize(
    "flow", ["elsewhere", "elsewhere-later", "elsewhere-fused", "elsewhere-local", "elsewhere-beside"]
)
def test_a_node_is_completed_from_outside_once(waiting, flow):
    run = start(waiting, flow)
    callback = callback_of(waiting, run)
    await_state(waiting, run, "ask")
    waiting.orchestrator.complete(callback, "hello")
    assert run.result(str, timeout=30) == "HELLO"
    with pytest.raises(StaleCallback):
        waiting.orchestrator.complete(callback, "again")
    assert waiting.LEDGER.names("ask").count(run.id) == 1


def test_a_completion_while_the_attempt_runs_is_taken_when_it_waits(waiting):
    run = start(waiting, "elsewhere-slowly")
    waiting.orchestrator.complete(callback_of(waiting, run), "early")
    assert state_of(waiting, run, "ask") == "running"
    assert run.result(str, timeout=30) == "EARLY"


def test_the_timeout_of_a_callback_is_a_failed_attempt_that_is_retried(waiting):
    run = start(waiting, "elsewhere-briefly")
    assert run.wait(timeout=30) == RunStatus.FAILED
    assert run.error is not None
    assert (run.error.type, run.error.attempt) == ("orchestrator.errors.NodeTimeout", 2)
    assert waiting.LEDGER.names("ask").count(run.id) == 2


def test_items_of_a_map_wait_within_its_width(waiting):
    run = start(waiting, "elsewhere-mapped")
    callbacks: list[Any] = [callback_of(waiting, run, f" {item}") for item in (0, 1)]
    for item in (0, 1):
        await_state(waiting, run, f"ask[{item}]")
    assert state_of(waiting, run, "ask[2]") is None
    for item, callback in enumerate(callbacks):
        waiting.orchestrator.complete(callback, item * 10)
    waiting.orchestrator.complete(callback_of(waiting, run, " 2"), 20)
    assert run.result(list[int], timeout=30) == [0, 10, 20]


def test_a_callback_may_fail_and_is_stale_afterwards(waiting):
    run = start(waiting, "elsewhere")
    callback = callback_of(waiting, run)
    waiting.orchestrator.fail(callback, "nobody there")
    assert run.wait(timeout=30) == RunStatus.FAILED
    assert run.error is not None
    assert run.error.message == "nobody there"
    for text in (callback, "nonsense", "", "a"):
        with pytest.raises(StaleCallback):
            waiting.orchestrator.complete(text, "again")
