"""A user's module whose flows call a node for each item of a list."""

from __future__ import annotations

import itertools
import os
import time
from datetime import timedelta
from typing import Any

from celery import Celery

from orchestrator import (
    FlowBuilder,
    FlowState,
    Node,
    NodeContext,
    Orchestrator,
    RetryPolicy,
    SharedRateLimiter,
    Terminal,
    manual,
)
from tests.harness import Ledger

URL = os.environ["TEST_REDIS_URL"]
app = Celery("mapped", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
orchestrator = Orchestrator(app)
LEDGER = Ledger(URL)
QUEUE = "mapped"
SOON = RetryPolicy(initial_interval=timedelta(milliseconds=50), maximum_attempts=3, jitter=False)
ONCE = RetryPolicy(maximum_attempts=1)
slow_api = SharedRateLimiter("mapped-api", 20, per=timedelta(seconds=1), burst=1)


def count_up(state: FlowState) -> list[int]:
    """As many numbers as the run's input says."""
    return list(range(state.input(int)))


def double(number: int) -> int:
    return number * 2


def noted_double(ctx: NodeContext, number: int) -> int:
    LEDGER.note("start", f"{ctx.run_id}/{number}")
    return number * 2


def flaky(ctx: NodeContext, number: int) -> int:
    """Every third fails in its first attempt."""
    LEDGER.note("start", f"{ctx.run_id}/{number}")
    if number % 3 == 0 and ctx.attempt == 1:
        raise ConnectionError("not yet")
    return number


def refuses_odd(number: int) -> int:
    if number % 2:
        raise Terminal(f"{number} is odd")
    return number


def refuses_until_open(ctx: NodeContext, number: int) -> int:
    """The item 3 fails until the test opens the way."""
    LEDGER.note("start", f"{ctx.run_id}/{number}")
    if number == 3 and not LEDGER.client.get("open"):
        raise Terminal("closed")
    return number


def slow(ctx: NodeContext, number: int) -> int:
    LEDGER.note("start", ctx.run_id)
    time.sleep(0.1)
    LEDGER.note("end", ctx.run_id)
    return number


def dies_once(ctx: NodeContext, number: int) -> int:
    """The item 5 takes its process with it, the first time."""
    LEDGER.note("start", f"{ctx.run_id}/{number}")
    if number == 5 and ctx.attempt == 1:
        os._exit(1)
    return number


def undo(ctx: NodeContext, output: int) -> None:
    LEDGER.note("undo", f"{ctx.node_name}={output}")


def add_up(values: list[int | None]) -> int:
    return sum(value or 0 for value in values)


def flow(name: str) -> FlowBuilder:
    return FlowBuilder(name).triggered_by(manual("test")).on_queue(QUEUE).takes(int)


def total(node: Node[Any, Any]) -> Node[Any, Any]:
    return Node("total", add_up).with_input_func(lambda state: state.get(node))


doubles = Node("double", double)
sums = flow("sums").then_map("doubled", doubles, over=count_up).then(total(doubles)).build()
batched = flow("batched").then_map("doubled", doubles, over=count_up, batch_size=7).then(total(doubles)).build()
many = flow("many").then_map("doubled", doubles, over=count_up, batch_size=100).then(total(doubles)).build()
noted = Node("noted", noted_double)
counted = flow("counted").then_map("all", noted, over=count_up, batch_size=3).returns("noted").build()
flakes = Node("flaky", flaky).with_retry(SOON)
flaky_flow = flow("flaky").then_map("all", flakes, over=count_up, batch_size=4).build()
evens = Node("even", refuses_odd)
continues = (
    flow("continues")
    .then_map("all", evens, over=count_up, on_failure="continue", batch_size=2)
    .then(
        Node("report", lambda found: found).with_input_func(
            lambda state: [sorted(state.failures(evens)), state.get(evens)]
        )
    )
    .build()
)
requires = (
    flow("requires").then_map("all", evens, over=count_up, on_failure="continue", require=4).then(total(evens)).build()
)
resumed_node = Node("maybe", refuses_until_open)
resumes = flow("resumes").then_map("all", resumed_node, over=count_up, batch_size=2).build()
narrow = flow("narrow").then_map("all", Node("slow", slow), over=count_up, max_concurrency=2).build()
undone_node = Node("made", double).on_error(Node("undo-made", undo))
undone = (
    flow("undone")
    .then_map("all", undone_node, over=count_up)
    .then(Node("refuse", lambda: 1 / 0).with_retry(ONCE))
    .build()
)
dies = flow("dies").then_map("all", Node("die", dies_once), over=count_up, batch_size=10).build()
limited_node = Node("limited", slow).with_shared_rate_limit(slow_api)
limited = flow("limited").then_map("all", limited_node, over=count_up).build()
not_a_list = flow("not-a-list").then_map("all", Node("never", double), over=lambda state: 5).build()
bad_items = flow("bad-items").then_map("all", Node("never", double), over=lambda state: [1, "two"]).build()
SERIES: dict[str, Any] = {
    "range": lambda: range(3),
    "generator": lambda: (number for number in range(3)),
    "set": lambda: {7},
    "tuple": lambda: (1, 2),
    "keys": {1: 2}.keys,
    "values": {1: 2}.values,
    "endless": itertools.count,
    "text": lambda: "12",
    "bytes": lambda: b"12",
    "mapping": lambda: {1: 2},
    "none": lambda: None,
}
series = (
    flow("series")
    .takes(str)
    .then_map("all", Node("each", double), over=lambda state: SERIES[state.input(str)]())
    .build()
)
twice = (
    flow("twice")
    .then_map("first", Node("one", double), over=count_up)
    .then_map("second", Node("two", double), over=lambda state: state.get("one", list[int]))
    .build()
)
chosen = (
    flow("chosen")
    .when(lambda state: state.input(int) > 2)
    .then_map("all", Node("picked", double), over=count_up)
    .end_when()
    .then(Node("last", lambda found: found).with_input_func(lambda state: state.get_or("picked", list[int], [])))
    .build()
)

for each in (
    sums, batched, many, counted, flaky_flow, continues, requires, resumes, narrow, undone, dies, limited, not_a_list,
    bad_items, series, twice, chosen,
):  # fmt: skip
    orchestrator.register(each)
