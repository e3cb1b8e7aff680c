"""Call a node as a task only where the app's Task class has hooks of its own."""

from __future__ import annotations

import pytest
from celery import Celery, Task
from celery.app import trace

from orchestrator.execution.task_calls import HOOKS, _is_custom


class Hooked(Task):
    def __call__(self, *args, **kwargs):
        return super().__call__(*args, **kwargs)

    def on_success(self, *about):
        pass


@pytest.fixture
def guarded():
    """Celery as in a worker, which puts a guard into `Task.__call__`."""
    app = Celery("guarded", set_as_current=False)
    trace.setup_worker_optimizations(app)
    yield app
    trace.reset_worker_optimizations(app)


def own():
    pass


def task_of(app, base):
    return app.task(own, base=base, name="one", shared=False)


def test_the_guard_of_a_worker_is_no_hook(guarded):
    task = task_of(guarded, guarded.Task)
    assert trace.task_has_custom(task, "__call__"), "Celery takes its own guard for one"
    assert [hook for hook in HOOKS if _is_custom(task, hook)] == []


def test_hooks_of_a_class_are_its_own(guarded):
    assert [hook for hook in HOOKS if _is_custom(task_of(guarded, Hooked), hook)] == ["__call__", "on_success"]


def test_what_somebody_else_puts_into_celerys_class_is_a_hook(guarded, monkeypatch):
    monkeypatch.setattr(Task, "before_start", lambda *_: None)
    assert _is_custom(task_of(guarded, guarded.Task), "before_start")
