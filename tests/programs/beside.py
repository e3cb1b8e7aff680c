"""A user's module with a task of its own, and with a flow on the same queue if it is asked for."""

from __future__ import annotations

import os

from celery import Celery

from orchestrator import FlowBuilder, Node, Orchestrator, manual

URL = os.environ["TEST_REDIS_URL"]
app = Celery("beside", broker=URL, backend=URL)
app.conf.update(broker_connection_retry_on_startup=True, task_default_queue="kiosk", task_acks_late=True)


@app.task(name="beside.add")
def add(left: int, right: int) -> int:
    """A task with a result."""
    return left + right


if os.environ.get("TEST_FLOWS"):
    orchestrator = Orchestrator(app, redis_url=f"{URL.rsplit('/', 1)[0]}/5")
    orchestrator.register(FlowBuilder("beside").triggered_by(manual("test")).then(Node("node", os.getpid)).build())
