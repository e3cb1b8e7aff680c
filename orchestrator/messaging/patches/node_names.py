"""Refuse a task that is given the name of a node, by `@app.task`, `@shared_task` or `register_task`.

Celery drops a function that is decorated under a name that is taken, and returns the task that has it; a task class
takes the place of the one that has its name. Neither is seen before the function is called, or the node is to run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.errors import RegistrationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from celery import Celery

_GUARDED = "_orchestrator_node_names"


def guard_names(app: Celery, names: Iterable[str]) -> None:
    """Refuse tasks of these names from now on.

    Both entrances of the app are wrapped once; a task of another name goes through them as before.
    """
    guarded: set[str] | None = getattr(app, _GUARDED, None)
    if guarded is None:
        guarded = set()
        setattr(app, _GUARDED, guarded)
        make_task = app._task_from_fun  # noqa: SLF001 - no signal and no setting is asked before a function is dropped
        app._task_from_fun = _guarded_decorator(app, guarded, make_task)  # noqa: SLF001
        app.register_task = _guarded_registration(app, guarded, app.register_task)
    guarded.update(names)


def _guarded_decorator(app: Celery, guarded: set[str], make_task: Callable[..., Any]) -> Callable[..., Any]:
    def make_guarded_task(fun: Any, name: str | None = None, **options: Any) -> Any:
        _refuse(name or app.gen_task_name(fun.__name__, fun.__module__), guarded)
        return make_task(fun, name, **options)

    return make_guarded_task


def _guarded_registration(app: Celery, guarded: set[str], register_task: Callable[..., Any]) -> Callable[..., Any]:
    def register_guarded_task(task: Any, **options: Any) -> Any:
        if app.tasks.get(task.name) is not task:
            _refuse(task.name, guarded)
        return register_task(task, **options)

    return register_guarded_task


def _refuse(name: str | None, guarded: set[str]) -> None:
    if name in guarded:
        msg = f"the task name {name} is that of a node of a flow; give the task another name, or rename the flow"
        raise RegistrationError(msg)
