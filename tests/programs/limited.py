"""A user's module whose maps call a limited API: at a fixed rate, or at whatever rate a real HTTP server allows."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from datetime import timedelta

from celery import Celery

from orchestrator import (
    Adaptive,
    FlowBuilder,
    FlowState,
    Node,
    NodeContext,
    Orchestrator,
    RetryLater,
    RetryPolicy,
    SharedRateLimiter,
    manual,
)
from tests.harness import Ledger

URL = os.environ["TEST_REDIS_URL"]
LEDGER = Ledger(os.environ["TEST_LEDGER_URL"])
API = os.environ.get("TEST_API_URL", "")
RATE = int(os.environ.get("TEST_RATE", "10"))
PER = timedelta(seconds=float(os.environ.get("TEST_PER_S", "1")))
AFTER = timedelta(milliseconds=200)
MANY = RetryPolicy(maximum_attempts=20, initial_interval=timedelta(milliseconds=100))

app = Celery("limited", broker=URL, backend=URL)
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_transport_options={"socket_timeout": 5, "socket_connect_timeout": 5, "health_check_interval": 5},
    redis_socket_timeout=5,
    redis_socket_connect_timeout=5,
)
orchestrator = Orchestrator(app)
even = SharedRateLimiter("limited-even", RATE, per=PER, burst=1)
found = SharedRateLimiter("limited-found", 10, per=timedelta(seconds=1), burst=2, adaptive=Adaptive(1, 100))


def note(ctx: NodeContext, number: int) -> int:
    """Note its start."""
    LEDGER.note("start", f"{ctx.run_id}/{number}")
    return number


def undo() -> None:
    """Nothing; a node with a compensation keeps its record, and with it the instant of its start."""


def call(number: int) -> int:
    """Call the other side, which may refuse."""
    try:
        with urllib.request.urlopen(API, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refusal:
        refusal.close()
        raise RetryLater("429", after=AFTER, freeze=True) from None


def numbers(state: FlowState) -> list[int]:
    """As many as the run's input says."""
    return list(range(state.input(int)))


noted = Node("noted", note).with_shared_rate_limit(even).with_retry(MANY).on_error(Node("undo", undo))
called = Node("called", call).with_shared_rate_limit(found)
for name, node in (("evenly", noted), ("adaptively", called)):
    flow = FlowBuilder(name).triggered_by(manual("test")).takes(int).then_map("all", node, over=numbers).build()
    orchestrator.register(flow)
