"""A user's module whose nodes are wired by name, in every mode in which a node runs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from celery import Celery
from pydantic import BaseModel, Field

from orchestrator import (
    FlowBuilder,
    Node,
    NodeContext,
    Orchestrator,
    Page,
    Terminal,
    const,
    manual,
    map_item,
    paginate,
    run_input,
)
from tests.harness import Ledger

URL = os.environ["TEST_REDIS_URL"]
app = Celery("wired", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
orchestrator = Orchestrator(app)
LEDGER = Ledger(URL)
QUEUE = "wired"


class Parcel(BaseModel):
    weight: int
    label: str = Field(default="none", alias="labelText")


class Order(BaseModel):
    item: str
    parcels: list[Parcel]
    note: str | None = None


@dataclass
class Quote:
    rail: int
    road: int = 7


def ask(item: str) -> int:
    return len(item)


def heaviest(parcels: list[Parcel]) -> Parcel:
    return max(parcels, key=lambda parcel: parcel.weight)


def ship(  # noqa: PLR0917 - as a user may write it
    ctx: NodeContext, rail: int, road: int, order: Order, parcel: Parcel, how: str, limit: int = 5, lost: int = -1
) -> str:
    return f"{ctx.node_name}: {rail} {road} {order.item} {parcel.label} {how} {limit} {lost}"


def quote(given: Quote) -> int:
    return 100 * given.rail + given.road


async def describe(text: str, quoted: int) -> str:
    return f"{text} | {quoted}"


def never(_state: object) -> bool:
    return False


rail = Node("rail", ask).with_inputs(item=run_input["item"])
road = Node("road", ask).with_inputs(item="text")


def flow(name: str, *, fused: bool = False, local: bool = False) -> Any:
    builder = FlowBuilder(name).takes(Order).on_queue(QUEUE).triggered_by(manual("test"))
    return (
        (builder.fused() if fused else builder)
        .then(Node("text", lambda item, mark: item + mark).with_inputs(item=run_input["item"], mark=const("!")))
        .then_parallel(
            "both", rail, road, Node("parcel", heaviest).with_inputs(parcels=run_input["parcels"]), local=local
        )
        .when(never)
        .then(Node("lost", lambda: 1))
        .end_when()
        .then(
            Node("ship", ship).with_inputs(
                rail=rail, road="road", order=run_input, parcel="parcel", how=const("road"), limit=100, lost="lost"
            )
        )
        .then(Node("quote", quote).with_inputs(rail=rail))
        .then(Node("describe", describe).with_inputs(text="ship", quoted="quote"))
        .build()
    )


def tag(number: int, prefix: str, weight: int, extra: int = 0) -> str:
    if number == 4:
        raise Terminal("no four")
    return f"{prefix}{number}/{weight}/{extra}"


def untag(tagged: str, prefix: str) -> None:
    LEDGER.note("undone", f"{tagged} {prefix}")


class Numbered(BaseModel):
    number: int


def numbers_of(state: Any) -> list[Any]:
    """One is a mapping, the others are models."""
    return [Numbered(number=number) if number else {"number": 0} for number in range(len(state.input(Order).item))]


def mapping(name: str, *, batch: int = 1, undone: bool = False) -> Any:
    node: Node[Any, Any] = Node("tag", tag).with_inputs(
        number=map_item["number"], prefix="prefix", weight=run_input["parcels"][0]["weight"], extra=map_item["extra"]
    )
    if undone:
        undo: Node[Any, Any] = Node("untag", lambda item, prefix: LEDGER.note("undone", f"{item} {prefix}"))
        node = node.on_error(undo.with_inputs(item=run_input["item"], prefix="prefix"))
    return (
        FlowBuilder(name)
        .takes(Order)
        .on_queue(QUEUE)
        .triggered_by(manual("test"))
        .then(Node("prefix", lambda: "p"))
        .then_map("all", node, numbers_of, batch_size=batch)
        .build()
    )


whole = (
    FlowBuilder("whole")
    .takes(list[int])
    .on_queue(QUEUE)
    .triggered_by(manual("test"))
    .then_map("all", Node("add", lambda n, to: n + to).with_inputs(n=map_item, to=10), lambda s: s.input(list[int]))
    .build()
)


def fail(item: str) -> None:
    raise Terminal(item)


undoing = (
    FlowBuilder("undoing")
    .takes(Order)
    .on_queue(QUEUE)
    .triggered_by(manual("test"))
    .then(Node("prefix", lambda: "p"))
    .then(Node("text", ask, "four").on_error(Node("untag", untag).with_inputs(tagged=const("t"), prefix="prefix")))
    .then(Node("fail", fail).with_inputs(item=run_input["item"]))
    .build()
)


def fetch(cursor: str | None, item: str, size: int) -> Page[str]:
    number = int(cursor or 0)
    return Page(items=[f"{item}{number}"] * size, next_cursor=str(number + 1), has_more=number < 2)


paged = (
    FlowBuilder("paged")
    .takes(Order)
    .on_queue(QUEUE)
    .triggered_by(manual("test"))
    .then(paginate("fetch", fetch).with_inputs(item=run_input["item"], size=2))
    .then(Node("join", lambda items: items["items"]).with_inputs(items="fetch"))
    .build()
)
untyped = (
    FlowBuilder("untyped")
    .on_queue(QUEUE)
    .triggered_by(manual("test"))
    .then(Node("need", lambda n: n).with_inputs(n=run_input["n"]))
    .build()
)

for each in (
    flow("tasks"),
    flow("in-one-task", fused=True),
    flow("locally", fused=True, local=True),
    mapping("mapping"),
    mapping("batched", batch=3),
    mapping("unmapping", undone=True),
    whole,
    undoing,
    paged,
    untyped,
):
    orchestrator.register(each)
