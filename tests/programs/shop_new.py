"""A user's code tree after a deployment; `shop_old` is the same shop before it."""

from __future__ import annotations

import os

from celery import Celery
from pydantic import BaseModel

from orchestrator import FlowBuilder, Node, Orchestrator, manual
from tests.harness import Ledger

URL = os.environ["TEST_REDIS_URL"]
QUEUE, LATER = "shop", "later"
app = Celery("shop-new", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
app.conf.task_default_queue = QUEUE
orchestrator = Orchestrator(app)
LEDGER = Ledger(URL)


class Offer(BaseModel):
    """What something costs, and in which currency."""

    price: int
    currency: str


class Customer(BaseModel):
    """Who buys, and how to reach them."""

    name: str
    email: str


def make_offer() -> Offer:
    return Offer(price=5, currency="EUR")


def flow(name: str) -> FlowBuilder:
    return FlowBuilder(name).triggered_by(manual("test"))


def step(name: str) -> Node[None, str]:
    """A node that says which tree ran it."""

    def act() -> str:
        LEDGER.note("new", name)
        return f"new {name}"

    return Node(name, act)


# Added: pack. Renamed: ship. Moved: bill and reserve.
orders = (
    flow("orders")
    .then(step("receive"))
    .then(step("pack"))
    .then(step("bill"))
    .then(step("dispatch"))
    .then(step("reserve"))
    .build()
)
rolled = flow("rolled").then(step("three")).then(step("one")).then(step("two")).build()
# Removed: middle.
fans = (
    flow("fans")
    .then_parallel("fan", step("left"), step("right"))
    .then(Node("joined", lambda given: given).with_input_func(lambda state: sorted(state.keys())))
    .build()
)
# Another branch in the block; a branch where a node was.
branches = (
    flow("branches")
    .when(lambda state: state.input() == "first", "choice")
    .then(step("first"))
    .else_when(lambda state: state.input() == "last")
    .then(step("second"))
    .otherwise(step("last"))
    .then(step("after"))
    .build()
)
swapped = flow("swapped").when(lambda state: True, "gate").then(step("inside")).end_when().then(step("behind")).build()
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
only_new = flow("only-new").then(step("novelty")).build()

for each in (orders, rolled, fans, branches, swapped, models, customers, only_new):
    orchestrator.register(each)
