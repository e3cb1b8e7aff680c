"""A user's module with a flow and a task of plain Celery, both of which work until they are let go."""

from __future__ import annotations

import os
import time

from celery import Celery

from orchestrator import FlowBuilder, Node, NodeContext, Orchestrator, manual
from tests.harness import Ledger

URL = os.environ["TEST_REDIS_URL"]
app = Celery("lean", broker=URL, backend=URL)
app.conf.update(broker_connection_retry_on_startup=True, task_default_queue="lean", task_acks_late=True)
app.conf.worker_prefetch_multiplier = 4
orchestrator = Orchestrator(app)
LEDGER = Ledger(URL)
LET_GO = "lean:go"


def wait() -> None:
    """Until everybody is let go, at most half a minute."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not LEDGER.client.get(LET_GO):
        time.sleep(0.02)


def held(ctx: NodeContext) -> None:
    LEDGER.note("start", f"{ctx.run_id}/{ctx.node_name}")
    wait()


@app.task(name="lean.plain")
def plain(name: str) -> None:
    LEDGER.note("start", name)
    wait()


orchestrator.register(FlowBuilder("lean").triggered_by(manual("test")).then(Node("held", held)).build())
