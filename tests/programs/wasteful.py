"""Flows whose nodes fail holding much, in deep calls: what a worker keeps of each failure is seen after a few dozen."""

from __future__ import annotations

import os
from datetime import timedelta

from celery import Celery

from orchestrator import FlowBuilder, Node, NodeContext, Orchestrator, RetryPolicy, manual

URL = os.environ["TEST_REDIS_URL"]
DEPTH = 40
HELD = 1_000_000
ITEMS = 16
SOON = RetryPolicy(timedelta(milliseconds=20), maximum_attempts=3, jitter=False)
ONCE = RetryPolicy(maximum_attempts=1)

app = Celery("wasteful", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
orchestrator = Orchestrator(app)


def fail(depth: int = DEPTH) -> None:
    """Fail far down, each call with something of its own."""
    held = bytes(HELD // DEPTH)
    if depth:
        fail(depth - 1)
    try:
        int(f"x{len(held)}")
    except ValueError as error:
        raise KeyError(depth) from error


def refuse() -> None:
    """Fail in every attempt."""
    fail()


def stumble(ctx: NodeContext, value: int) -> int:
    """Fail in the first two attempts."""
    if ctx.attempt <= 2:
        fail()
    return value


def stumble_back(ctx: NodeContext, output: int) -> int:
    """Undo in the second attempt."""
    if ctx.attempt == 1:
        fail()
    return output


def keep(value: int) -> int:
    """Succeed."""
    return value


def add_up(state) -> int:
    """The sum of a parallel step."""
    return sum(state.get(f"part-{n}", int) for n in range(3))


orchestrator.register(
    FlowBuilder("refused").triggered_by(manual("test")).then(Node("refuse", refuse).with_retry(ONCE)).build()
)
orchestrator.register(
    FlowBuilder("stumbles").triggered_by(manual("test")).then(Node("stumble", stumble, 1).with_retry(SOON)).build()
)
orchestrator.register(
    FlowBuilder("fused")
    .triggered_by(manual("test"))
    .then(Node("keep", keep, 1))
    .then(Node("refuse", refuse).with_retry(SOON))
    .fused()
    .build()
)
orchestrator.register(
    FlowBuilder("parts")
    .triggered_by(manual("test"))
    .then_parallel("parts", *[Node(f"part-{n}", keep, n) for n in range(3)])
    .then(Node("sum", keep).with_input_func(add_up))
    .build()
)
orchestrator.register(
    FlowBuilder("saga")
    .triggered_by(manual("test"))
    .then_map(
        "all",
        Node("item", stumble).with_retry(SOON).on_error(Node("undo", stumble_back).with_retry(SOON)),
        over=lambda _state: list(range(ITEMS)),
        batch_size=8,
    )
    .then(Node("refuse", refuse).with_retry(ONCE))
    .build()
)
