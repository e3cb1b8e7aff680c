"""A user's module whose flows start each other."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

from celery import Celery, current_task
from pydantic import BaseModel

from orchestrator import (
    FlowBuilder,
    FlowState,
    Node,
    Orchestrator,
    RemoteFlow,
    RetryPolicy,
    Terminal,
    manual,
    map_item,
    run_input,
)
from tests.harness import Ledger

URL = os.environ["TEST_REDIS_URL"]
app = Celery("nested", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
orchestrator = Orchestrator(app)
LEDGER = Ledger(URL)
QUEUE = "nested"
SOON = RetryPolicy(initial_interval=timedelta(milliseconds=50), maximum_attempts=2)


class Parcel(BaseModel):
    item: str
    weight: int = 1


def flow(name: str) -> FlowBuilder:
    return FlowBuilder(name).on_queue(QUEUE).triggered_by(manual("test"))


def pack(item: str) -> str:
    LEDGER.note("pack", item)
    return f"box of {item}"


def unpack(box: str) -> None:
    LEDGER.note("unpack", box)


def hand_over(box: str) -> str:
    LEDGER.note("hand over", box)
    if "lead" in box:
        raise Terminal("nobody can carry it")
    if "shaky" in box and LEDGER.names("hand over").count(box) == 1:
        raise Terminal("it slipped")
    if "slow" in box:
        time.sleep(1)
    return f"label of {box}"


def recall(label: str) -> None:
    LEDGER.note("recall", label)
    if "stubborn" in label and not LEDGER.client.get("helped"):
        raise Terminal("it does not come back")


def finish(label: str) -> str:
    if "piano" in label:
        raise Terminal("too heavy after all")
    if "doubtful" in label and not LEDGER.client.get("helped"):
        raise Terminal("somebody has to look")
    return label


def bill(item: str) -> str:
    LEDGER.note("bill", item)
    return item


def unbill(item: str) -> None:
    LEDGER.note("unbill", item)


def given(state: FlowState) -> str:
    return state.input(str)


def boxed(state: FlowState) -> str:
    return state.get("pack", str)


def shipped(state: FlowState) -> Any:
    return state.get("ship")


def items(state: FlowState) -> list[str]:
    return state.input(list[str])


def is_urgent(state: FlowState) -> bool:
    return state.input(str) == "urgent"


def shipped_all(state: FlowState) -> Any:
    return ",".join(state.get("ship-one"))


def climb(height: int) -> int:
    LEDGER.note("climb", str(height))
    return height + 1


def descend(height: int) -> None:
    LEDGER.note("descend", str(height))


def never(_height: int) -> bool:
    return False


def is_high(height: int) -> bool:
    return height >= 3


def refuse_to_jump(height: int) -> int:
    if not LEDGER.client.get("helped"):
        raise Terminal("too high")
    return height


def message() -> str:
    """The id of the message in which it is called."""
    return str(current_task.request.id)


def messages(before: str, child: str) -> list[str]:
    return [before, child, message()]


def all_messages(before: str, told: list[str]) -> list[str]:
    return [before, *told]


def weigh(weight: int) -> int:
    return weight * 2


def count(labels: str) -> str:
    return labels


def count_all(labels: list[str]) -> int:
    return len(labels)


shipping = (
    flow("shipping")
    .takes(str)
    .then(Node("pack", pack).with_input_func(given).on_error(Node("unpack", unpack)))
    .then(Node("hand-over", hand_over).with_input_func(boxed).on_error(Node("recall", recall)))
    .build()
)
weighing = flow("weighing").takes(Parcel).then(Node("weigh", weigh).with_inputs(weight=run_input["weight"])).build()
climbing = (
    flow("climbing")
    .takes(int)
    .then(Node("climb", climb).with_input_func(lambda state: state.input(int)).on_error(Node("descend", descend)))
    .build()
)
telling = flow("telling").fused().then(Node("inner", message)).build()
telling_apart = replace(telling, name="telling-apart", fused=False)


def teller(name: str, child: Any) -> FlowBuilder:
    """A fused flow that says in which messages nodes before, in and behind a child are called."""
    behind = Node("behind", messages).with_inputs(before="before", child="child")
    return flow(name).fused().then(Node("before", message)).then(Node("child", child)).then(behind)


ship = Node("ship", shipping)
last = Node("finish", finish).with_input_func(shipped)
order = flow("order").takes(str).then(ship).then(last).build()
FLOWS = (
    shipping,
    weighing,
    order,
    flow("orders").takes(str).then(Node("order", order)).build(),
    flow("fused-order")
    .fused()
    .takes(str)
    .then(Node("bill", bill).with_input_func(given))
    .then(ship)
    .then(last)
    .build(),
    flow("chained-order")
    .takes(str)
    .then(Node("bill", bill).with_input_func(given).on_error(Node("unbill", unbill)))
    .then(ship)
    .then(last)
    .build(),
    flow("weighed")
    .takes(Parcel)
    .then(Node("weigh-it", weighing).with_inputs(item=run_input["item"], weight=7))
    .build(),
    flow("remote").then(Node("ship", RemoteFlow("shipping", takes=str, returns=str)).with_input("far")).build(),
    flow("deep").takes(int).then(Node("deeper", RemoteFlow("deep", takes=int))).build(),
    flow("unannounced").then(Node("ship", RemoteFlow("nowhere"))).build(),
    flow("order-both")
    .takes(str)
    .then_parallel("both", ship, Node("bill", bill).with_input_func(given).on_error(Node("unbill", unbill)))
    .then(last)
    .build(),
    flow("lenient")
    .takes(str)
    .then_parallel("some", ship, Node("bill", bill).with_input_func(given), on_failure="continue")
    .build(),
    flow("fan")
    .takes(list[str])
    .then_map("all", Node("ship-one", shipping), items, max_concurrency=2)
    .then(Node("finish", finish).with_input_func(shipped_all))
    .build(),
    flow("wired-fan")
    .takes(list[str])
    .then_map("all", Node("weigh-one", weighing).with_inputs(item=map_item, weight=3), items)
    .build(),
    flow("branched").takes(str).when(is_urgent).then(ship).otherwise(Node("bill", bill).with_input_func(given)).build(),
    flow("fans")
    .takes(list[str])
    .then(Node("fan", RemoteFlow("fan", takes=list[str])))
    .then(Node("count", count).with_inputs(labels="fan"))
    .build(),
    flow("listed").takes(list[str]).then_map("all", Node("bill-one", bill), items).build(),
    flow("listing")
    .takes(list[str])
    .then(Node("list", RemoteFlow("listed", takes=list[str], returns=list[str])))
    .then(Node("count", count_all).with_inputs(labels="list"))
    .build(),
    climbing,
    flow("mountain")
    .takes(int)
    .then(Node("step", climbing).with_repeat(is_high))
    .then(Node("jump", refuse_to_jump).with_inputs(height="step"))
    .build(),
    flow("endless").takes(int).then(Node("step", climbing).with_repeat(until=never, max_iterations=2)).build(),
    telling,
    teller("one-message", telling).build(),
    telling_apart,
    flow("message-for-each")
    .fused()
    .then(Node("before", message))
    .then_map("all", Node("told", telling), lambda _state: [1, 2, 3])
    .then(Node("behind", all_messages).with_inputs(before="before", told="told"))
    .build(),
    teller("three-messages", telling_apart).build(),
    flow("persistent").takes(str).then(ship.with_retry(SOON)).then(last).build(),
    flow("impatient").takes(str).then(ship.with_timeout(timedelta(milliseconds=100))).build(),
)
for built in FLOWS:
    orchestrator.register(built)
