"""Handlers of Celery's task signals: called once for every node and attempt, in whichever way it runs."""

from __future__ import annotations

from collections import Counter

import pytest
from celery.signals import before_task_publish

from orchestrator.engine import engine_of
from tests.harness import load_program, wait_until, workers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("heard")


@pytest.fixture(scope="module")
def heard(server, folder):
    program = load_program("heard", server.url)
    before_task_publish.connect(program.travels)
    options = ["-c", "1", "-Q", "heard"]
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TEST_HEARS", "1")
            with workers("tests.programs.heard", server.url, folder, count=1, options=options):
                yield program
    finally:
        before_task_publish.disconnect(program.travels)


def lines_of(program, run):
    """Signal, task and the rest of each line of one run."""
    lines = [(kind, *name.split("|")) for kind, name, _, _ in program.LEDGER.lines() if kind in program.HANDLERS]
    return [line for line in lines if line[3] == run.id and not line[1].startswith("orchestrator.")]


def told(program, run, expected):
    """How often each signal was sent for each task of a run, when as many are there as are expected."""
    wait_until(lambda: len(lines_of(program, run)) >= sum(expected.values()), "all signals of the run")
    return Counter((kind, task.partition(".")[2]) for kind, task, *_ in lines_of(program, run))


def once(*nodes, kinds=("prerun", "success", "postrun")):
    return Counter((kind, node) for node in nodes for kind in kinds)


def run(program, name, status="succeeded"):
    started = program.orchestrator.start(name)
    assert started.wait(timeout=30) == status
    return started


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("heard-line", once("a", "b", "c")),
        ("heard-local", once("a", "l", "r", "b")),
        ("heard-map", once("source") + once("item", "item", "item")),
        ("heard-pages", once("page", "page", "page")),
    ],
)
def test_every_node_is_heard_once(heard, name, expected):
    started = run(heard, name)
    source = source_of(heard, name)
    expected = Counter({(kind, source if node == "source" else node): n for (kind, node), n in expected.items()})
    assert told(heard, started, expected) == expected
    by_task = {(task, task_id) for _, task, task_id, *_ in lines_of(heard, started)}
    assert len(by_task) == sum(n for (kind, _), n in expected.items() if kind == "prerun"), "an id of its own for each"
    assert {own for *_, own, _ in lines_of(heard, started)} == {"True"}, "the current task's request is the node's"


def source_of(program, name):
    plan = engine_of(program.app).registry.flows[name].plan
    return next((step.source for step in plan.steps if step.source), "")


def test_a_function_sees_the_request_of_its_own_node(heard):
    started = run(heard, "heard-line")
    told(heard, started, once("a", "b", "c"))
    ids = {task: task_id for kind, task, task_id, *_ in lines_of(heard, started) if kind == "prerun"}
    assert [started.output(node) for node in "abc"] == [f"heard-line.{n} {ids[f'heard-line.{n}']}" for n in "abc"]


@pytest.mark.parametrize("name", ["heard-single", "heard-retry"])
def test_an_attempt_that_is_made_again_is_heard_as_a_retry(heard, name):
    expected = once("a", "b") + Counter({("prerun", "b"): 1, ("retry", "b"): 1, ("postrun", "b"): 1})
    assert told(heard, run(heard, name), expected) == expected


def test_a_failure_is_heard_once_and_its_compensation_too(heard, folder):
    started = run(heard, "heard-fails", "failed")
    expected = once("a", "undo") + once("b", kinds=("prerun", "failure", "postrun"))
    assert told(heard, started, expected) == expected
    log = (folder / "w0.log").read_text()
    assert log.count("Task heard-fails.b[") == 1
    assert "a handler that raises" in log


def test_a_tolerated_failure_is_heard(heard):
    started = run(heard, "heard-tolerated")
    expected = once("l") + once("r", kinds=("prerun", "failure", "success", "postrun"))
    assert told(heard, started, expected) == expected


def test_nodes_behind_a_message_see_its_headers(heard):
    """As tenants travel: the headers of the message are those of every node that it works through."""
    started = run(heard, "heard-line")
    told(heard, started, once("a", "b", "c"))
    assert {header for *_, header in lines_of(heard, started)} == {"acme"}


def test_runs_that_wait_in_the_queue_are_heard_too(heard):
    runs = [heard.orchestrator.start("heard-line") for _ in range(20)]
    assert {each.wait(timeout=30) for each in runs} == {"succeeded"}
    for each in runs:
        assert told(heard, each, once("a", "b", "c")) == once("a", "b", "c")
        assert {header for *_, header in lines_of(heard, each)} == {"acme"}


@pytest.mark.parametrize(
    ("name", "status", "expected"),
    [
        (
            "heard-retry",
            "succeeded",
            {
                ("node_started", "a", ""): 1,
                ("node_finished", "a", "succeeded"): 1,
                ("node_started", "b", ""): 2,
                ("node_retried", "b", ""): 1,
                ("node_finished", "b", "succeeded"): 1,
            },
        ),
        (
            "heard-fails",
            "failed",
            {
                ("node_started", "a", ""): 1,
                ("node_finished", "a", "succeeded"): 1,
                ("node_started", "b", ""): 1,
                ("node_finished", "b", "failed"): 1,
                ("node_started", "undo", ""): 1,
                ("compensation_finished", "undo", "succeeded"): 1,
            },
        ),
    ],
)
def test_hooks_hear_of_a_run_and_of_its_nodes(heard, name, status, expected):
    assert hooks_of(heard, run(heard, name, status), expected, status) == ended(expected, status)


def test_hooks_hear_of_nodes_that_nobody_works_on(heard):
    started = heard.orchestrator.start("heard-gates")
    started.signal("paid", 1)
    assert started.wait(timeout=30) == "failed"
    expected = {
        ("node_waiting", "paid", ""): 1,
        ("node_finished", "paid", "succeeded"): 1,
        ("node_waiting", "ok", ""): 1,
        ("node_finished", "ok", "failed"): 1,
    }
    assert hooks_of(heard, started, expected, "failed") == ended(expected, "failed")


def ended(expected, status):
    return {**expected, ("run_started", "", ""): 1, ("run_finished", "", status): 1}


def hooks_of(heard, started, expected, status):
    """How often each hook was called for a run, when as many were as are expected."""

    def found():
        lines = [name.split("|") for kind, name, _, _ in heard.LEDGER.lines() if kind == "hook"]
        return Counter(tuple(line[1:]) for line in lines if line[0] == started.id)

    wait_until(lambda: len(found()) >= len(ended(expected, status)), "all hooks of the run")
    return found()
