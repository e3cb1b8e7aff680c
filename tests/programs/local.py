"""A user's module whose fan-outs run in one process."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from datetime import timedelta
from itertools import repeat
from typing import Any

from celery import Celery

from orchestrator import FlowBuilder, Node, NodeContext, Orchestrator, RetryPolicy, SharedRateLimiter, manual
from tests.harness import Ledger

URL = os.environ["TEST_REDIS_URL"]
app = Celery("local", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
orchestrator = Orchestrator(app)
LEDGER = Ledger(URL)
QUEUE = "local"
WIDE = 45
ONCE = RetryPolicy(maximum_attempts=1)
SOON = RetryPolicy(initial_interval=timedelta(milliseconds=100), maximum_attempts=3, jitter=False)
spaced = SharedRateLimiter("local-api", 4, per=timedelta(seconds=1), burst=1)
_meeting = threading.Barrier(3)


def noted(ctx: NodeContext) -> list[Any]:
    """Say where it ran."""
    LEDGER.note("start", f"{ctx.run_id}/{ctx.node_name}")
    return [os.getpid(), ctx.attempt]


def meets(ctx: NodeContext) -> list[Any]:
    """Return only when three are there at the same time, in this process."""
    _meeting.wait(20)
    return noted(ctx)


async def naps(ctx: NodeContext) -> list[Any]:
    await asyncio.sleep(0.05)
    return noted(ctx)


def dies_once(ctx: NodeContext) -> int:
    """Takes its process with it, the first time, when the others have ended."""
    LEDGER.note("start", f"{ctx.run_id}/{ctx.node_name}")
    if ctx.attempt == 1:
        LEDGER.wait_for("start", f"{ctx.run_id}/go")
        os._exit(1)
    return ctx.attempt


def fails_once(ctx: NodeContext) -> list[Any]:
    if ctx.attempt == 1:
        raise ConnectionError("not yet")
    return noted(ctx)


def refuses(ctx: NodeContext) -> None:
    """Fail for good, when it is told to."""
    LEDGER.wait_for("start", f"{ctx.run_id}/go")
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


def flow(name: str) -> FlowBuilder:
    return FlowBuilder(name).triggered_by(manual("test")).on_queue(QUEUE).fused()


def node(name: str, fn: Any = noted) -> Node[Any, Any]:
    return Node(name, fn)


def members(fn: Any = noted, count: int = 3) -> list[Node[Any, Any]]:
    return [node(f"m-{number}", fn) for number in range(count)]


undo = Node("undo", lambda _output: LEDGER.note("undo", "m-0"))
for built in (
    flow("local-fan").then(node("a")).then_parallel("fan", *members(meets), local=True).then(node("b")).build(),
    flow("local-first").then_parallel("fan", *members(), local=True).then(node("b")).build(),
    flow("local-async").then(node("a")).then_parallel("fan", *members(naps), local=True).then(node("b")).build(),
    flow("local-twice")
    .then(node("a"))
    .then_parallel("one", *members(), local=True)
    .then_parallel("two", node("x"), node("y"), local=True)
    .build(),
    flow("local-wide").then(node("a")).then_parallel("fan", *members(count=WIDE), local=True).then(node("b")).build(),
    flow("local-dies")
    .then(node("a"))
    .then_parallel("fan", node("m-0"), node("m-1"), node("m-2", dies_once), local=True)
    .then(node("b"))
    .build(),
    flow("local-retries")
    .then(node("a"))
    .then_parallel("fan", node("m-0"), node("m-1", fails_once).with_retry(SOON), local=True)
    .then(node("b"))
    .build(),
    flow("local-fails")
    .then(node("a"))
    .then_parallel("fan", node("m-0").on_error(undo), node("m-1", refuses).with_retry(ONCE), local=True)
    .then(node("b"))
    .build(),
    flow("local-excuses")
    .then(node("a"))
    .then_parallel(
        "fan", node("m-0"), node("m-1", refuses).with_retry(ONCE), on_failure="continue", require=1, local=True
    )
    .then(node("b"))
    .build(),
    flow("local-stuck")
    .then(node("a"))
    .then_parallel(
        "fan", node("m-0"), node("m-1", held).with_timeout(timedelta(seconds=1)).with_retry(SOON), local=True
    )
    .then(node("b"))
    .build(),
    flow("local-spaced")
    .then_parallel("fan", *[each.with_shared_rate_limit(spaced) for each in members()], local=True)
    .then(node("b"))
    .build(),
    flow("local-waits").then(node("a")).then_parallel("fan", *members(waits), local=True).then(node("b")).build(),
    flow("local-joins-elsewhere")
    .then(node("a"))
    .then_parallel("fan", *members(), local=True)
    .then(Node("b", noted, queue="local-other"))
    .build(),
    flow("local-elsewhere")
    .then(node("a"))
    .then_parallel("fan", node("m-0"), Node("m-1", noted, queue="local-other"), local=True)
    .then(node("b"))
    .build(),
):
    orchestrator.register(built)
