"""Priorities as brokers know them: which numbers there are, and with which one a node's message is sent.

Redis has 0 to 9, 0 first; RabbitMQ has what a queue declares, the highest first, and forgets the number of a message in
a queue that declares nothing. No other broker keeps them in a way that somebody could rely on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.definition.plan import node_of
from orchestrator.definition.priority import priority_fault, priority_of
from orchestrator.errors import ConfigurationError, InvalidInput
from orchestrator.messaging.celery_addresses import has_redis_broker
from orchestrator.messaging.engine_task import Routes
from orchestrator.messaging.start_checks import queues_of

if TYPE_CHECKING:
    from celery import Celery

    from orchestrator.definition.plan import Plan

REDIS_MOST = 9
MAX_PRIORITY = "x-max-priority"


def refuse_priority(app: Celery, plan: Plan, priority: int, *, all_of_them: bool) -> None:
    """Let a run start with a priority, or raise before anything of it is stored.

    Args:
        app: The app that sends its messages.
        plan: The plan of the run.
        priority: The priority.
        all_of_them: Also those of later messages, which workers send.

    Raises:
        InvalidInput: The broker has no such number.
        ConfigurationError: The broker, or a queue of the plan, has no priorities.
    """
    if has_redis_broker(app):
        _refuse_number(plan, priority, REDIS_MOST, "a Redis broker takes")
        return
    _refuse_number(plan, priority)
    with app.connection_for_write() as connection:
        kind = str(connection.get_transport_cls().driver_type)
    if kind != "amqp":
        raise ConfigurationError(
            f"flow {plan.flow} is not started: it is given a priority, and the broker of the Celery app {app.main!r} "
            f"({kind}) has none; leave it out, or use Redis or RabbitMQ"
        )
    for queue in sorted(queues_of(plan, all_of_them=all_of_them)):
        most = _most_of(app, queue)
        if most is None:
            raise ConfigurationError(
                f"flow {plan.flow} is not started: it is given a priority, and queue {queue} has no {MAX_PRIORITY}, "
                "without which RabbitMQ forgets it; declare the queue with max_priority in task_queues, or set "
                "task_queue_max_priority (a queue that exists has to be deleted first)"
            )
        _refuse_number(plan, priority, most, f"queue {queue} takes")


def _refuse_number(plan: Plan, priority: int, most: int | None = None, what: str = "") -> None:
    fault = priority_fault(priority) if most is None else priority_fault(priority, most)
    if fault is not None:
        raise InvalidInput(f"flow {plan.flow}: {fault}" + (f", as {what}" if what else ""), flow_name=plan.flow)


def _most_of(app: Celery, queue: str) -> int | None:
    """The highest priority of a queue as the app declares it; None if it has none."""
    declared: Any = app.amqp.queues
    if queue not in declared and queue not in declared.aliases:  # to ask for it would make the app consume it
        most = declared.max_priority
    else:
        found = declared[queue]
        most = found.max_priority or (found.queue_arguments or {}).get(MAX_PRIORITY)
    return None if most is None else int(most)


def sent_with(app: Celery, plan: Plan, node: str, epoch: int) -> int | None:
    """The priority with which a node's message is sent: the run's, else what the app has for its task.

    Returns:
        None where that cannot be told: a route of the app may be a function, which other processes have and this one
        has not.
    """
    own = priority_of(epoch)
    if own is not None:
        return own
    planned = plan.nodes[node_of(node)]
    task = app.tasks.get(planned.task)
    if task is None:
        return None
    options = {"queue": planned.queue, "priority": task.priority}
    try:
        routed = Routes(app).route(options, planned.task, (), {}).get("priority")
        return int(routed or 0)
    except Exception:  # noqa: BLE001 - routes are a user's code
        return None
