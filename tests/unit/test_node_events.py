"""Events of nodes that wait or end in no process: what monitors are sent, and what hooks are called with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator import Rejected, RunError
from orchestrator.definition.state import NodeFailure
from orchestrator.maintenance.node_events import NodeEvents
from orchestrator.middleware import Middleware, Middlewares


class Heard(Middleware):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.waits: list[tuple[str, ...]] = []
        self.ends: list[dict[str, Any]] = []

    def after_wait(self, run_id: str, flow_name: str, node_name: str) -> None:
        self.waits.append((run_id, flow_name, node_name))

    def after_outside_end(self, run_id: str, flow_name: str, node_name: str, **told: Any) -> None:
        self.ends.append({"node": node_name, **told})


class Sender:
    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def send(self, kind: str, **fields: Any) -> None:
        self.sent.append((kind, fields))


def row_of(event, **changes):
    row = {"run": "r", "flow": "f", "node": "ok", "event": event, "attempt": "1"}
    return {**row, "since": "1000", "waits": "approval", "undoes": "", **changes}


def events_of(kind="orchestrator.errors.Rejected", message="bob: no"):
    heard = Heard()
    failure = NodeFailure(flow_name="f", node_name="ok", attempt=1, type=kind, message=message)
    store = SimpleNamespace(last_failure=lambda _run, _node: failure if kind else None)
    engine: Any = SimpleNamespace(middlewares=Middlewares([heard]), store=store)
    return NodeEvents(engine), heard


@pytest.mark.parametrize(
    ("event", "kind", "said"),
    [
        ("waits", "task-received", "approval"),
        ("succeeded", "task-succeeded", "runtime"),
        ("failed", "task-failed", "Rejected: bob: no"),
        ("unknown", "task-failed", "Rejected: bob: no"),
        ("skipped", "task-revoked", "terminated"),
        ("over", "task-ignored", "another attempt follows"),
    ],
)
def test_a_wait_is_one_task_for_monitors(event, kind, said):
    sender: Any = Sender()
    events, _ = events_of()
    events.send(sender, 2.0, row_of("waits"))
    events.send(sender, 2.0, row_of(event))
    (_, first), (found, fields) = sender.sent
    assert (found, fields["uuid"], fields["name"], fields["parent_id"]) == (kind, first["uuid"], "f.ok", "r")
    assert said in str(fields)
    events.send(sender, 3.0, row_of(event, since="2000"))
    assert sender.sent[-1][1]["uuid"] != first["uuid"], "a wait of its own"


def test_an_end_without_a_wait_is_celerys_own_task():
    sender: Any = Sender()
    events_of()[0].send(sender, 2.0, row_of("failed", since=""))
    assert sender.sent == []


@pytest.mark.parametrize(
    ("kind", "wanted", "message"),
    [
        ("orchestrator.errors.Rejected", Rejected, "bob: no"),
        ("orchestrator.errors.RunFailed", RunError, "orchestrator.errors.RunFailed: bob: no"),
        ("orchestrator.errors.Nothing", RunError, "orchestrator.errors.Nothing: bob: no"),
        ("shop.Broken", RunError, "shop.Broken: bob: no"),
        ("", RunError, "its failure is gone"),
    ],
)
def test_hooks_hear_of_a_failure_with_an_exception(kind, wanted, message):
    events, heard = events_of(kind)
    events.announce(row_of("failed"))
    (told,) = heard.ends
    assert (type(told["error"]), told["error"].message, told["attempt"]) == (wanted, message, 1)
    assert (told["error"].run_id, told["error"].node_name) == ("r", "ok")


def test_hooks_hear_of_waits_and_of_ends_alone():
    events, heard = events_of()
    for event in ("waits", "over", "skipped", "succeeded"):
        events.announce(row_of(event))
    assert heard.waits == [("r", "f", "ok")]
    assert heard.ends == [{"node": "ok", "attempt": 1, "undoes": "", "error": None}]
