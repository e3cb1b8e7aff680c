"""Describe a worker: whether its pool is busy, what keeps it from running a node, which messages wait in it."""

from __future__ import annotations

from typing import Any

from celery.worker import state

from orchestrator.messaging.accepted_content import accepts_json
from orchestrator.messaging.canvas import ADVANCE
from orchestrator.messaging.engine_task import EngineTask

AT_MOST = 500
"""Waiting messages that are named: a worker without a prefetch limit may have any number."""


def describe_worker(worker: Any) -> dict[str, Any]:
    """What a worker announces beside its queues and flows; JSON values only.

    Args:
        worker: Celery's worker, in its main process.

    Returns:
        Its name, how many tasks its pool runs at most and now, and whether it reads JSON.
    """
    return {
        "name": worker.hostname,
        "processes": int(getattr(worker.pool, "num_processes", 0) or 0),
        "busy": len(state.active_requests),
        "json": accepts_json(worker.app),
    }


def waiting_messages() -> list[str]:
    """Return the nodes of which this worker has a message that its pool has not begun, each as run and node.

    Raises:
        RuntimeError: Celery's thread has changed its requests meanwhile.
    """
    waiting = set(state.reserved_requests) - set(state.active_requests)
    ours = [request for request in waiting if isinstance(request.task, EngineTask)]
    # Without a node: the message of a whole step.
    return [
        f"{request.root_id}|{getattr(request.task, 'node', '')}"
        for request in ours
        if request.name == ADVANCE or hasattr(request.task, "node")
    ][:AT_MOST]
