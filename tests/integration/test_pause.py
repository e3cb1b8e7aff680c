"""Runs that are paused on real workers, by somebody or by a node that is out of attempts, and go on by `resume`."""

from __future__ import annotations

from collections import Counter

import pytest

from orchestrator import RunError
from tests.harness import load_program, wait_until, workers


@pytest.fixture(scope="module")
def paused(server, tmp_path_factory):
    program = load_program("paused", server.url)
    folder = tmp_path_factory.mktemp("paused")
    with workers("tests.programs.paused", server.url, folder, options=["-c", "3", "-Q", "paused"]):
        yield program


def started(ledger, run):
    return dict(Counter(name.split("/")[1] for name in ledger.names("start") if name.startswith(run.id)))


@pytest.mark.parametrize("flow", ["plain", "fused", "members"])
def test_a_paused_run_finishes_what_runs_and_goes_on_by_resume(paused, ledger, flow):
    run = paused.orchestrator.start(flow)
    wait_until(lambda: "slow" in started(ledger, run), "it is at work")
    run.pause("the bank is closed")
    ledger.client.set("open", 1)
    wait_until(lambda: run._engine.store.node(run.id, "slow")["state"] == "succeeded", "what ran is finished")
    assert run.status == "paused"
    assert "last" not in started(ledger, run)
    assert "the bank is closed" in run.explain()[0].reason
    run.resume()
    assert run.wait(timeout=30) == "succeeded"
    assert set(started(ledger, run).values()) == {1}


def test_a_paused_run_is_cancelled(paused, ledger):
    run = paused.orchestrator.start("plain")
    wait_until(lambda: "slow" in started(ledger, run), "it is at work")
    run.pause()
    run.cancel()
    ledger.client.set("open", 1)
    assert run.wait(timeout=30) == "cancelled"
    assert [name.split("/")[1] for name in ledger.names("undo")] == ["undo-first"]
    with pytest.raises(RunError, match="the run is cancelled; only a run that is neither ending nor ended"):
        run.pause()


@pytest.mark.parametrize("flow", ["stuck", "killed"])
def test_a_node_out_of_attempts_stands_alone_and_gets_fresh_ones(paused, ledger, flow):
    run = paused.orchestrator.start(flow)
    wait_until(lambda: run.status == "paused", "its attempts are used up", timeout=30)
    wait_until(lambda: "beside" in started(ledger, run), "its sibling has run")
    assert started(ledger, run) == {"first": 1, "stuck": 2, "beside": 1}
    assert ledger.names("undo") == []
    reasons = {waiting.node: waiting.reason for waiting in run.explain()}
    assert "has used its 2 attempts and waits for resume()" in reasons["stuck"]
    ledger.client.set("helped", 1)
    run.resume()
    assert run.wait(timeout=30) == "succeeded"
    assert started(ledger, run) == {"first": 1, "stuck": 3, "beside": 1, "last": 1}


def test_items_out_of_attempts_stand_and_get_fresh_ones(paused, ledger):
    run = paused.orchestrator.start("items")
    wait_until(lambda: started(ledger, run) == {"0": 1, "1": 2, "2": 1, "3": 2, "4": 1, "5": 2}, "all were tried")
    wait_until(lambda: [each.state for each in run.explain()].count("paused") == 3, "they stand")
    ledger.client.set("helped", 1)
    run.resume()
    assert run.wait(timeout=30) == "succeeded"
    assert run.output("item", list[int]) == list(range(6))


def test_a_run_that_succeeded_is_undone_on_request(paused, ledger):
    run = paused.orchestrator.start("plain")
    with pytest.raises(RunError, match="only a run that succeeded can be undone"):
        run.undo()
    ledger.client.set("open", 1)
    assert run.wait(timeout=30) == "succeeded"
    run.undo("the customer changed her mind")
    assert run.wait(timeout=30) == "cancelled"
    assert (run.error.message, run.error.type) == (
        "the customer changed her mind",
        "orchestrator.errors.RunCancelled",
    )
    assert [name.split("/")[1] for name in ledger.names("undo")] == ["undo-first"]
    run.resume()
    assert run.wait(timeout=30) == "succeeded"
    assert started(ledger, run) == {"first": 2, "slow": 1, "last": 1}
