"""Take the next run from the queue after finishing one, without going through Celery's main process.

On its way through the main process a message takes longer than several nodes of a fused flow. So for a short while a
pool process that has finished such a run takes the next one's first message out of the queue by itself; with an empty
queue nothing changes. A message that is lost meanwhile is lost like any other: the reconciler sends it again.
"""

from __future__ import annotations

import json
import logging
import time
from base64 import b64decode
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.errors import StoreError
from orchestrator.liveness.pool_processes import is_draining, is_worn_out

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.definition.plan import Plan
    from orchestrator.engine import Engine

logger = logging.getLogger(__name__)
GOES_ON_FOR_S = 0.05
"""From the beginning of a message; after that no further run is begun: what the main process holds is older."""
EMBEDDED = ("chain", "chord", "callbacks")


@dataclass(frozen=True)
class Pulled:
    """A message that was taken out of its queue.

    Attributes:
        key: The Redis list that it was taken out of.
        run_id: The run that it is for.
        epoch: Its epoch.
        plan_hash: Its plan.
        text: The message as it was in the queue.
        headers: Its headers.
    """

    key: str
    run_id: str
    epoch: int
    plan_hash: str
    text: bytes
    headers: dict[str, Any]


def pulled(engine: Engine, plan: Plan, task: Any, *, since: float) -> Iterator[Pulled]:
    """Take messages of a task, the first one of a fused flow, out of the queue from which its present one came.

    Nothing is taken where the queue is not a list in the run store's Redis.

    Args:
        engine: The engine.
        plan: The plan of the present message.
        task: The Celery task, while it runs.
        since: When its present message began, on the monotonic clock.

    Yields:
        A message; for as long as it is worked on, it is the task's request.
    """
    first = plan.steps[0]
    if not plan.fused or not first.rules.is_single or plan.nodes[first.nodes[0]].task != task.name:
        return
    queue = (task.request.delivery_info or {}).get("routing_key")
    key = engine.publisher.first_list(plan, queue) if queue else ""
    if not key:
        return
    # Celery compares max_tasks_per_child when a message ends: a process that goes on pulling would never be replaced.
    while time.monotonic() < since + GOES_ON_FOR_S and not (is_draining() or is_worn_out()):
        try:
            with engine.store.guarded():
                # Popped for good, without kombu's copy in `unacked`: if this process dies, the reconciler sends another
                # message.
                text = engine.store.scripts.pop_message(key, task.name)
        except StoreError as error:
            logger.warning("flow %s: no further run is begun here: %s", plan.flow, error)
            return
        if text is None:
            return
        message = _read(key, text)
        if message is None:  # kombu and Celery decide what becomes of it
            put_back(engine, key, text)
            return
        with _requested(task, message):
            yield message


def put_back(engine: Engine, key: str, text: bytes) -> None:
    """Put a message back at the old end of its queue; if that fails, the reconciler sends another one."""
    try:
        with engine.store.guarded():
            engine.store.put_back(key, text)
    except StoreError as error:
        logger.warning("a message is not put back into %s and will be sent again: %s", key, error)


def _read(key: str, text: bytes) -> Pulled | None:
    """A node's message; None where its body has more than a node's. pop_message.lua has looked at its head."""
    try:
        message = json.loads(text)
        arguments, named, embedded = json.loads(b64decode(message["body"]))
        run_id, epoch, plan_hash = arguments
        has_more = named or any(embedded.get(name) for name in EMBEDDED)
        headers = message["headers"]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None
    if has_more or not (isinstance(run_id, str) and isinstance(epoch, int) and isinstance(plan_hash, str)):
        return None
    return Pulled(key, run_id, epoch, plan_hash, text, headers)


@contextmanager
def _requested(task: Any, message: Pulled) -> Iterator[None]:
    """Let the task's request be this message's, for functions and log formats that look at it."""
    task_id = message.headers.get("id")
    own = task.request
    task.push_request(
        message.headers,
        id=task_id,
        correlation_id=task_id,
        root_id=message.run_id,
        parent_id=message.run_id,
        args=(message.run_id, message.epoch, message.plan_hash),
        kwargs={},
        called_directly=False,
        hostname=own.hostname,
        delivery_info=own.delivery_info,
        **dict.fromkeys((*EMBEDDED, "errbacks", "group", "children")),
    )
    try:
        yield
    finally:
        task.pop_request()
