"""Runs on real workers: segments, joins, retries, cancel, run timeout, rollback, resume, limits, tasks as nodes."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from orchestrator import InvalidInput, RunError, RunFailed


def test_a_line_of_thirty_nodes_passes_its_values_on(sample):
    run = sample.orchestrator.start("line", {"value": 5})
    assert run.result(int, timeout=30) == 35
    assert run.output("step-0", int) == 6


def test_a_parallel_step_follows_a_parallel_step(sample, ledger):
    run = sample.orchestrator.start("two-fans")
    names = [f"{fan}-{n}" for fan in ("first", "second") for n in range(4)]
    assert run.result(list[str], timeout=30) == sorted(names)
    assert sorted(ledger.names("start")) == sorted(names)
    first_ends = max(ledger.times("start", f"first-{n}")[0] for n in range(4))
    assert first_ends < min(ledger.times("start", f"second-{n}")[0] for n in range(4))


def test_a_wide_step_is_joined_in_the_stored_state(sample):
    assert sample.orchestrator.start("wide").result(int, timeout=60) == 60


def test_a_failed_attempt_is_made_again(sample, ledger):
    run = sample.orchestrator.start("retries")
    assert run.result(list[int], timeout=30) == [3]
    assert len(ledger.names("start")) == 3
    assert run.state().failure("fails-twice") is None
    assert [event.event for event in run.history() if event.node] == [
        "started", "retrying", "started", "retrying", "started", "succeeded",
    ]  # fmt: skip


def test_the_last_failure_ends_the_run(sample, ledger):
    run = sample.orchestrator.start("exhausted")
    with pytest.raises(RunFailed, match="never") as caught:
        run.result(timeout=30)
    assert caught.value.error.attempt == 3
    assert caught.value.error.type == "builtins.ConnectionError"
    assert "fails_always" in caught.value.error.traceback
    assert len(ledger.names("start")) == 3
    assert run.failures()["fails-always"].attempt == 3


def test_a_node_may_ask_for_its_next_attempt(sample, ledger):
    run = sample.orchestrator.start("later")
    assert run.result(int, timeout=30) == 2
    first, second = ledger.times("start", "asks-for-later")
    assert second - first >= 0.3


def test_terminal_ends_a_node_at_once(sample, ledger):
    run = sample.orchestrator.start("terminal")
    assert run.wait(timeout=30) == "failed"
    assert run.error.message == "no use"
    assert ledger.names("start") == ["gives-up"]


def test_cancel_lets_what_runs_end_and_undoes_it(sample, ledger):
    run = sample.orchestrator.start("to-cancel")
    ledger.wait_for("start", "patient")
    run.cancel("changed my mind")
    assert run.wait(timeout=30) == "cancelled"
    assert run.error.type.endswith("RunCancelled")
    assert "changed my mind" in run.error.message
    assert ledger.names("undo") == ["patient(stopped)", "reserve(room-1)"]
    assert "never" not in ledger.names("start")


def test_a_run_out_of_time_is_ended_and_undone(sample, ledger):
    run = sample.orchestrator.start("out-of-time")
    assert run.wait(timeout=30) == "failed"
    assert run.error.type.endswith("RunTimeout")
    assert run.error.node_name is None
    assert ledger.names("undo") == ["early(done)"]
    assert "never-again" not in ledger.names("start")


def test_a_failed_compensation_is_named_and_only_it_is_repeated(sample, ledger):
    run = sample.orchestrator.start("rollback")
    assert run.wait(timeout=30) == "compensation_failed"
    assert run.error.node_name == "needs-help"
    assert ledger.names("undo") == ["third-order(c)", "stubborn(b)", "first-order(a)"]

    ledger.client.set("other-side-is-back", 1)
    run.resume()
    assert run.wait(timeout=30) == "failed"
    assert ledger.names("undo")[3:] == ["stubborn(b)"]

    ledger.client.set("mended", 1)
    run.resume()
    assert run.result(str, timeout=30) == "helped"
    assert run.error is None


def test_resume_goes_forward_from_what_is_done(sample, ledger):
    run = sample.orchestrator.start("forward")
    assert run.wait(timeout=30) == "failed"
    assert ledger.names("undo") == ["undone-half(undone-half)"]
    ledger.client.set("mended", 1)
    run.resume()
    assert run.result(list[str], timeout=30) == ["bad-half", "good-half", "kept", "undone-half"]
    starts = ledger.names("start")
    assert (starts.count("kept"), starts.count("good-half"), starts.count("undone-half")) == (1, 1, 2)
    assert starts.count("needs-help") == 2


def test_a_node_has_one_key_for_all_attempts_and_another_one_after_it_was_undone(sample, ledger):
    run = sample.orchestrator.start("keyed")
    assert run.wait(timeout=30) == "failed"
    ledger.client.set("mended", 1)
    run.resume()
    assert run.wait(timeout=30) == "succeeded"
    first, repeated, *later = ledger.names("key")
    assert first == repeated
    assert run.id in first
    assert len({first, *later}) == 2


def test_a_run_that_has_not_ended_cannot_be_resumed(sample, ledger):
    run = sample.orchestrator.start("to-cancel")
    ledger.wait_for("start", "patient")
    with pytest.raises(RunError, match="the run is running; only a paused, failed"):
        run.resume()
    run.cancel()
    assert run.wait(timeout=30) == "cancelled"


def test_an_evenly_spaced_limit_holds(sample, ledger):
    run = sample.orchestrator.start("limited")
    assert run.wait(timeout=30) == "succeeded"
    at = sorted(ledger.times("start", "limited"))
    # Burst 1 and 5 a second: number k (from 0) is granted at least k / 5 s after the first grant.
    assert all(when - at[0] >= k / 5 - 0.1 for k, when in enumerate(at))


def test_a_celery_task_is_a_node_and_still_a_task(sample):
    assert sample.orchestrator.start("uses-task").result(int, timeout=30) == 5
    assert sample.add.delay(4, 5).get(timeout=30) == 9


def test_async_nodes_and_async_clients(sample):
    async def go() -> str:
        run = await sample.orchestrator.start_async("asynchronous")
        assert await run.wait_async(timeout=30) == "succeeded"
        assert await run.result_async(str) == f"{run.id}/sleeps/0"
        return str(run.id)

    assert asyncio.run(go())


def test_runs_are_listed_newest_first(sample):
    orchestrator = sample.orchestrator
    first, second = orchestrator.start("later"), orchestrator.start("terminal")
    assert [first.wait(timeout=30), second.wait(timeout=30)] == ["succeeded", "failed"]
    assert orchestrator.runs(flow="later", limit=1)[0].id == first.id
    assert orchestrator.runs(status="failed", limit=1)[0].id == second.id
    assert second.id in [run.id for run in orchestrator.runs(flow="terminal", status="failed")]
    assert second.id in [run.id for run in orchestrator.runs(limit=5)]


@pytest.mark.parametrize("timeout", ["5", float("nan"), True])
def test_a_timeout_that_is_none_is_refused(sample, timeout):
    run = sample.orchestrator.start("later")
    with pytest.raises(InvalidInput, match="a timeout is a number of seconds, a timedelta, or None, not"):
        run.wait(timeout)
    with pytest.raises(InvalidInput, match="a timeout is"):
        asyncio.run(run.wait_async(timeout))
    assert run.wait(timedelta(seconds=30)) == "succeeded"
