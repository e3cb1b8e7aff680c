"""Hooks: who is called with what, receivers that fail, and that nobody pays for hooks that nobody uses."""

from __future__ import annotations

import gc
import weakref

import pytest

from orchestrator import hooks
from orchestrator.hooks import Hook, HookCalls
from orchestrator.middleware import End, Middlewares, NodeCall, Outcome


def call_of(undoes=""):
    return NodeCall(
        flow_name="flow",
        run_id="run",
        node_name="node",
        attempt=2,
        task="flow.node",
        timeout_s=1.0,
        message=None,
        is_first=False,
        is_own=False,
        expired=TimeoutError,
        will_retry=lambda _error: False,
        undoes=undoes,
    )


@pytest.fixture
def heard():
    """What every hook was called with."""
    notes: list[tuple[str, dict[str, object]]] = []
    every = [each for each in vars(hooks).values() if isinstance(each, Hook)]
    receivers = [(each, lambda _hook=each, **told: notes.append((_hook.name, told))) for each in every]
    for hook, receiver in receivers:
        hook.connect(receiver)
    yield notes
    for hook, receiver in receivers:
        hook.disconnect(receiver)


PLACE = {"run_id": "run", "flow_name": "flow", "node_name": "node"}
ERROR = ValueError("no")


@pytest.mark.parametrize(
    ("outcome", "undoes", "name", "told"),
    [
        (Outcome(End.STORED), "", "node_finished", {"attempt": 2, "state": "succeeded", "error": None}),
        (Outcome(End.FAILED, ERROR), "", "node_finished", {"attempt": 2, "state": "failed", "error": ERROR}),
        (Outcome(End.TOLERATED, ERROR), "", "node_finished", {"attempt": 2, "state": "failed", "error": ERROR}),
        (Outcome(End.PARKED, ERROR), "", "node_retried", {"attempt": 2, "error": ERROR}),
        (
            Outcome(End.STORED),
            "pay",
            "compensation_finished",
            {"attempt": 2, "state": "succeeded", "error": None, "undoes": "pay"},
        ),
    ],
)
def test_a_hook_hears_how_an_attempt_ended(heard, outcome, undoes, name, told):
    middlewares = Middlewares([HookCalls()])
    call = call_of(undoes)
    assert middlewares.call(call, lambda: "output") == "output"
    middlewares.after_node(call, outcome)
    assert heard == [("node_started", {**PLACE, "attempt": 2}), (name, {**PLACE, **told})]
    assert set(told) | set(PLACE) == set(getattr(hooks, name).fields)


@pytest.mark.parametrize("error", [None, ERROR])
@pytest.mark.parametrize("undoes", ["", "pay"])
def test_a_hook_hears_of_an_end_outside_of_every_process(heard, error, undoes):
    middlewares = Middlewares([HookCalls()])
    assert middlewares.wants_nodes
    middlewares.after_outside_end("run", "flow", "node", attempt=2, undoes=undoes, error=error)
    told = {**PLACE, "attempt": 2, "state": "failed" if error else "succeeded", "error": error}
    assert heard == [("compensation_finished", told | {"undoes": "pay"}) if undoes else ("node_finished", told)]


def test_an_attempt_that_waits_for_something_outside_is_not_made_again(heard):
    HookCalls().after_node(call_of(), Outcome(End.PARKED))
    assert heard == []


def test_a_page_that_is_followed_by_others_ends_no_node(heard):
    HookCalls().after_node(call_of(), Outcome(End.PAGE_STORED))
    assert heard == []


def test_hooks_hear_of_runs_and_of_nodes_that_wait(heard):
    middlewares = Middlewares([HookCalls()])
    assert middlewares.wants_runs
    for event in ("started", "resumed", "compensation_failed"):
        middlewares.after_run("run", "flow", event)
    middlewares.after_wait("run", "flow", "node")
    run = {"run_id": "run", "flow_name": "flow"}
    assert heard == [
        ("run_started", {**run, "resumed": False}),
        ("run_started", {**run, "resumed": True}),
        ("run_finished", {**run, "status": "compensation_failed"}),
        ("node_waiting", PLACE),
    ]


def test_a_receiver_that_raises_harms_neither_the_node_nor_other_receivers(caplog):
    notes: list[str] = []

    @hooks.node_finished.connect
    def broken(**_told):
        raise ValueError("broken receiver")

    @hooks.node_finished.connect
    def working(node_name, **_told):
        notes.append(node_name)

    try:
        HookCalls().after_node(call_of(), Outcome(End.STORED))
    finally:
        hooks.node_finished.disconnect(broken)
        hooks.node_finished.disconnect(working)
    assert notes == ["node"]
    assert "flow flow run run node node: a receiver of node_finished raised" in caplog.text


def test_nobody_pays_for_hooks_that_nobody_uses():
    calls = HookCalls()
    assert calls.is_idle()
    assert not Middlewares([calls]).wants_runs
    assert not Middlewares([calls]).wants_nodes


class Counter:
    """Receives as an object: each `counter.count` is a new bound method."""

    def __init__(self) -> None:
        self.calls = 0

    def count(self, **_told) -> None:
        self.calls += 1


def test_a_method_is_connected_once_held_and_disconnected():
    hook, counter, other = Hook("new"), Counter(), Counter()
    hook.connect(counter.count)
    hook.connect(counter.count)
    hook.disconnect(other.count)
    hook.send()
    assert counter.calls == 1
    hook.disconnect(counter.count)
    hook.send()
    assert (counter.calls, bool(hook)) == (1, False)
    held = weakref.ref(other)
    hook.connect(other.count)
    del other
    gc.collect()
    assert held() is not None


def test_a_function_is_connected_once():
    hook = Hook("new")
    notes: list[object] = []
    for _ in range(2):
        assert hook.connect(notes.append) == notes.append
    hook.disconnect(print)
    assert hook
    hook.disconnect(notes.append)
