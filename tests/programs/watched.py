"""A user's module whose runs are looked at in Flower: every way in which the message of a node is sent."""

from __future__ import annotations

import os
from datetime import timedelta

from celery import Celery

from orchestrator import FlowBuilder, Node, NodeContext, Orchestrator, RetryPolicy, Terminal, manual, schedule, sleep
from orchestrator.definition.gates import approval
from tests.harness import Ledger, wait_until

URL = os.environ["TEST_REDIS_URL"]
app = Celery("watched", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
orchestrator = Orchestrator(app)
LEDGER = Ledger(URL)
SOON = RetryPolicy(initial_interval=timedelta(milliseconds=100), maximum_attempts=2, jitter=False)


class OutOfStock(Exception):
    """A user's own error."""


def done() -> str:
    """Succeeds."""
    return "done"


def stumbles(ctx: NodeContext) -> int:
    """Succeeds in its second attempt."""
    if ctx.attempt == 1:
        raise ConnectionError("stumbled")
    return ctx.attempt


def sells_nothing() -> None:
    """Never succeeds."""
    raise OutOfStock("no shoes <left>")


def waits() -> None:
    """Goes on when the ledger says so."""
    LEDGER.note("start", "waits")
    wait_until(lambda: LEDGER.client.get("go"), "go")


def needs_help() -> None:
    """Fails for good until the ledger says that it is mended, then goes on when the ledger says so."""
    if not LEDGER.client.get("mended"):
        raise Terminal("not mended")
    waits()


def undo(name: str) -> Node[object, None]:
    return Node(f"undo-{name}", lambda: None)


def flow(name: str) -> FlowBuilder:
    return FlowBuilder(name).triggered_by(manual("test"))


tour = (
    flow("tour")
    .then(Node("first", done))
    .then(Node("in-chain", done))
    .then(Node("again-in-chain", stumbles).with_retry(SOON))
    .then_parallel("fan", Node("left", done), Node("right", done))
    .then(Node("chord-body", done))
    .then_parallel("second-fan", Node("again-in-chord", stumbles).with_retry(SOON), Node("beside", done))
    .then(Node("last", done))
    .build()
)
sale = (
    flow("sale")
    .then(Node("reserve", done).on_error(undo("reserve")))
    .then(Node("charge", done).on_error(undo("charge")))
    .then(Node("ship", sells_nothing).with_retry(SOON))
    .build()
)
slow = flow("slow").triggered_by(schedule("0 0 29 2 *")).then(Node("waits", waits)).build()
mendable = flow("mendable").then(Node("needs-help", needs_help)).build()
parcel = flow("parcel").then(Node("pack", done)).build()
asked = (
    flow("asked")
    .then(approval("ok"))
    .then_parallel("both", Node("ship", parcel), sleep("nap", timedelta(milliseconds=1)))
    .then(approval("again"))
    .build()
)

for each in (tour, sale, slow, mendable, parcel, asked):
    orchestrator.register(each)
