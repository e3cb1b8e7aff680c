"""A user's module with a flow of every kind, on the deployment that the environment names; needs only the package."""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from typing import Any

import billiard
import redis
from celery import Celery

from orchestrator import FlowBuilder, Node, NodeContext, Orchestrator, RetryPolicy, SharedRateLimiter, manual

app = Celery("everywhere")
app.conf.update(json.loads(os.environ["COMPAT_CONF"]))
app.conf.broker_connection_retry_on_startup = True
if os.environ.get("COMPAT_START") == "forkserver":  # no value of Celery's setting
    billiard.set_start_method("forkserver", force=True)
elif os.environ.get("COMPAT_START"):
    app.conf.worker_pool_start_method = os.environ["COMPAT_START"]
orchestrator = Orchestrator(app, os.environ.get("COMPAT_STORE") or None)
ledger: Any = redis.Redis.from_url(os.environ["COMPAT_LEDGER"])
SOON = RetryPolicy(initial_interval=timedelta(milliseconds=100), maximum_attempts=4, jitter=False)
spaced = SharedRateLimiter("everywhere", 20, per=timedelta(seconds=1), burst=2)


def work(ctx: NodeContext) -> int:
    """Take a moment, so that something is under way when a worker is killed."""
    ledger.rpush("starts", f"{ctx.run_id}/{ctx.node_name}")
    time.sleep(0.05)
    return ctx.attempt


async def work_async(ctx: NodeContext) -> int:
    return work(ctx)


def stumble(ctx: NodeContext) -> int:
    if ctx.attempt == 1:
        raise ConnectionError("not yet")
    return work(ctx)


def hang(ctx: NodeContext) -> int:
    """Reach the time limit, the first time."""
    if ctx.attempt == 1:
        time.sleep(20)
    return work(ctx)


def refuse() -> None:
    raise ValueError("no way")


def undo(ctx: NodeContext) -> None:
    ledger.rpush("undone", ctx.run_id)


def double(number: int) -> int:
    return number * 2


def flow(name: str) -> FlowBuilder:
    return FlowBuilder(name).triggered_by(manual("test")).on_queue("everywhere")


def node(name: str, function: Any = work) -> Node[Any, Any]:
    return Node(name, function).with_retry(SOON).with_timeout(timedelta(seconds=3))


FLOWS = {
    "chain": flow("chain").then(node("a")).then(node("b", stumble)).then(node("c", work_async)).build(),
    "fan": flow("fan").then_parallel("both", node("l"), node("r")).then(node("join")).build(),
    "fused": flow("fused").fused().then(node("a")).then(node("b")).then(node("c", stumble)).build(),
    "local": flow("local").fused().then(node("a")).then_parallel("both", node("l"), node("r"), local=True).build(),
    "map": flow("map").then_map("all", Node("item", double), over=lambda _: list(range(20)), batch_size=5).build(),
    "limited": flow("limited").then(node("a").with_shared_rate_limit(spaced)).then(node("b", hang)).build(),
    "saga": flow("saga")
    .then(node("a").on_error(Node("undo", undo)))
    .then(Node("b", refuse).with_retry(RetryPolicy(maximum_attempts=1)))
    .build(),
}
for built in FLOWS.values():
    orchestrator.register(built)
