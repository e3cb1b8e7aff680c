"""A user's module whose runs are paused, by somebody or by a node that is out of attempts."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import Any

from celery import Celery

from orchestrator import FlowBuilder, Node, NodeContext, Orchestrator, RetryPolicy, manual
from tests.harness import Ledger

URL = os.environ["TEST_REDIS_URL"]
app = Celery("paused", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
orchestrator = Orchestrator(app)
LEDGER = Ledger(URL)
QUEUE = "paused"
STANDS = RetryPolicy(initial_interval=timedelta(milliseconds=50), maximum_attempts=2, on_exhausted="pause")


def act(ctx: NodeContext) -> str:
    LEDGER.note("start", f"{ctx.run_id}/{ctx.node_name}")
    return ctx.node_name


def wait_until_open(ctx: NodeContext) -> str:
    act(ctx)
    while not LEDGER.client.get("open"):
        time.sleep(0.02)
    return ctx.node_name


def need_help(ctx: NodeContext) -> str:
    act(ctx)
    if not LEDGER.client.get("helped"):
        raise ValueError("somebody has to look")
    return ctx.node_name


def die_without_help(ctx: NodeContext) -> str:
    act(ctx)
    if not LEDGER.client.get("helped"):
        os._exit(1)
    return ctx.node_name


def need_help_with(ctx: NodeContext, item: int) -> int:
    LEDGER.note("start", f"{ctx.run_id}/{item}")
    if item % 2 and not LEDGER.client.get("helped"):
        raise ValueError("somebody has to look")
    return item


def undo(ctx: NodeContext) -> None:
    LEDGER.note("undo", f"{ctx.run_id}/{ctx.node_name}")


def flow(name: str, *, fused: bool = False) -> FlowBuilder:
    builder = FlowBuilder(name).triggered_by(manual("test")).on_queue(QUEUE)
    return builder.fused() if fused else builder


def three(name: str, *, fused: bool = False) -> Any:
    """A node that takes as long as the test wants, between two others."""
    first = Node("first", act).on_error(Node("undo-first", undo))
    return flow(name, fused=fused).then(first).then(Node("slow", wait_until_open)).then(Node("last", act)).build()


def beside(name: str, function: Any) -> Any:
    builder = flow(name).then(Node("first", act).on_error(Node("undo-first", undo)))
    return (
        builder.then_parallel("both", Node("stuck", function).with_retry(STANDS), Node("beside", act))
        .then(Node("last", act))
        .build()
    )


plain, fused = three("plain"), three("fused", fused=True)
members = (
    flow("members").then_parallel("both", Node("slow", wait_until_open), Node("b", act)).then(Node("last", act)).build()
)
stuck, killed = beside("stuck", need_help), beside("killed", die_without_help)
items = (
    flow("items")
    .then_map("all", Node("item", need_help_with).with_retry(STANDS), over=lambda _: list(range(6)))
    .then(Node("last", act))
    .build()
)
for each in (plain, fused, members, stuck, killed, items):
    orchestrator.register(each)
