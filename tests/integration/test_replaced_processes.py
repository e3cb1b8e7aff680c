"""Messages that wait in a worker that replaces its pool processes are not sent again: a copy would cost a process."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.worker import state as worker_state

from orchestrator import FlowBuilder, Orchestrator, Settings, manual
from orchestrator.engine import engine_of
from orchestrator.liveness import leases
from orchestrator.maintenance.reconciler import Reconciler
from orchestrator.maintenance.worker_state import waiting_messages
from orchestrator.messaging.canvas import ADVANCE
from tests.harness import wait_until
from tests.scripts_world import act, node

ROUNDS = 5


@pytest.fixture
def fleet(world, monkeypatch):
    """The leader and the leases of one worker, moved by the test; its broker has lost every message."""
    app = Celery("replaced", broker="memory://", set_as_current=False)
    made = Orchestrator(app, redis_url=world.url, settings=Settings(prefix=world.prefix))
    made.register(FlowBuilder("fan").triggered_by(manual("test")).then_parallel("all", node("a"), node("b")).build())
    born: dict[int, int] = {}
    waiting: list[str] = []
    monkeypatch.setattr(leases, "new_processes", lambda: dict(born))
    monkeypatch.setattr(leases, "is_running", lambda _pid: True)
    leases.name_worker()
    monitor: Any = SimpleNamespace(forward=lambda: None, is_watched=lambda: False)
    engine = engine_of(app)
    yield SimpleNamespace(
        app=app,
        orchestrator=made,
        born=born,
        waiting=waiting,
        renewer=leases.LeaseRenewer(engine, waiting=lambda: waiting),
        reconciler=Reconciler(engine, monitor),
    )
    leases.forget_worker()


def look(fleet, world, run):
    """Have the leader look, as if time had passed in which nothing happened; returns how often each was sent again."""
    for name, record in world.store.nodes(run.id).items():
        assert record["state"] == "ready"
        past = record | {at: 1 for at in ("since", "sent", "again") if at in record}
        world.client.hset(world.keys.nodes(run.id), name, json.dumps(past))
    world.client.zadd(world.keys.live, {run.id: 1})
    fleet.reconciler.sweep()
    sent = [event.node for event in run.history() if event.event == "republished"]
    return {name: sum(name in nodes.split() for nodes in sent) for name in ("a", "b")}


def test_a_message_that_waits_for_a_new_process_is_not_sent_again(fleet, world):
    run = fleet.orchestrator.start("fan")
    fleet.waiting.append(f"{run.id}|a")
    for number in range(ROUNDS):
        fleet.born[number] = number  # one has taken the place of another
        fleet.renewer.beat()
        assert look(fleet, world, run) == {"a": 0, "b": number + 1}, "the other one is lost"


def test_a_message_behind_a_long_task_is_sent_again(fleet, world, monkeypatch):
    run = fleet.orchestrator.start("fan")
    fleet.waiting.append(f"{run.id}|")
    fleet.born[1] = 0
    fleet.renewer.beat()
    assert look(fleet, world, run) == {"a": 0, "b": 0}, "the message of a whole step stands for all of it"
    fleet.born.clear()
    monkeypatch.setattr(leases, "REPLACES_FOR_S", 0.0)  # no process has been replaced for as long
    fleet.renewer.beat()
    wait_until(lambda: not world.client.exists(world.keys.received), "what the worker said is forgotten")
    assert look(fleet, world, run) == {"a": 1, "b": 1}


class Request:
    def __init__(self, app, name):
        self.task, self.name, self.root_id = app.tasks[name], name, "run-1"


def test_a_worker_names_the_nodes_whose_messages_its_pool_has_not_begun(fleet):
    fleet.app.task(name="foreign")(act)
    names = ("fan.a", "fan.b", ADVANCE, "orchestrator.tick", "foreign")
    requests = {name: Request(fleet.app, name) for name in names}
    try:
        worker_state.reserved_requests.update(requests.values())
        worker_state.active_requests.add(requests["fan.b"])
        assert sorted(waiting_messages()) == ["run-1|", "run-1|a"]
    finally:
        worker_state.reset_state()
