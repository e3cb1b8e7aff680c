"""A user's module whose flows run their steps in one Celery task."""

from __future__ import annotations

import os
import time
from collections import deque
from datetime import timedelta
from itertools import repeat
from typing import Any

from celery import Celery, current_task

from orchestrator import FlowBuilder, Node, NodeContext, Orchestrator, RetryPolicy, SharedRateLimiter, manual
from tests.harness import Ledger

URL = os.environ["TEST_REDIS_URL"]
app = Celery("fused", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
orchestrator = Orchestrator(app)
LEDGER = Ledger(URL)
QUEUE = "fused"
ONCE = RetryPolicy(maximum_attempts=1)
SOON = RetryPolicy(initial_interval=timedelta(milliseconds=100), maximum_attempts=3, jitter=False)
spaced = SharedRateLimiter("fused-api", 2, per=timedelta(seconds=1), burst=1)


def noted(ctx: NodeContext) -> list[Any]:
    """Say where it ran."""
    LEDGER.note("start", f"{ctx.run_id}/{ctx.node_name}")
    return [os.getpid(), ctx.attempt]


def dies(ctx: NodeContext) -> int:
    """Takes its process with it, the first time."""
    LEDGER.note("start", f"{ctx.run_id}/{ctx.node_name}")
    if ctx.attempt == 1:
        os._exit(1)
    return ctx.attempt


def fails_once(ctx: NodeContext) -> int:
    LEDGER.note("start", f"{ctx.run_id}/{ctx.node_name}")
    if ctx.attempt == 1:
        raise ConnectionError("not yet")
    return ctx.attempt


def refuses() -> None:
    raise ValueError("no way")


def held(ctx: NodeContext) -> int:
    """Hold the interpreter in C, the first time."""
    if ctx.attempt == 1:
        deque(repeat(None, 10**13), maxlen=0)
    return ctx.attempt


def waits(ctx: NodeContext) -> None:
    """Until it is cancelled, at most half a minute."""
    LEDGER.note("start", f"{ctx.run_id}/{ctx.node_name}")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not ctx.is_cancelled():
        time.sleep(0.05)


def behaves(ctx: NodeContext, way: str) -> list[Any]:
    """Does as the run's input says, and tells which run Celery thinks it is for."""
    LEDGER.note("start", f"{ctx.run_id}/{ctx.node_name}")
    if way == "dies" and ctx.attempt == 1:
        os._exit(1)
    if way == "fails":
        raise ValueError("no way")
    while way == "waits" and not LEDGER.client.exists("go"):
        time.sleep(0.02)
    if way == "slow":
        time.sleep(0.05)
    return [os.getpid(), current_task.request.root_id]


def flow(name: str) -> FlowBuilder:
    return FlowBuilder(name).triggered_by(manual("test")).on_queue(QUEUE).fused()


def node(name: str, fn: Any = noted) -> Node[Any, Any]:
    return Node(name, fn)


line = flow("fused-line")
for number in range(10):
    line.then(node(f"n-{number}"))
undo = Node("undo", lambda output: LEDGER.note("undo", "first"))
for built in (
    line.build(),
    flow("fused-dies").then(node("a")).then(node("b", dies)).then(node("c")).build(),
    flow("fused-retries").then(node("a")).then(node("b", fails_once).with_retry(SOON)).then(node("c")).build(),
    flow("fused-fails")
    .then(node("a").on_error(undo))
    .then(node("b", refuses).with_retry(ONCE))
    .then(node("c"))
    .build(),
    flow("fused-stuck")
    .then(node("a"))
    .then(node("b", held).with_timeout(timedelta(seconds=1)).with_retry(SOON))
    .then(node("c"))
    .build(),
    flow("fused-fan")
    .then(node("a"))
    .then_parallel("both", node("l"), node("r"))
    .then(node("b"))
    .then(node("c"))
    .build(),
    flow("fused-branch")
    .takes(int)
    .then(node("a"))
    .when(lambda state: state.input(int) > 1)
    .then(node("big"))
    .else_()
    .then(node("small"))
    .end_when()
    .then(node("c"))
    .build(),
    flow("fused-map")
    .takes(int)
    .then(node("a"))
    .then_map("all", Node("item", lambda item: item * 2), over=lambda state: list(range(state.input(int))))
    .then(node("b"))
    .then(node("c"))
    .build(),
    flow("fused-limited")
    .then(node("a").with_shared_rate_limit(spaced))
    .then(node("b").with_shared_rate_limit(spaced))
    .then(node("c").with_shared_rate_limit(spaced))
    .build(),
    flow("fused-cancelled").then(node("a")).then(node("b", waits)).then(node("c")).build(),
    flow("fused-waiting")
    .on_queue("fused-waiting")
    .takes(str)
    .then(node("a"))
    .then(node("b", behaves).with_input_func(lambda state: state.input(str)).with_retry(SOON))
    .build(),
    flow("fused-between").on_queue("fused-waiting").then(node("a")).build(),
    flow("fused-queues").then(node("a")).then(node("b").with_queue("fused-other")).then(node("c")).build(),
):
    orchestrator.register(built)
