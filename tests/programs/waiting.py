"""A user's module whose flows wait: for signals, people, instants and callbacks."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import Celery
from pydantic import BaseModel

from orchestrator import (
    FlowBuilder,
    FlowState,
    Node,
    NodeContext,
    Orchestrator,
    RetryPolicy,
    approval,
    manual,
    signal,
    sleep,
    sleep_until,
)
from tests.harness import Ledger

URL = os.environ["TEST_REDIS_URL"]
app = Celery("waiting", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
orchestrator = Orchestrator(app)
LEDGER = Ledger(URL)
QUEUE = "waiting"
SOON = RetryPolicy(initial_interval=timedelta(milliseconds=50), maximum_attempts=2, jitter=False)


class Payment(BaseModel):
    amount: int


def act(ctx: NodeContext) -> str:
    LEDGER.note(ctx.node_name, ctx.run_id)
    return ctx.node_name


def undo(ctx: NodeContext) -> None:
    LEDGER.note(ctx.node_name, ctx.run_id)


def ask(ctx: NodeContext) -> str:
    """Give the callback away, and wait for it."""
    LEDGER.client.set(f"callback {ctx.run_id}", ctx.callback)
    LEDGER.note("ask", ctx.run_id)
    given: str = ctx.defer(timeout=timedelta(minutes=5))
    return given


def ask_briefly(ctx: NodeContext) -> str:
    LEDGER.client.set(f"callback {ctx.run_id}", ctx.callback)
    LEDGER.note("ask", ctx.run_id)
    given: str = ctx.defer(timeout=timedelta(milliseconds=200))
    return given


def ask_slowly(ctx: NodeContext) -> str:
    """Give the callback away long before it waits for it."""
    LEDGER.client.set(f"callback {ctx.run_id}", ctx.callback)
    LEDGER.note("ask", ctx.run_id)
    time.sleep(1)
    given: str = ctx.defer()
    return given


async def ask_later(ctx: NodeContext) -> str:
    return ask(ctx)


def ask_for_item(ctx: NodeContext, item: int) -> int:
    LEDGER.client.set(f"callback {ctx.run_id} {item}", ctx.callback)
    given: int = ctx.defer()
    return given


def shout(word: str) -> str:
    return word.upper()


def amount_paid(state: FlowState) -> int:
    return state.get("paid", Payment).amount


def tell(amount: int) -> int:
    return amount


def opens_at(state: FlowState) -> datetime:
    return datetime.fromtimestamp(state.input(float), UTC)


def three(_state: FlowState) -> list[int]:
    return [0, 1, 2]


def flow(name: str) -> FlowBuilder:
    return FlowBuilder(name).on_queue(QUEUE).triggered_by(manual("test"))


def undone(name: str) -> Node[Any, str]:
    return Node(name, act).on_error(Node(f"undo-{name}", undo))


def shouted(name: str = "shout") -> Node[Any, str]:
    return Node(name, shout).with_input_func(lambda state: state.get("ask", str))


paid = signal("paid", Payment)
told = Node("tell", tell).with_input_func(amount_paid)

FLOWS = (
    flow("gated").then(undone("reserve")).then_parallel("both", paid, approval("ok")).then(told),
    flow("first").then(paid).then(told),
    flow("mixed").then_parallel("all", paid, Node("beside", act)).then(told),
    flow("late")
    .then(signal("paid", Payment, default=Payment(amount=0)).with_timeout(timedelta(milliseconds=300)))
    .then(sleep("cool-off", timedelta(milliseconds=300)))
    .then(told),
    flow("never").then(undone("reserve")).then(paid.with_timeout(timedelta(milliseconds=300))),
    flow("opens").takes(float).then(sleep_until("opening", opens_at)).then(Node("after", act)),
    flow("fused-gates").fused().then(Node("before", act)).then(paid).then(Node("between", act)).then(told),
    flow("elsewhere").then(Node("ask", ask)).then(shouted()),
    flow("elsewhere-later").then(Node("ask", ask_later)).then(shouted()),
    flow("elsewhere-fused").fused().then(Node("before", act)).then(Node("ask", ask)).then(shouted()),
    flow("elsewhere-local")
    .fused()
    .then_parallel("two", Node("ask", ask), Node("beside", act), local=True)
    .then(shouted()),
    flow("elsewhere-beside").then_parallel("two", Node("ask", ask), Node("beside", act)).then(shouted()),
    flow("elsewhere-slowly").then(Node("ask", ask_slowly)).then(shouted()),
    flow("elsewhere-briefly").then(Node("ask", ask_briefly).with_retry(SOON)).then(shouted()),
    flow("elsewhere-mapped").then_map("all", Node("ask", ask_for_item), three, max_concurrency=2),
)
for built in FLOWS:
    orchestrator.register(built.build())
