"""Fan-outs that one process works on: members are claimed, stored, retried and undone alone, and joined in place."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
import redis
from celery import Celery

from orchestrator import FlowBuilder, Node, Orchestrator, RetryPolicy, manual
from orchestrator.engine import engine_of
from orchestrator.execution.attempt import Attempt
from orchestrator.store.scripts.connection import Wire
from tests.harness import load_program, wait_until, workers, write_stacks

FAN = {"a": 1, "m-0": 1, "m-1": 1, "m-2": 1, "b": 1}


def count() -> int:
    """The function of nodes that no worker calls."""
    return 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("local")


@pytest.fixture(scope="module")
def local(server, folder):
    program = load_program("local", server.url)
    options = ["-c", "4", "-Q", "local,local-other"]
    with workers("tests.programs.local", server.url, folder, options=options, lease="3", reconcile_every="0.5"):
        yield program


def run_to_its_end(local, name, status="succeeded"):
    run = local.orchestrator.start(name)
    assert run.wait(timeout=40) == status
    return run


def tell_when_stored(ledger, run, *names):
    """Let the last member go on when the others are stored."""
    wait_until(lambda: run.state().keys() >= set(names), "the others are stored", timeout=20)
    ledger.note("start", f"{run.id}/go")


def starts_of(ledger, run):
    names = [name.split("/")[1] for name in ledger.names("start") if name.startswith(run.id)]
    return dict(Counter(name for name in names if name != "go"))


def processes_of(run, *names):
    return {run.output(name)[0] for name in names}


def tasks_of(folder, flow):
    """Names of the flow's tasks that the worker's log says were received."""
    lines = [line for path in folder.glob("*.log") for line in path.read_text().splitlines()]
    return [line.split("Task ")[1].split("[")[0] for line in lines if f"Task {flow}." in line and "received" in line]


@pytest.mark.parametrize("name", ["local-fan", "local-async"])
def test_members_run_together_in_the_process_of_the_node_before_and_of_the_one_behind(local, folder, ledger, name):
    run = run_to_its_end(local, name)
    assert starts_of(ledger, run) == FAN
    assert len(processes_of(run, *FAN)) == 1
    wait_until(lambda: tasks_of(folder, name), "its task is in the log")
    assert tasks_of(folder, name) == [f"{name}.a"]


def test_a_flow_may_begin_with_one(local, folder, ledger):
    run = run_to_its_end(local, "local-first")
    assert len(processes_of(run, "m-0", "m-1", "m-2", "b")) == 1
    assert tasks_of(folder, "local-first") == []


def test_one_follows_another(local, ledger):
    run = run_to_its_end(local, "local-twice")
    assert starts_of(ledger, run) == {"a": 1, "m-0": 1, "m-1": 1, "m-2": 1, "x": 1, "y": 1}
    assert len(processes_of(run, "a", "m-0", "x", "y")) == 1


def test_more_members_than_threads_run_once_each(local, ledger):
    run = run_to_its_end(local, "local-wide")
    assert starts_of(ledger, run) == {"a": 1, "b": 1} | {f"m-{n}": 1 for n in range(local.WIDE)}


def test_a_crash_repeats_only_the_members_that_were_running(local, ledger):
    run = local.orchestrator.start("local-dies")
    tell_when_stored(ledger, run, "m-0", "m-1")
    assert run.wait(timeout=40) == "succeeded"
    assert starts_of(ledger, run) == FAN | {"m-2": 2}


def test_a_retry_leaves_the_process_and_the_join_waits_for_it(local, ledger):
    run = run_to_its_end(local, "local-retries")
    assert starts_of(ledger, run) == {"a": 1, "m-0": 1, "m-1": 1, "b": 1}
    assert run.output("m-1")[1] == 2


def test_a_failed_member_ends_the_run_and_the_others_are_undone(local, ledger):
    run = local.orchestrator.start("local-fails")
    tell_when_stored(ledger, run, "m-0")
    assert run.wait(timeout=40) == "failed"
    assert (run.error.node_name, run.error.type) == ("m-1", "builtins.ValueError")
    assert [event.event for event in run.history() if event.node == "undo"] == ["started", "succeeded"]
    assert "b" not in starts_of(ledger, run)


def test_a_failed_member_may_be_excused(local, ledger):
    run = local.orchestrator.start("local-excuses")
    tell_when_stored(ledger, run, "m-0")
    assert run.wait(timeout=40) == "succeeded"
    assert starts_of(ledger, run) == {"a": 1, "m-0": 1, "b": 1}
    assert list(run.failures()) == ["m-1"]


def test_a_member_that_holds_the_interpreter_is_killed_at_its_limit(local, ledger):
    run = run_to_its_end(local, "local-stuck")
    assert run.output("m-1") == 2
    assert "timed-out" in {event.event for event in run.history() if event.node == "m-1"}
    assert starts_of(ledger, run)["b"] == 1


def test_each_member_takes_its_own_token(local):
    run = run_to_its_end(local, "local-spaced")
    begun = sorted(event.at for event in run.history() if event.event == "started" and event.node != "b")
    assert len(begun) == 3
    assert (begun[-1] - begun[0]).total_seconds() >= 0.45


def test_a_cancel_reaches_every_member(local, ledger):
    run = local.orchestrator.start("local-waits")
    for number in range(3):
        ledger.wait_for("start", f"{run.id}/m-{number}")
    run.cancel("enough")
    assert run.wait(timeout=20) == "cancelled"
    assert "b" not in starts_of(ledger, run)


def test_members_on_another_queue_get_tasks_of_their_own(local, folder, ledger):
    run = run_to_its_end(local, "local-elsewhere")
    assert starts_of(ledger, run) == {"a": 1, "m-0": 1, "m-1": 1, "b": 1}
    wait_until(lambda: len(tasks_of(folder, "local-elsewhere")) >= 3, "its tasks are in the log")


def test_what_follows_on_another_queue_gets_a_task_of_its_own(local, folder, ledger):
    run = run_to_its_end(local, "local-joins-elsewhere")
    assert starts_of(ledger, run) == FAN
    wait_until(lambda: len(tasks_of(folder, "local-joins-elsewhere")) >= 2, "its tasks are in the log")
    assert sorted(tasks_of(folder, "local-joins-elsewhere")) == [f"local-joins-elsewhere.{name}" for name in "ab"]


def test_an_error_that_is_no_node_s_is_told_when_every_member_has_ended(server, monkeypatch):
    """Such as a script that Redis refuses: the message fails, and leaves no thread behind that works for it."""
    members = [Node(f"m-{number}", count) for number in range(3)]
    flow = FlowBuilder("local-refused").triggered_by(manual("test")).then(Node("a", count)).fused()
    orchestrator = Orchestrator(Celery("refused", broker="memory://", backend=server.url, set_as_current=False))
    built = flow.then_parallel("fan", *members, local=True).build()
    orchestrator.register(built)
    run = orchestrator.start(built)
    try_it, met = Attempt.make, threading.Event()

    def refused(attempt):
        if attempt.name == "m-0":
            met.set()
            raise redis.ResponseError("NOREPLICAS")
        assert met.wait(10)
        return try_it(attempt)

    monkeypatch.setattr(Attempt, "make", lambda attempt: (try_it if attempt.name == "a" else refused)(attempt))
    plan = engine_of(orchestrator.app).registry.flows["local-refused"].plan
    with pytest.raises(redis.ResponseError, match="NOREPLICAS"):
        orchestrator.app.tasks["local-refused.a"].run(run.id, 1, plan.hash)
    assert run.state().keys() == {"a", "m-1", "m-2"}
    run.cancel()


def test_a_lost_answer_to_the_last_member_loses_no_claim_of_what_is_behind(server, monkeypatch):
    """The call is made once more, as the client's retry policy does; what is behind has no second attempt to lose."""
    once = RetryPolicy(maximum_attempts=1)
    flow = FlowBuilder("local-lost").triggered_by(manual("test")).then(Node("a", count)).fused()
    flow.then_parallel("fan", *[Node(f"m-{number}", count) for number in range(3)], local=True)
    built = flow.then(Node("b", count).with_retry(once)).build()
    orchestrator = Orchestrator(Celery("lost", broker="memory://", backend=server.url, set_as_current=False))
    orchestrator.register(built)
    run = orchestrator.start(built)
    ask = Wire.ask
    lost: list[object] = []

    def ask_twice(wire, *args):
        answer = ask(wire, *args)
        if not lost and _is_at(orchestrator, run, "b"):
            lost.append(answer)
            answer = ask(wire, *args)
        return answer

    monkeypatch.setattr(Wire, "ask", ask_twice)
    plan = engine_of(orchestrator.app).registry.flows["local-lost"].plan
    orchestrator.app.tasks["local-lost.a"].run(run.id, 1, plan.hash)
    assert len(lost) == 1
    assert run.status == "succeeded"


def _is_at(orchestrator, run, node):
    return engine_of(orchestrator.app).store.nodes(run.id).get(node, {}).get("state") == "running"


def test_the_log_says_behind_a_failure_what_each_pool_process_was_doing(local, folder):
    log = folder / "w0.log"
    before = log.read_text().count("most recent call first")
    write_stacks()
    wait_until(lambda: log.read_text().count("most recent call first") >= before + 4, "every process has told")
    assert run_to_its_end(local, "local-retries").status == "succeeded"
