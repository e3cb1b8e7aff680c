"""Nodes that end their process or raise what is hard to catch: attempts are counted, the rest of the world goes on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.server import EmbeddedServer
from tests.harness import load_program, wait_until, workers

# The lease is the default of 30 s: what happens sooner than that was not found by waiting for it.
SOON_S = 2.0
CHILDREN = 6
WAYS = ("exit-zero", "exit-one", "kill", "abort", "null", "term", "quit", "term-broken")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def worker(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("poison")
    with workers("tests.programs.poison", server.url, folder, count=1, options=["-c", str(CHILDREN)]) as (running,):
        yield running


@pytest.fixture(scope="module")
def poison(server, worker):
    return load_program("poison", server.url)


@pytest.fixture(autouse=True)
def _worker_goes_on(worker, poison):
    """After every test: the same worker process takes fresh work."""
    yield
    assert worker.process.poll() is None, worker.log.read_text()[-4000:]
    assert poison.orchestrator.start("fresh").result(int, timeout=30)


def children(worker):
    """Process ids of the worker's children, now."""
    return {int(pid) for pid in Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()}


def events(run):
    return [event.event for event in run.history() if event.node and event.event != "republished"]


# --- nodes that end their process ------------------------------------------------------------------
@pytest.mark.parametrize("way", WAYS)
def test_a_node_that_ends_its_process_is_tried_again_at_once(poison, ledger, way):
    run = poison.orchestrator.start("dies", {"way": way, "attempts": 1})
    assert run.result(int, timeout=30) == 2
    first, second = ledger.times("start", run.id)
    assert second - first < SOON_S
    assert events(run) == ["started", "lost", "started", "succeeded"]


@pytest.mark.parametrize("way", WAYS)
def test_the_last_attempt_leaves_the_outcome_unknown_and_is_undone_if_it_only_started(poison, ledger, way):
    run = poison.orchestrator.start("unsure", {"way": way, "attempts": 1})
    assert run.wait(timeout=30) == "failed"
    assert_outcome_unknown(run, attempt=1)
    assert ledger.names("start") == [run.id], "neither repeated nor gone on from"
    assert ledger.names("undo") == ["die(None)", "before(done)"]


@pytest.mark.parametrize("way", WAYS)
def test_a_compensation_of_success_does_not_undo_an_unknown_outcome(poison, ledger, way):
    run = poison.orchestrator.start("sure", {"way": way, "attempts": 1})
    assert run.wait(timeout=30) == "failed"
    assert_outcome_unknown(run, attempt=1)
    assert ledger.names("start") == [run.id]
    assert ledger.names("undo") == ["before(done)"]


def assert_outcome_unknown(run, *, attempt):
    error = run.error
    assert error.type == "orchestrator.errors.OutcomeUnknown"
    assert (error.node_name, error.attempt) == ("die", attempt)
    assert re.fullmatch(r"its worker process \d+ died; whether its effects happened is not known", error.message)
    assert run.failures()["die"] == error


def test_the_sibling_of_a_node_that_ends_its_process_runs_once(poison, ledger):
    run = poison.orchestrator.start("beside", {"way": "kill", "attempts": 1})
    assert run.result(list[str], timeout=30) == ["die", "well"]
    assert len(ledger.times("start", run.id)) == 2
    assert [event.node for event in run.history() if event.event == "succeeded"].count("well") == 1


def test_a_poison_node_ends_after_its_attempts_and_others_go_on(poison, ledger):
    bad = poison.orchestrator.start("dies", {"way": "kill", "attempts": 99})
    good = [poison.orchestrator.start("fresh") for _ in range(20)]
    assert all(run.result(int, timeout=30) for run in good)
    assert bad.wait(timeout=30) == "failed"
    assert_outcome_unknown(bad, attempt=3)
    assert events(bad) == ["started", "lost"] * 3 + ["unknown"]
    times = ledger.times("start", bad.id)
    assert len(times) == 3


@pytest.mark.timeout(60)
def test_a_child_that_dies_before_anybody_knew_it_is_missed_at_once(poison, ledger):
    """Poison for every child of the pool: each new one dies with its first node."""
    runs = [poison.orchestrator.start("dies", {"way": "kill", "attempts": 99}) for _ in range(CHILDREN)]
    for run in runs:
        # Celery may take 5 s to replace a child, which is no lease.
        assert run.wait(timeout=28) == "failed"
        assert_outcome_unknown(run, attempt=3)
        assert len(ledger.times("start", run.id)) == 3


def test_a_process_whose_end_was_swallowed_makes_no_further_attempt(poison):
    run = poison.orchestrator.start("swallows")
    assert run.wait(timeout=30) == "succeeded"
    assert run.output("next") != run.output("swallow")
    assert events(run) == ["started", "succeeded", "started", "lost", "started", "succeeded"]


