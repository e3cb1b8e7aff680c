"""Which runs a pool process begins by itself, behind the one that its message was for: those that wait in the queue.

On its way through Celery's main process a message takes longer than several nodes of a fused flow. So whoever has
finished such a run takes the next one's first message out of the queue, if there is one, for a short while; with an
empty queue nothing changes. A message that is lost meanwhile is lost like any other: the reconciler sends it again.
"""

from __future__ import annotations

import json
import logging
import time
from base64 import b64decode
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery import signals

from orchestrator.errors import StoreError
from orchestrator.leases import is_draining

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.engine import Engine
    from orchestrator.plan import Plan

logger = logging.getLogger(__name__)
GOES_ON_FOR_S = 0.05
"""After that a pool process begins no further run: what its main process holds for it is older."""
HEARD = (signals.task_prerun, signals.task_postrun, signals.task_success)


def pulled(engine: Engine, plan: Plan, task: Any) -> Iterator[tuple[str, int, str]]:
    """Take messages of a task, the first one of a fused flow, out of the queue from which its present one came.

    Nothing is taken where somebody's signal handlers expect a message for every run, or where the queue is not a list
    in the run store's Redis.

    Args:
        engine: The engine.
        plan: The plan of the present message.
        task: The Celery task, while it runs.

    Yields:
        Run, epoch and plan; for as long as each is worked on, it is the task's request.
    """
    until = time.monotonic() + GOES_ON_FOR_S
    came_from = (task.request.delivery_info or {}).get("routing_key")
    if any(signal.receivers for signal in HEARD) or engine.publisher.first_queue(plan) != came_from:
        return
    mark = f'"task": {json.dumps(task.name)}'
    while time.monotonic() < until and not is_draining():
        try:
            with engine.store.guarded():
                text = engine.store.scripts.pull(came_from, mark)
                message = None if text is None else _read(text)
                if text is not None and message is None:
                    engine.store.client.rpush(came_from, text)
        except StoreError as error:
            logger.warning("flow %s: no further run is begun here: %s", plan.flow, error)
            return
        if message is None:
            return
        with _requested(task, *message):
            yield message[1]


def _read(text: bytes) -> tuple[dict[str, Any], tuple[str, int, str]] | None:
    """Headers and arguments of a node's message; None where anything about it is Celery's to care for."""
    try:
        message = json.loads(text)
        headers = message["headers"]
        arguments, named, embedded = json.loads(b64decode(message["body"]))
        run_id, epoch, plan_hash = arguments
        is_own = message["content-type"] == "application/json" and not named
        has_more = any(headers.get(name) for name in ("eta", "expires", "chord")) or any(headers["timelimit"])
        has_more = has_more or any(embedded.get(name) for name in ("chain", "chord", "callbacks"))
    except (ValueError, TypeError, LookupError, AttributeError):
        return None
    is_own = is_own and isinstance(run_id, str) and isinstance(epoch, int) and isinstance(plan_hash, str)
    return (headers, (run_id, epoch, plan_hash)) if is_own and not has_more else None


@contextmanager
def _requested(task: Any, headers: dict[str, Any], arguments: tuple[str, int, str]) -> Iterator[None]:
    """Let the task's request be this message's, for functions and log formats that look at it."""
    task.push_request(**(headers | {"args": arguments, "kwargs": {}, "correlation_id": headers.get("id")}))
    try:
        yield
    finally:
        task.pop_request()
