"""Two apps with flows in one process: each runs its own, on its own broker and store."""

from __future__ import annotations

import pytest
from celery import Celery

from orchestrator import FlowBuilder, Node, Orchestrator, Settings, manual


def make(server, name, number, **settings):
    """An app whose flow says which app it is, as a process with a database for each of its tenants has several."""
    url = f"{server.url.rsplit('/', 1)[0]}/{number}"
    app = Celery(name, broker=url, backend=url, set_as_current=False)
    app.conf.task_always_eager = True
    orchestrator = Orchestrator(app, settings=Settings(**settings))
    flow = (
        FlowBuilder("who")
        .triggered_by(manual("test"))
        .then(Node("first", lambda: name))
        .then(Node("last", lambda: name))
    )
    orchestrator.register(flow.build())
    return orchestrator


@pytest.mark.parametrize("prefix", ["orchestrator", "other"])
def test_each_app_runs_its_own_flow_in_its_own_store(server, prefix):
    numbers = (6, 7) if prefix == "orchestrator" else (8, 8)
    one, two = make(server, "one", numbers[0]), make(server, "two", numbers[1], prefix=prefix)
    for orchestrator, name in ((one, "one"), (two, "two"), (one, "one")):
        assert orchestrator.start("who").result(str, timeout=10) == name
    assert (len(one.runs()), len(two.runs())) == (2, 1)
    for orchestrator in (one, two):
        own = [task for name, task in orchestrator.app.tasks.items() if name.startswith(("who.", "orchestrator."))]
        assert len(own) == 6
        assert {task.app for task in own} == {orchestrator.app}
        assert len({id(task.request_stack) for task in own}) == len(own)
        orchestrator._engine.store.client.flushdb()
