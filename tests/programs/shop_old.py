"""A user's code tree before a deployment; `shop_new` is the same shop after it."""

from __future__ import annotations

import os

from celery import Celery
from pydantic import BaseModel

from orchestrator import FlowBuilder, Node, Orchestrator, manual
from tests.harness import Ledger

URL = os.environ["TEST_REDIS_URL"]
QUEUE, LATER = "shop", "later"
app = Celery("shop-old", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
app.conf.task_default_queue = QUEUE
orchestrator = Orchestrator(app)
LEDGER = Ledger(URL)


class Offer(BaseModel):
    """What something costs."""

    price: int


class Customer(BaseModel):
    """Who buys."""

    name: str


def make_offer() -> Offer:
    return Offer(price=5)


def flow(name: str) -> FlowBuilder:
    return FlowBuilder(name).triggered_by(manual("test"))


def step(name: str) -> Node[None, str]:
    """A node that says which tree ran it."""

    def act() -> str:
        LEDGER.note("old", name)
        return f"old {name}"

    return Node(name, act)


orders = flow("orders").then(step("receive")).then(step("reserve")).then(step("ship")).then(step("bill")).build()
rolled = flow("rolled").then(step("one")).then(step("two")).then(step("three")).build()
fans = (
    flow("fans")
    .then_parallel("fan", step("left"), step("middle"), step("right"))
    .then(Node("joined", lambda given: given).with_input_func(lambda state: sorted(state.keys())))
    .build()
)
branches = (
    flow("branches")
    .when(lambda state: state.input() == "first", "choice")
    .then(step("first"))
    .otherwise(step("last"))
    .then(step("after"))
    .build()
)
swapped = flow("swapped").then(step("gate")).then(step("behind")).build()
models = (
    flow("models")
    .then(Node("make", make_offer))
    .then(
        Node("judge", lambda offer: offer.price)
        .with_input_func(lambda state: state.get("make", Offer))
        .with_queue(LATER)
    )
    .build()
)
customers = (
    flow("customers")
    .takes(Customer)
    .then(Node("greet", lambda customer: customer.name).with_input_func(lambda state: state.input(Customer)))
    .build()
)

for each in (orders, rolled, fans, branches, swapped, models, customers):
    orchestrator.register(each)
