"""Settings and annotations of an app for all of its tasks: nodes have their own limits, and take only the hooks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.worker import state

from orchestrator import ConfigurationError, FlowBuilder, Node, Orchestrator, manual
from orchestrator.messaging.engine_task import EngineRequest, ignored_limits

URL = "redis://127.0.0.1:1/0"
ALL_TASKS = {
    "task_time_limit": 60,
    "task_soft_time_limit": 50,
    "task_default_rate_limit": "1/h",
    "task_acks_late": False,
    "task_acks_on_failure_or_timeout": False,
    "task_reject_on_worker_lost": True,
    "task_ignore_result": False,
    "task_default_priority": 3,
    "task_serializer": "yaml",
}
ANNOTATIONS = {
    "time_limit": 1,
    "soft_time_limit": 1,
    "acks_late": False,
    "rate_limit": "1/h",
    "max_retries": 9,
    "ignore_result": False,
    "expires": 1,
}


def hook(_task, *_args):
    """A user's on_failure."""


def make(**settings):
    app = Celery("limited", broker=URL, backend=URL, set_as_current=False)
    app.conf.update(settings)
    Orchestrator(app).register(FlowBuilder("flow").triggered_by(manual("test")).then(Node("node", lambda: 1)).build())
    return app, [task for name, task in app.tasks.items() if name.startswith(("flow.", "orchestrator."))]


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(ALL_TASKS, id="settings"),
        pytest.param({"task_annotations": {"*": ANNOTATIONS}}, id="annotations"),
        pytest.param({"task_annotations": {"flow.node": ANNOTATIONS}}, id="annotations-of-the-node"),
    ],
)
def test_nothing_of_it_holds_for_a_task_of_the_engine(settings):
    _, tasks = make(**settings)
    assert len(tasks) == 5
    for task in tasks:
        assert (task.time_limit, task.soft_time_limit, task.rate_limit, task.expires) == (None,) * 4
        assert task.acks_late
        assert task.acks_on_failure_or_timeout
        assert not task.reject_on_worker_lost
        assert task.ignore_result
        assert (task.max_retries, task.serializer) == (0, "json")
        options = task._get_exec_options()
        assert (options["time_limit"], options["soft_time_limit"], options["expires"]) == (None,) * 3


def test_priorities_of_annotations_hold_and_hooks_are_not_of_the_engine_s_task():
    app, _ = make(task_annotations={"flow.node": {"on_failure": hook, "priority": 7}})
    assert app.tasks["flow.node"].priority == 7
    assert app.tasks["flow.node"].on_failure.__func__ is not hook, "a node is called as a task with the hooks"
    assert app.tasks["orchestrator.tick"].priority is None


def test_the_worker_names_each_setting_that_it_does_not_apply():
    worker = SimpleNamespace(time_limit=60, soft_time_limit=50.5)
    app, _ = make(task_annotations={"*": {"acks_late": False, "on_failure": hook}}, task_default_rate_limit="1/h")
    limits, rates, annotations = ignored_limits(app, worker)
    assert limits.startswith("task_time_limit = 60 s and task_soft_time_limit = 50.5 s: not applied to nodes")
    assert "with_timeout" in limits
    assert "with_rate_limit" in rates
    assert "task_annotations: acks_late not applied to nodes of flows, hooks are" in annotations
    app, _ = make(task_annotations={"*": {"on_failure": hook}})
    assert list(ignored_limits(app, SimpleNamespace(time_limit=None, soft_time_limit=None))) == []


@pytest.mark.parametrize(("name", "value"), [("rate_limit", "5/m"), ("time_limit", 3), ("soft_time_limit", 3)])
def test_remote_control_is_told_what_to_use_instead(name, value):
    app, _ = make()
    with pytest.raises(
        ConfigurationError, match=rf"task flow\.node belongs to a flow: {name} does not hold .*use with_"
    ):
        setattr(app.tasks["flow.node"], name, value)
    setattr(app.tasks["flow.node"], name, None)


def test_a_route_with_an_expiry_is_followed_without_it(monkeypatch):
    app, _ = make(task_routes={"*": {"expires": 1, "priority": 4}})
    sent = []
    monkeypatch.setattr(
        app.amqp, "send_task_message", lambda _producer, _name, message, **options: sent.append((message, options))
    )
    app.tasks["flow.node"].apply_async(("run",), producer=SimpleNamespace(connection=app.connection_for_write()))
    ((message, options),) = sent
    assert message.headers["expires"] is None
    assert options["priority"] == 4
    assert "expires" not in options


def test_a_node_is_neither_revoked_nor_terminated(caplog, monkeypatch):
    monkeypatch.setattr(state, "revoked", {"id"})
    request: Any = SimpleNamespace(id="id", name="flow.node", root_id="run", _refuse_to_stop=None)
    request._refuse_to_stop = lambda: EngineRequest._refuse_to_stop(request)
    assert not EngineRequest.revoked(request)
    EngineRequest.terminate(request, None)
    said = "task flow.node[id] belongs to run run and is not revoked: cancel the run by FlowRun.cancel()"
    assert [record.getMessage() for record in caplog.records] == [said, said]
