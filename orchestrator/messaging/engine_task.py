"""Base of all tasks of the engine: those of Celery's options that would take a message from the run store's hands.

A node has limits, retries and a rate of its own, kept in the run store. What an app sets for all of its tasks, by a
setting, an annotation, the command line or remote control, does not hold for them; hooks do.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar

from celery import Task
from celery.app.annotations import resolve_all
from celery.worker import state
from celery.worker.request import Request

from orchestrator.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery import Celery

logger = logging.getLogger(__name__)
NOT_FOR_NODES = frozenset(
    {
        *("acks_late", "acks_on_failure", "acks_on_failure_or_timeout", "acks_on_timeout", "autoretry_for"),
        *("default_retry_delay", "expires", "ignore_result", "max_retries", "rate_limit", "reject_on_worker_lost"),
        *("retry_on_worker_lost", "serializer", "soft_time_limit", "time_limit", "typing"),
    }
)
"""Annotations that do not hold for a node."""
NOT_ROUTED = ("expires", "time_limit", "soft_time_limit", "countdown", "eta")
"""Options that a route of the app may have and that do not hold for a node; Celery itself fails on some of them."""


class Refused:
    """An option of Celery's tasks that a node does not have: nothing sets it, remote control is told so."""

    def __init__(self, remedy: str) -> None:
        self._remedy = remedy

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, task: Any, owner: type | None = None) -> Any:
        return None if task is not None else self  # of a class not None, which Celery takes for a place to fill

    def __set__(self, task: Any, value: object) -> None:
        if value is not None:
            msg = f"task {task.name} belongs to a flow: {self._name} does not hold for it; {self._remedy}"
            raise ConfigurationError(msg)


class Routes:
    """The routes of an app, but for what does not hold for a node."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def route(self, *args: Any, **named: Any) -> dict[str, Any]:
        """Route a message as Celery's own router does."""
        routed: dict[str, Any] = self._app.amqp.router.route(*args, **named)
        return {name: value for name, value in routed.items() if name not in NOT_ROUTED}


class EngineTask(Task):
    """A task of the engine.

    Attributes:
        ignored: Annotations of the app that do not hold for it.
    """

    # A node's result is in the store; Celery's would cost two round trips more, and hang a chord whose child is killed
    # between it and the count (celery#10752).
    ignore_result = True
    # A message that a dying worker has not acknowledged comes again; the claim, not the acknowledgement, says who
    # works.
    acks_late = True
    # What failed is the store's to repeat: a message that came again would find its node done or claimed.
    acks_on_failure_or_timeout = True
    acks_on_failure = True
    acks_on_timeout = True
    # Celery puts such a message back into its queue at once, without counting: a node that kills its process would go
    # round for ever. Neither this nor `retry_on_worker_lost` (celery#10843) is needed: the lease renewer ends
    # the claim of a dead child within a second.
    reject_on_worker_lost = False
    retry_on_worker_lost = False
    serializer = "json"
    # Attempts are counted in the store, from the script that lets a function start.
    max_retries = 0
    time_limit = Refused("use with_timeout")
    soft_time_limit = Refused("use with_timeout")
    rate_limit = Refused("use with_rate_limit")
    Request = "orchestrator.messaging.engine_task:EngineRequest"
    ignored: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def annotate(cls) -> None:
        """Take over the priority of the app's annotations; hooks are of the task that a node is called as."""
        for annotation in resolve_all(cls.app.annotations, cls):
            cls.ignored |= NOT_FOR_NODES.intersection(annotation)
            cls.priority = annotation.get("priority", cls.priority)

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Send the message where the plan says, by the app's routes in all else."""
        options.setdefault("router", Routes(self.app))
        return super().apply_async(args, kwargs, **options)

    def start_strategy(self, app: Celery, consumer: Any, **options: Any) -> Callable[..., Any]:
        """Let the worker's pool run it without limits, and a worker that takes no flows do so from its first message.

        A worker is asked to consume a flow's queue by remote control, which nobody else is told of.
        """
        handle: Callable[..., Any] = super().start_strategy(
            app, _Beside(consumer, pool=_Unlimited(consumer.pool)), **options
        )
        step = next((step for step in consumer.controller.steps if hasattr(step, "take_flows")), None)
        if step is None or step.takes_flows:
            return handle

        def handle_first(*args: Any, **named: Any) -> Any:
            step.take_flows()
            return handle(*args, **named)

        return handle_first


class EngineRequest(Request):
    """A message of the engine in the worker: it neither expires nor is revoked, for another one would be sent."""

    def revoked(self) -> bool:
        """Tell how a node is stopped, if somebody tries to revoke it."""
        if self.id in state.revoked:
            self._refuse_to_stop()
        return False

    def terminate(self, pool: Any, signal: Any = None) -> None:  # noqa: ARG002 - Celery's signature
        """Do nothing: an attempt that is killed is made again."""
        self._refuse_to_stop()

    def _refuse_to_stop(self) -> None:
        logger.warning(
            "task %s[%s] belongs to run %s and is not revoked: cancel the run by FlowRun.cancel()",
            self.name, self.id, self.root_id,
        )  # fmt: skip


class _Beside:
    """An object with some attributes replaced."""

    def __init__(self, stock: Any, **replaced: Any) -> None:
        self._stock = stock
        vars(self).update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stock, name)


class _Unlimited(_Beside):
    """A worker's pool, without the limits that it has for tasks that have none of their own."""

    def apply_async(self, *args: Any, **options: Any) -> Any:
        """Hand a message to the pool."""
        result = self._stock.apply_async(*args, **options | {"timeout": 0, "soft_timeout": 0})
        # Celery's limit counts the whole message, also a commit that waits for Redis, and kills what would be stored.
        for name in ("_timeout", "_soft_timeout"):  # prefork puts its own in place of 0
            if getattr(result, name, None):
                setattr(result, name, 0)
        return result


def ignored_limits(app: Celery, worker: Any) -> Iterator[str]:
    """What the app sets for all of its tasks and a worker does not apply to those of flows, one sentence each."""
    found = {
        name: getattr(worker, name.removeprefix("task_"), None) for name in ("task_time_limit", "task_soft_time_limit")
    }
    if chosen := [f"{name} = {value:g} s" for name, value in found.items() if value]:
        yield f"{' and '.join(chosen)}: not applied to nodes of flows; with_timeout is their limit"
    if app.conf.task_default_rate_limit:
        yield "task_default_rate_limit: not applied to nodes of flows; use with_rate_limit"
    ignored = {name for task in app.tasks.values() if isinstance(task, EngineTask) for name in task.ignored}
    if ignored:
        yield f"task_annotations: {', '.join(sorted(ignored))} not applied to nodes of flows, hooks are"
