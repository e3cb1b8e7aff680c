"""Flows with models in them, found by `app.autodiscover_tasks()`."""

import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog

from orchestrator import FlowBuilder, FlowState, Node, manual, schedule

from .models import Order
from .tasks import mark


def given(state: FlowState) -> int:
    return state.input(int)


def load(order_id: int) -> str:
    return str(Order.objects.get(pk=order_id).item)


async def load_async(order_id: int) -> str:
    return str((await Order.objects.aget(pk=order_id)).item)


def finish(order_id: int) -> str:
    order = Order.objects.get(pk=order_id)
    order.state += "+done"
    order.save()
    return str(order.state)


order = (
    FlowBuilder("order")
    .takes(int)
    .triggered_by(manual("web"))
    .then_parallel("read", Node("load", load, input_func=given), Node("aload", load_async, input_func=given))
    .then(Node("mark", mark, input_func=given))
    .then(Node("finish", finish, input_func=given))
    .build()
)


def open_files() -> int:
    """How many files of databases this process has open."""
    files = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            files.append(link.readlink())
        except FileNotFoundError:  # the one of the iteration
            continue
    return sum(".sqlite3" in file.name for file in files)


def uses_database(order_id: int) -> int:
    """How many there are before the node opens one."""
    before = open_files()
    load(order_id)
    return before


async def uses_database_async(order_id: int) -> int:
    before = open_files()
    await load_async(order_id)
    return before


def waits_for_none() -> int:
    """How many there are when the thread of asynchronous code has had its turn."""
    deadline = time.monotonic() + 5
    while open_files() and time.monotonic() < deadline:
        time.sleep(0.01)
    return open_files()


def using(name: str, fn: Any) -> Node[Any, Any]:
    return Node(name, fn, input_func=given)


for is_fused in (False, True):
    builder = FlowBuilder("connections-fused" if is_fused else "connections").takes(int).triggered_by(manual("test"))
    if is_fused:
        builder = builder.fused()
    builder = (
        builder.then(using("first", uses_database))
        .then(using("second", uses_database))
        .then_parallel("local", using("left", uses_database), using("right", uses_database), local=is_fused)
        .then(using("behind", uses_database))
        .then(using("async", uses_database_async))
        .then(Node("none", waits_for_none))
        .then(using("last", uses_database))
    )
    globals()[builder.build().name] = builder.build()

noted = FlowBuilder("noted").takes(str).triggered_by(manual("web")).then(Node("only", lambda: None)).build()


def bound() -> dict[str, Any]:
    """What structlog's context has."""
    return {name: str(value) for name, value in structlog.contextvars.get_contextvars().items()}


logged = (
    FlowBuilder("logged")
    .triggered_by(manual("web"))
    .fused()
    .then(Node("a", bound))
    .then_parallel("both", Node("l", bound), Node("r", bound), local=True)
    .then(Node("b", bound))
    .build()
)
nightly = (
    FlowBuilder("nightly")
    .triggered_by(schedule(os.environ.get("TEST_CRON", "0 3 * * *"), catch_up=timedelta(hours=1)))
    .then(Node("count", Order.objects.count))
    .build()
)
