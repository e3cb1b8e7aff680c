"""A Flask app whose Task class gives the app's context and has hooks: for every node and attempt, in every mode."""

from __future__ import annotations

import importlib
import os
from collections import Counter

import pytest

from tests.harness import URL_VARIABLE, wait_until, workers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("flaskshop")


@pytest.fixture(scope="module")
def flaskshop(server, folder):
    os.environ[URL_VARIABLE] = server.url
    project = importlib.import_module("tests.compat.flaskshop")
    with workers("tests.compat.flaskshop", server.url, folder, count=1, options=["-c", "1"]):
        yield project


def run(project, name, given=None, status="succeeded"):
    started = project.orchestrator.start(name, given)
    assert started.wait(timeout=30) == status, started.error
    return started


def hooks_of(project, started, expected):
    """How often each hook was called for each node of a run, when as many are there as are expected."""

    def lines():
        hooks = [(kind, *name.split("|")) for kind, name, _, _ in project.LEDGER.lines() if f"|{started.id}|" in name]
        return [hook for hook in hooks if hook[2] == started.id]

    wait_until(lambda: len(lines()) >= sum(expected.values()), "all hooks of the run")
    assert {own for _, _, _, own, *_ in lines()} == {"True"}, "the id of a hook is that of its request"
    return Counter((hook, task.partition(".")[2]) for hook, task, *_ in lines()), lines()


def whole(*nodes, hooks=("before_start", "on_success", "after_return")):
    return Counter((hook, node) for node in nodes for hook in hooks)


def test_a_plain_function_runs_in_the_app_context(flaskshop):
    assert run(flaskshop, "plain").result(str) == "corner"


def test_every_node_of_a_fused_flow_runs_in_the_app_context_with_the_hooks(flaskshop, folder):
    started = run(flaskshop, "line", "x")
    outputs = [started.output(node) for node in ("a", "b", "l", "r", "c")]
    assert outputs == ["corner corner", "corner", "corner", "corner", "corner"]
    (decision,) = [block.name for block in flaskshop.orchestrator._engine.registry.flows["line"].flow.blocks()]
    expected = whole("a", decision, "b", "l", "r", "c") + whole("c", hooks=("before_start", "on_retry", "after_return"))
    counts, lines = hooks_of(flaskshop, started, expected)
    assert counts == expected
    assert [retries for hook, task, _, _, retries, _ in lines if (hook, task) == ("before_start", "line.c")] == [
        "0",
        "1",
    ]
    assert "on_success of its task raised; the node is not affected" in (folder / "w0.log").read_text()


def test_items_of_a_map_run_in_the_app_context(flaskshop):
    started = run(flaskshop, "map")
    assert started.output("item") == ["corner"] * 3
    (source,) = flaskshop.orchestrator._engine.registry.flows["map"].steps
    expected = whole(source, "item", "item", "item")
    assert hooks_of(flaskshop, started, expected)[0] == expected


def test_a_failure_is_told_to_its_hook_once(flaskshop):
    started = run(flaskshop, "broken", status="failed")
    expected = whole("a", "undo") + whole("b", hooks=("before_start", "on_failure", "after_return"))
    counts, lines = hooks_of(flaskshop, started, expected)
    assert counts == expected
    assert [line[-1] for line in lines if line[1] == "broken.b"] == ["{}", "corner", "FAILURE"]


@pytest.mark.parametrize(("name", "nodes"), [("me", ["me", "again"]), ("me-fused", ["me", "left", "right", "again"])])
def test_a_task_has_a_request_of_its_own(flaskshop, name, nodes):
    started = run(flaskshop, name)
    seen = [started.output(node) for node in nodes]
    assert len({each["id"] for each in seen}) == len(nodes)
    for each in seen:
        task_id = each.pop("id")
        assert task_id
        assert each == {
            "current": task_id,
            "by name": task_id,
            "root": started.id,
            "queue": "flaskshop",
            "retries": 0,
            "direct": False,
            "canvas": False,
            "shop": "corner",
        }


def test_tasks_do_in_a_node_what_they_do_elsewhere(flaskshop):
    started = run(flaskshop, "tasks")
    state = flaskshop.app.AsyncResult(started.output("progress"))
    assert (state.state, state.info) == ("PROGRESS", {"done": 1})
    assert [started.output(node) for node in ("by-self", "by-name", "auto", "replaced")] == [1, 1, 1, 3]
    has_one_request, task_id, given = started.output("waits")
    assert (has_one_request, given) == (True, 5)
    assert task_id != started.output("progress")
    assert started.output("skipped") == "skipped"


def test_the_same_tasks_are_celerys_own_elsewhere(flaskshop):
    assert flaskshop.whoami.delay().get(timeout=30)["direct"] is False
    assert flaskshop.replaces.delay(3).get(timeout=30) == 4
    flaskshop.retries.apply_async(("self",), task_id="retries-as-ever")

    def waiting():
        (tasks,) = flaskshop.app.control.inspect(timeout=10, limit=1).scheduled().values()
        return [task["request"]["id"] for task in tasks]

    wait_until(lambda: waiting() == ["retries-as-ever"], "the retry in an hour")
    flaskshop.app.control.revoke("retries-as-ever")