# --- exceptions ------------------------------------------------------------------------------------
EXPECTED = {
    "system-exit": ("builtins.SystemExit", "stop"),
    "keyboard-interrupt": ("builtins.KeyboardInterrupt", "stop"),
    "generator-exit": ("builtins.GeneratorExit", "stop"),
    "cancelled": ("asyncio.exceptions.CancelledError", "stop"),
    "fatal": ("tests.programs.poison.Fatal", "stop"),
    "fatal-group": ("builtins.BaseExceptionGroup", "several (2 sub-exceptions)"),
    "memory": ("builtins.MemoryError", "none left"),
    "ignore": ("celery.exceptions.Ignore", "please"),
    "reject": ("celery.exceptions.Reject", "('please', False)"),
    "requeue": ("celery.exceptions.Reject", "('please', True)"),
    "retry": ("celery.exceptions.Retry", "please"),
    "unpicklable": ("tests.programs.poison.Unpicklable", "held"),
    "particular": ("tests.programs.poison.Particular", "1 is not 2"),
    "local": ("tests.programs.poison.local_error.<locals>.Local", "here"),
    "mute": ("tests.programs.poison.Mute", "<its text cannot be read>"),
    "group": ("builtins.ExceptionGroup", "several (3 sub-exceptions)"),
    "not-json": ("builtins.ValueError", "({'lock': <unlocked _thread.lock object at "),
    "chained": ("builtins.ValueError", "number 2999"),
    "recursion": ("builtins.RecursionError", "maximum recursion depth exceeded"),
    "stop-iteration": ("builtins.StopIteration", ""),
    "surrogate": ("builtins.ValueError", "a\\ud800b"),
    "large": ("builtins.ValueError", "xxx"),
}
# What Celery must not get as it is: it would end the pool process or the worker, or be taken for an order.
REPLACED = (
    "system-exit", "keyboard-interrupt", "generator-exit", "cancelled", "fatal", "fatal-group", "memory", "ignore",
    "reject", "requeue", "retry",
)  # fmt: skip


@pytest.mark.parametrize("kind", EXPECTED)
def test_whatever_a_node_raises_is_a_failed_attempt_and_seen_by_celery(poison, worker, ledger, kind):
    size = len(worker.log.read_bytes())
    run = poison.orchestrator.start("throws", kind)
    assert run.wait(timeout=30) == "failed"
    error, (name, text) = run.error, EXPECTED[kind]
    assert (error.type, error.node_name, error.attempt) == (name, "throw", 3)
    assert error.message.startswith(text)
    assert len(error.message) < 3_000
    assert len(error.traceback) < 20_000
    assert events(run)[2:8] == ["started", "retrying"] * 2 + ["started", "failed"]
    assert ledger.names("start") == [kind] * 3
    assert ledger.names("undo") == ["kept(kept)"]

    seen = "RunError" if kind in REPLACED else name.rpartition(".")[2]
    ledger.wait_for("celery", f"throws.throw {seen}")
    failed = [told for told in ledger.names("celery") if told.startswith("throws.")]
    assert failed == [f"throws.throw {seen}"], "attempts that are made again are no failed tasks"
    assert {pid for event, _, _, pid in ledger.lines() if event == "start"} <= children(worker), "no process was lost"
    wait_until(lambda: b"Task throws.throw[" in worker.log.read_bytes()[size:], "it is logged")
    assert len(worker.log.read_bytes()) - size < 200_000


@pytest.mark.parametrize("kind", EXPECTED)
def test_a_step_that_goes_on_goes_on_without_what_raised(poison, ledger, kind):
    run = poison.orchestrator.start("throws-beside", kind)
    assert run.result(list[str], timeout=30) == ["quiet"]
    assert run.failures()["throw-beside"].type == EXPECTED[kind][0]
    assert ledger.names("start") == [kind]


def test_an_exception_whose_text_ends_the_process_is_a_lost_attempt(poison, ledger):
    run = poison.orchestrator.start("throws", "fatal-text")
    assert run.wait(timeout=30) == "failed"
    assert run.error.type == "orchestrator.errors.OutcomeUnknown"
    assert ledger.names("start") == ["fatal-text"] * 3
    assert ledger.names("undo") == ["kept(kept)"]


def test_the_name_of_an_exception_forges_no_line_of_the_log(poison, worker):
    size = len(worker.log.read_bytes())
    run = poison.orchestrator.start("throws", "forged")
    assert run.wait(timeout=30) == "failed"

    def logged():
        return worker.log.read_bytes()[size:].decode()

    wait_until(lambda: "raise error" in logged(), "its traceback is logged")
    assert [line for line in logged().splitlines() if line.startswith("[2026-11-05")] == []
