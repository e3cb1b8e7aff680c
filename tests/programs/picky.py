"""An app that reads no JSON, sends to declared queues only, and whose pool processes lack a task."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery
from celery.signals import worker_process_init
from kombu.entity import Queue

from orchestrator import FlowBuilder, Node, NodeContext, Orchestrator, manual
from tests.harness import Ledger

URL = os.environ["TEST_REDIS_URL"]
LEDGER = Ledger(URL)
app = Celery("picky", broker=URL, backend=URL)
app.conf.update(
    accept_content=["yaml"],
    task_serializer="yaml",
    result_serializer="yaml",
    task_queues=[Queue("picky"), Queue("picky-idle")],
    task_default_queue="picky",
    task_create_missing_queues=False,
)
orchestrator = Orchestrator(app)


@app.task(name="picky.own")
def own(numbers: list[int]) -> list[int]:
    """A task of the app's own, in its own content."""
    return [*numbers, 4]


def double(ctx: NodeContext) -> int:
    """Return a number."""
    return 2 * ctx.attempt


def end() -> str:
    """Return the result."""
    return "end"


def block(ctx: NodeContext) -> None:
    """Keep the pool process busy until it is told to go on."""
    LEDGER.note("block", ctx.run_id)
    for _ in range(600):
        if LEDGER.client.exists("go-on"):
            return
        time.sleep(0.05)


def flow(name: str) -> FlowBuilder:
    return FlowBuilder(name).triggered_by(manual("test"))


members = [Node(name, double) for name in ("left", "right")]
orchestrator.register(
    flow("picky-fan").then(Node("first", double)).then_parallel("both", *members).then(Node("end", end)).build()
)
orchestrator.register(flow("picky-block").then(Node("block", block)).build())
orchestrator.register(flow("picky-lost").then(Node("lost", end)).build())
orchestrator.register(
    flow("picky-late").then(Node("first", end)).then(Node("last", end).with_queue("picky-idle")).build()
)
orchestrator.register(
    flow("picky-nowhere").then(Node("first", end)).then(Node("last", end).with_queue("nowhere")).build()
)
orchestrator.register(flow("picky-elsewhere").on_queue("elsewhere").then(Node("first", end)).build())


@worker_process_init.connect
def forget(**_: Any) -> None:
    """Lose a task on the way into the pool process."""
    del app.tasks["picky-lost.lost"]
