"""Describe a worker for `explain`: whether its pool is busy, and what keeps it from running a node."""

from __future__ import annotations

from typing import Any

from celery.worker import state

from orchestrator.messaging.accepted_content import accepts_json


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
