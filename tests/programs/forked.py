"""A user's module whose runs are forked: a gate, a child, a map, a parallel step, and what undoes them."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

from orchestrator import Flow, FlowBuilder, FlowState, Node, NodeContext, Orchestrator, RetryPolicy, manual, signal
from tests.harness import Ledger

URL = os.environ["TEST_REDIS_URL"]
app = Celery("forked", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
orchestrator = Orchestrator(app)
LEDGER = Ledger(URL)
QUEUE = "forked"
ONCE = RetryPolicy(maximum_attempts=1)


def note(ctx: NodeContext) -> None:
    LEDGER.note(ctx.run_id, ctx.node_name)


def prepare(ctx: NodeContext, number: int) -> int:
    note(ctx)
    return number + 1


def undo(ctx: NodeContext) -> None:
    LEDGER.note("undo", ctx.node_name)


def label(ctx: NodeContext, number: int) -> str:
    note(ctx)
    return f"label {number}"


def double(ctx: NodeContext, item: int) -> int:
    note(ctx)
    return 2 * item


def act(ctx: NodeContext) -> str:
    note(ctx)
    return ctx.node_name


def tell(ctx: NodeContext, words: list[str]) -> str:
    note(ctx)
    if LEDGER.client.get("broken"):
        raise ValueError("it is broken")
    return " ".join(words)


def all_of(state: FlowState) -> list[str]:
    numbers = map(str, state.get("double", list[int]))
    return [
        str(state.get("prepare", int)),
        state.get("paid", str),
        state.get("ship", str),
        *numbers,
        state.get("left", str),
    ]


def flow(name: str, *, fused: bool = False) -> FlowBuilder:
    builder = FlowBuilder(name).takes(int).on_queue(QUEUE).triggered_by(manual("test"))
    return builder.fused() if fused else builder


def prepared(state: FlowState) -> int:
    return state.get("prepare", int)


shipping = flow("shipping").then(Node("label", label).with_input_func(lambda state: state.input(int)))
SHIPPING = shipping.then(Node("packed", act).on_error(Node("unpack", undo))).returns("label").build()


def order(name: str, *, fused: bool = False) -> Flow:
    first = Node("prepare", prepare).with_input_func(lambda state: state.input(int))
    items: Any = lambda state: [prepared(state), 1]  # noqa: E731 - as a user may write it
    return (
        flow(name, fused=fused)
        .then(first.on_error(Node("undo-prepare", undo)))
        .then(signal("paid", str))
        .then(Node("ship", SHIPPING).with_input_func(prepared))
        .then_map("each", Node("double", double), over=items)
        .then_parallel("both", Node("left", act), Node("right", act))
        .then(Node("tell", tell).with_retry(ONCE).with_input_func(all_of))
        .build()
    )


for each in (SHIPPING, order("order"), order("order-fused", fused=True)):
    orchestrator.register(each)
