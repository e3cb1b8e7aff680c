"""Sentry, OpenTelemetry and structlog: each attempt of a node is a task of its own to them, fused as not."""

from __future__ import annotations

import importlib
import json
import os
from collections import Counter

import pytest

from tests.harness import URL_VARIABLE, wait_until, workers

MODES = ["", "-fused"]


@pytest.fixture(scope="module")
def observed(server, tmp_path_factory):
    os.environ[URL_VARIABLE] = server.url
    project = importlib.import_module("tests.compat.observed")
    folder = tmp_path_factory.mktemp("observed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_OBSERVED", "1")
        with workers("tests.compat.observed", server.url, folder, count=1, options=["-c", "1"]):
            yield project


def run(project, name, status="succeeded"):
    started = project.orchestrator.start(name)
    assert started.wait(timeout=30) == status, started.error
    return started


def reports(project, started, kind="transaction"):
    """Task, text of the error, status and tags of what Sentry got of a run."""
    lines = [json.loads(line) for line in project.LEDGER.names("sentry")]
    return [line[1:] for line in lines if line[0] == kind and line[-1].get("run") == started.id]


def spans(project, started):
    """Task, status, attributes and trace of each span of a run."""
    lines = [json.loads(line) for line in project.LEDGER.names("span")]
    return [line for line in lines if line[2].get("flow.run_id") == started.id]


def settled(project, started, attempts):
    """The reports of as many attempts as there were."""
    wait_until(lambda: len(reports(project, started)) >= attempts, "a transaction for each attempt")
    wait_until(lambda: len(spans(project, started)) >= attempts, "a span for each attempt")
    return reports(project, started), spans(project, started)


def names(name, *nodes):
    return Counter(f"{name}.{node}" for node in nodes)


@pytest.mark.parametrize("mode", MODES)
def test_each_attempt_is_one_transaction_and_one_span(observed, mode):
    started = run(observed, f"good{mode}")
    transactions, seen = settled(observed, started, 5)
    expected = names(f"good{mode}", "a", "l", "r", "flaky", "flaky")
    assert Counter(task for task, *_ in transactions) == expected
    assert Counter(name.removeprefix("run/") for name, *_ in seen) == expected
    assert reports(observed, started, "event") == []
    attempts = {("a", "1"), ("l", "1"), ("r", "1"), ("flaky", "1"), ("flaky", "2")}
    assert {(tags["node"], tags["attempt"]) for *_, tags in transactions} == attempts
    assert {tags["flow"] for *_, tags in transactions} == {f"good{mode}"}
    assert {(each["flow.node"], str(each["flow.attempt"])) for _, _, each, _ in seen} == attempts
    ids = [tags["celery_task_id"] for *_, tags in transactions]
    assert len(set(ids)) == 5
    statuses = [status for task, _, status, _ in transactions if task == f"good{mode}.flaky"]
    assert sorted(statuses) == ["aborted", "ok"]
    assert [started.output(node) for node in ("a", "l", "r", "flaky")] == [
        f"good{mode}.{node}" for node in ("a", "l", "r", "flaky")
    ]


@pytest.mark.parametrize("mode", MODES)
def test_a_node_that_is_a_task_is_reported_once(observed, mode):
    started = run(observed, f"tasks{mode}")
    transactions, _ = settled(observed, started, 4)
    assert Counter(task for task, *_ in transactions) == names(f"tasks{mode}", "a", "task", "again", "again")
    assert reports(observed, started, "event") == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("flow", "status", "nodes"),
    [
        ("bad", "failed", ["a", "broken", "undo"]),
        ("first", "failed", ["broken"]),
        ("excused", "succeeded", ["a", "broken", "b"]),
    ],
)
def test_a_failure_is_one_event(observed, mode, flow, status, nodes):
    name = f"{flow}{mode}"
    started = run(observed, name, status)
    transactions, seen = settled(observed, started, len(nodes))
    assert Counter(task for task, *_ in transactions) == names(name, *nodes)
    assert Counter(task.removeprefix("run/") for task, *_ in seen) == names(name, *nodes)
    assert [task for task, status, *_ in seen if status == "ERROR"] == [f"run/{name}.broken"]
    ((task, text, _, tags),) = wait_until(lambda: reports(observed, started, "event"), "the event")
    assert (task, text, tags["node"], tags["attempt"]) == (f"{name}.broken", "for good", "broken", "1")
    for task, _, _, tags in transactions:
        own = task.endswith((".a", ".b", ".undo"))
        assert tags["service"] == "observed", "what was set for the process is in every report"
        assert tags.get("left") == ("behind" if own else None), "what a node sets is not in another's report"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("flow", "status"), [("ends", "failed"), ("picks", "succeeded")])
def test_a_failed_item_of_a_map_is_one_event_of_its_own(observed, mode, flow, status):
    started = run(observed, f"{flow}{mode}", status)
    ((task, text, _, tags),) = wait_until(lambda: reports(observed, started, "event"), "the event")
    assert (task, text, tags["node"]) == (f"{flow}{mode}.item", "not that one", "item[1]")


def test_runs_that_wait_in_the_queue_are_reported_too(observed):
    runs = [observed.orchestrator.start("short-fused") for _ in range(20)]
    assert {each.wait(timeout=30) for each in runs} == {"succeeded"}
    for each in runs:
        transactions, _ = settled(observed, each, 2)
        assert Counter(task for task, *_ in transactions) == names("short-fused", "a", "b")
        assert {tags["run"] for *_, tags in transactions} == {each.id}
        assert [each.output("a"), each.output("b")] == ["short-fused.a", "short-fused.b"]
