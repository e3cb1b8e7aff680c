"""A user's module whose runs an operator lists, watches and steers from a terminal."""

from __future__ import annotations

import os
from datetime import timedelta

from celery import Celery
from pydantic import BaseModel

from orchestrator import (
    FlowBuilder,
    FlowState,
    Node,
    NodeContext,
    Orchestrator,
    RetryPolicy,
    Settings,
    SharedRateLimiter,
    manual,
    schedule,
)
from tests.harness import Ledger

URL = os.environ["TEST_REDIS_URL"]
app = Celery("operated", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
orchestrator = Orchestrator(app, settings=Settings(indexed_tags=("tenant",), metric_tags=("tenant",), redact=("card",)))
LEDGER = Ledger(URL)
ONCE = RetryPolicy(maximum_attempts=1)
ONCE_MORE = RetryPolicy(timedelta(minutes=1), maximum_attempts=2)


class Order(BaseModel):
    """What is bought."""

    item: str
    count: int = 1
    card: str = "4711"


def order_of(state: FlowState) -> Order:
    return state.input(Order)


def price(ctx: NodeContext, order: Order) -> dict[str, object]:
    """What it costs, with a field that nobody may see."""
    ctx.logger.info("price of %s", order, extra={"card": order.card})
    return {"total": order.count * 10, "card": order.card}


def pack(order: Order) -> str:
    """Name what was packed, as it was given."""
    return f"{order.count} x {order.item}"


def report(ctx: NodeContext) -> None:
    """Say that it goes on."""
    ctx.heartbeat()


def tell_card(order: Order) -> str:
    """Return what is hidden as a whole."""
    return order.card


def refuse(order: Order) -> str:
    """Fail for good."""
    raise ValueError(f"no {order.item} left")


def leak(ctx: NodeContext, order: Order) -> str:
    """Say the number of a card wherever a node can say something."""
    ctx.logger.info("charge %s", order.card)
    ctx.heartbeat({"order": order.model_dump(), "doing": f"charge {order.card}"})
    if order.item == "slow":
        LEDGER.note("leaking", ctx.run_id)
        LEDGER.wait_for("go", ctx.run_id)
    raise ValueError(f"{order!r}: the bank refused {order.card}")


def wait_for_word(ctx: NodeContext) -> str:
    """Run until the test says so."""
    LEDGER.note("start", ctx.run_id)
    LEDGER.wait_for("go", ctx.run_id)
    return "done"


def note_instant(ctx: NodeContext) -> str:
    """Say for which instant this is."""
    return str(ctx.scheduled_for)


def ask(ctx: NodeContext) -> str:
    """Have something done elsewhere."""
    LEDGER.client.set(f"callback {ctx.run_id}", ctx.callback)
    answer: str = ctx.defer()
    return answer


api = SharedRateLimiter("order-api", 100, timedelta(seconds=1))
order = (
    FlowBuilder("order")
    .takes(Order)
    .triggered_by(manual("web"))
    .then_parallel(
        "both",
        Node("price", price).with_input_func(order_of).with_shared_rate_limit(api),
        Node("pack", pack).with_input_func(order_of),
    )
    .returns("pack")
    .build()
)
refused = (
    FlowBuilder("refused")
    .takes(Order)
    .triggered_by(manual("web"))
    .then(Node("refuse", refuse).with_input_func(order_of).with_retry(ONCE))
    .build()
)
leaky = (
    FlowBuilder("leaky")
    .takes(Order)
    .triggered_by(manual("web"))
    .then(Node("leak", leak).with_input_func(order_of).with_retry(ONCE_MORE))
    .build()
)
carded = (
    FlowBuilder("carded")
    .takes(Order)
    .triggered_by(manual("web"))
    .then(Node("tell", tell_card).with_input_func(order_of).as_("card"))
    .build()
)
slow = FlowBuilder("slow").triggered_by(manual("web")).then(Node("word", wait_for_word).with_retry(ONCE)).build()
lonely = FlowBuilder("lonely").triggered_by(manual("web")).then(Node("alone", lambda: 1)).on_queue("nobody").build()
nightly = (
    FlowBuilder("nightly")
    .triggered_by(schedule("30 2 * * *", timezone="Europe/Vienna"))
    .then(Node("note", note_instant))
    .build()
)
asking = FlowBuilder("asking").triggered_by(manual("web")).then(Node("ask", ask)).build()
steps = (
    FlowBuilder("steps")
    .takes(Order)
    .triggered_by(manual("web"))
    .then(Node("count", lambda order: order.count, input_func=order_of))
    .then(Node("tell", lambda count: f"{count} of them", input_func=lambda state: state.get("count", int)))
    .build()
)
bounded = (
    FlowBuilder("bounded")
    .triggered_by(manual("web"))
    .with_timeout(timedelta(hours=1))
    .with_max_runs(2, when_full="skip")
    .then(Node("brief", report).with_deadline(timedelta(minutes=2)).with_heartbeat_timeout(timedelta(seconds=5)))
    .then(Node("below", lonely))
    .build()
)
for flow in (order, bounded, refused, leaky, carded, slow, lonely, nightly, asking, steps):
    orchestrator.register(flow)
