"""Fused flows on real workers: one Celery task for a stretch of nodes, each still claimed, stored and undone alone."""

from __future__ import annotations

from collections import Counter

import pytest
from celery.events import EventReceiver

from tests.harness import load_program, wait_until, workers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fused")


@pytest.fixture(scope="module")
def fused(server, folder):
    program = load_program("fused", server.url)
    options = ["-c", "4", "-Q", "fused,fused-other", "-E"]
    with workers("tests.programs.fused", server.url, folder, options=options, lease="3", reconcile_every="0.5"):
        yield program


def starts_of(ledger, run):
    counted = Counter(name for name in ledger.names("start") if name.startswith(run.id))
    return {name.split("/")[1]: count for name, count in counted.items()}


def received(folder, name):
    """How many tasks of a name the workers' logs say were received."""
    lines = [line for path in folder.glob("*.log") for line in path.read_text().splitlines()]
    return sum(f"Task {name}[" in line and line.endswith("received") for line in lines)


def test_a_line_is_one_celery_task_and_every_node_runs_once_in_one_process(fused, folder, ledger):
    before = received(folder, "fused-line.n-0")
    run = fused.orchestrator.start("fused-line")
    assert run.wait(timeout=30) == "succeeded"
    assert starts_of(ledger, run) == {f"n-{number}": 1 for number in range(10)}
    assert len({run.output(f"n-{number}")[0] for number in range(10)}) == 1
    wait_until(lambda: received(folder, "fused-line.n-0") == before + 1, "its task is in the log")
    assert all(received(folder, f"fused-line.n-{number}") == 0 for number in range(1, 10))


def test_a_crash_repeats_only_the_node_that_was_running(fused, ledger):
    run = fused.orchestrator.start("fused-dies")
    assert run.wait(timeout=30) == "succeeded"
    assert starts_of(ledger, run) == {"a": 1, "b": 2, "c": 1}


def test_a_retry_leaves_the_process_and_goes_on_from_there(fused, ledger):
    run = fused.orchestrator.start("fused-retries")
    assert run.wait(timeout=30) == "succeeded"
    assert starts_of(ledger, run) == {"a": 1, "b": 2, "c": 1}
    assert [event.event for event in run.history() if event.node == "b"] == [
        "started",
        "retrying",
        "started",
        "succeeded",
    ]


def test_a_failure_is_compensated_and_shown_as_the_nodes_own(fused, folder, ledger):
    run = fused.orchestrator.start("fused-fails")
    assert run.wait(timeout=30) == "failed"
    assert (run.error.node_name, run.error.type, run.error.message) == ("b", "builtins.ValueError", "no way")
    assert ledger.names("undo") == ["first"]
    assert starts_of(ledger, run) == {"a": 1}
    log = "Task fused-fails.b["
    wait_until(lambda: any(log in path.read_text() for path in folder.glob("*.log")), "the failed task is in the log")


def test_a_node_that_is_stuck_in_c_is_ended_at_its_limit(fused):
    run = fused.orchestrator.start("fused-stuck")
    assert run.wait(timeout=60) == "succeeded"
    assert [event.event for event in run.history() if event.node == "b"] == [
        "started",
        "timed-out",
        "started",
        "succeeded",
    ]
    assert run.output("a", list)[1] == 1


def test_a_fan_out_leaves_the_process_and_is_joined(fused, ledger):
    run = fused.orchestrator.start("fused-fan")
    assert run.wait(timeout=30) == "succeeded"
    assert starts_of(ledger, run) == dict.fromkeys("alrbc", 1)


@pytest.mark.parametrize(("given", "taken"), [(1, "small"), (2, "big")])
def test_a_branch_is_decided_on_the_way(fused, ledger, given, taken):
    run = fused.orchestrator.start("fused-branch", given)
    assert run.wait(timeout=30) == "succeeded"
    assert starts_of(ledger, run) == {"a": 1, taken: 1, "c": 1}


@pytest.mark.parametrize("count", [0, 5])
def test_a_map_is_passed_through(fused, ledger, count):
    run = fused.orchestrator.start("fused-map", count)
    assert run.wait(timeout=30) == "succeeded"
    assert run.output("item") == [2 * number for number in range(count)]
    assert starts_of(ledger, run) == {"a": 1, "b": 1, "c": 1}


def test_a_rate_limit_holds_between_the_nodes_of_a_stretch(fused, ledger):
    run = fused.orchestrator.start("fused-limited")
    assert run.wait(timeout=30) == "succeeded"
    at = [ledger.times("start", f"{run.id}/{name}")[0] for name in "abc"]
    assert at[1] - at[0] > 0.4
    assert at[2] - at[1] > 0.4


def test_a_cancel_stops_the_stretch(fused, ledger):
    run = fused.orchestrator.start("fused-cancelled")
    ledger.wait_for("start", f"{run.id}/b")
    run.cancel()
    assert run.wait(timeout=30) == "cancelled"
    assert starts_of(ledger, run) == {"a": 1, "b": 1}


def test_another_queue_ends_the_stretch(fused, folder, ledger):
    run = fused.orchestrator.start("fused-queues")
    assert run.wait(timeout=30) == "succeeded"
    assert starts_of(ledger, run) == {"a": 1, "b": 1, "c": 1}
    wait_until(lambda: received(folder, "fused-queues.c") == 1, "each queue gets a message")
    assert received(folder, "fused-queues.b") == 1


def test_a_monitor_sees_every_node_as_a_task_of_its_own(fused):
    seen: list[tuple[str, str]] = []
    with fused.app.connection_for_read() as connection:
        receiver = EventReceiver(
            connection, handlers={"*": lambda event: seen.append((event["type"], event.get("name", "")))}, app=fused.app
        )
        events = receiver.itercapture(timeout=30)
        run = None
        for _ in events:
            run = run or fused.orchestrator.start("fused-line")
            done = {name for kind, name in seen if kind == "task-succeeded"}
            if len(done & {f"fused-line.n-{number}" for number in range(10)}) == 10:
                break
    told = Counter(seen)
    for number in range(10):
        for kind in ("task-received", "task-started", "task-succeeded"):
            assert told[kind, f"fused-line.n-{number}"] >= 1, (kind, number)
