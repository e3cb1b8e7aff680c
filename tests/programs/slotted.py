"""A user's module whose nodes share a few slots over two flows."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta

from celery import Celery

from orchestrator import FlowBuilder, FlowState, Node, NodeContext, Orchestrator, RetryPolicy, SharedConcurrency, manual
from tests.harness import Ledger

URL = os.environ["TEST_REDIS_URL"]
QUEUE = "slotted"
app = Celery("slotted", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
orchestrator = Orchestrator(app)
LEDGER = Ledger(URL)
database = SharedConcurrency("slotted-database", 2)
SOON = RetryPolicy(initial_interval=timedelta(milliseconds=50))


def work(number: int) -> int:
    """Be at work for a moment."""
    LEDGER.note("start", "work")
    time.sleep(0.1)
    LEDGER.note("end", "work")
    return number


def other_work() -> None:
    """Be at work in another flow."""
    work(0)


def die_once() -> None:
    """The first time, end the process with both slots' worth of others waiting."""
    if LEDGER.count("die") == 1:
        LEDGER.note("die", "once")
        os.kill(os.getpid(), signal.SIGKILL)


def block(ctx: NodeContext) -> None:
    """Hold a slot until it is told to go on."""
    LEDGER.note("block", ctx.run_id)
    for _ in range(600):
        if LEDGER.client.exists("go-on"):
            return
        time.sleep(0.05)


def flow(name: str) -> FlowBuilder:
    return FlowBuilder(name).triggered_by(manual("test")).on_queue(QUEUE)


def numbers(state: FlowState) -> list[int]:
    """As many as the run's input says."""
    return list(range(state.input(int)))


mapped = (
    flow("slotted-map").takes(int).then_map("all", Node("work", work).with_concurrency(database), over=numbers).build()
)
single = flow("slotted-single").then(Node("other", other_work, concurrency=database)).build()
dying = flow("slotted-dying").then(Node("die", die_once, concurrency=database).with_retry(SOON)).build()
blocking = flow("slotted-block").then(Node("block", block, concurrency=database)).build()
for each in (mapped, single, dying, blocking):
    orchestrator.register(each)
