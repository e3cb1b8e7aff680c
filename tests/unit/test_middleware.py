"""The seam around every node: order, results and errors, and observers that fail."""

from __future__ import annotations

import pytest

from orchestrator.middleware import End, Middleware, Middlewares, NodeCall, Outcome


@pytest.fixture
def call():
    return NodeCall(
        flow_name="flow",
        run_id="run",
        node_name="node",
        attempt=1,
        task="flow.node",
        timeout_s=1.0,
        message=None,
        is_first=False,
        is_own=False,
        expired=TimeoutError,
        will_retry=lambda _error: False,
    )


class Noting(Middleware):
    def __init__(self, name, notes):
        self.name, self.notes = name, notes

    def around(self, call, proceed):
        self.notes.append(f"{self.name} before {call.node_name}")
        try:
            return proceed()
        finally:
            self.notes.append(f"{self.name} after")

    def after_node(self, call, outcome):
        self.notes.append(f"{self.name} {call.node_name} {outcome.end}")

    def after_run(self, run_id, flow_name, event):
        self.notes.append(f"{self.name} {flow_name} {run_id} {event}")


class Broken(Middleware):
    def after_node(self, call, outcome):
        raise ValueError("broken observer")

    def after_run(self, run_id, flow_name, event):
        raise ValueError("broken observer")


def test_the_one_installed_last_is_outermost(call):
    notes: list[str] = []
    middlewares = Middlewares([Noting("inner", notes)])
    middlewares.install(Noting("outer", notes))
    assert middlewares.call(call, lambda: len(notes)) == 2
    assert notes == ["outer before node", "inner before node", "inner after", "outer after"]


def test_what_the_function_raises_passes_through_every_one(call):
    notes: list[str] = []
    middlewares = Middlewares([Noting("only", notes)])

    def fails():
        raise KeyError("missing")

    with pytest.raises(KeyError):
        middlewares.call(call, fails)
    assert notes[-1] == "only after"


def test_only_overridden_methods_are_called(call):
    middlewares = Middlewares([Middleware()])
    assert middlewares.call(call, lambda: 1) == 1
    assert not middlewares.wants_runs
    assert Middlewares([Broken()]).wants_runs


def test_an_observer_that_fails_stops_neither_the_node_nor_the_next_observer(call, caplog):
    notes: list[str] = []
    middlewares = Middlewares([Broken(), Noting("next", notes)])
    middlewares.after_node(call, Outcome(End.STORED))
    middlewares.after_run("run", "flow", "succeeded")
    assert notes == ["next node stored", "next flow run succeeded"]
    assert caplog.text.count("the middleware Broken failed") == 2


def test_a_call_has_one_task_id(call):
    assert call.task_id == call.task_id
