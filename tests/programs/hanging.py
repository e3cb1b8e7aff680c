"""A user's module whose nodes do not come back, on queues of their own for each kind of pool."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import time
from collections import deque
from contextlib import suppress
from datetime import timedelta
from itertools import repeat
from typing import TYPE_CHECKING, Any

from celery import Celery

from orchestrator import Flow, FlowBuilder, FlowState, Node, NodeContext, Orchestrator, RetryPolicy, manual
from tests.harness import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable

URL = os.environ["TEST_REDIS_URL"]
app = Celery("hanging", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
orchestrator = Orchestrator(app)
LEDGER = Ledger(URL)
POOLS = ("prefork", "threads", "solo")
LIMIT = timedelta(seconds=1)
ONCE = RetryPolicy(maximum_attempts=1)
TWICE = RetryPolicy(initial_interval=timedelta(milliseconds=50), maximum_attempts=2, jitter=False)
LET_GO = "let-go"


def wait_for_gate() -> None:
    """Hang until the test lets go, at most a minute: a thread cannot be ended."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not LEDGER.client.get(LET_GO):
        time.sleep(0.05)


def loop() -> None:
    """Hang in Python."""
    while True:
        pass


def swallow() -> None:
    """Hang whatever is raised into it."""
    while True:
        with suppress(Exception):
            time.sleep(60)


def swallow_all() -> None:
    """Hang whatever at all is raised into it."""
    while True:
        try:
            time.sleep(60)
        except BaseException:  # noqa: BLE001 - the worst of node functions
            continue


def swallow_at_gate() -> None:
    """Hang until the test lets go, whatever is raised into it."""
    for _ in range(5):
        with suppress(Exception):
            wait_for_gate()


HANGS: dict[str, Callable[[], Any]] = {
    "sleep": lambda: time.sleep(60),
    "loop": loop,
    "swallow": swallow,
    "swallow-all": swallow_all,
    "regex": lambda: re.match(r"(a+)+$", "a" * 60 + "b"),  # in C, which looks for signals now and then
    "hash": lambda: hashlib.pbkdf2_hmac("sha256", b"", b"", 1_000_000_000),  # lets other threads run, hears no signal
    "held": lambda: deque(repeat(None, 10**13), maxlen=0),  # holds the interpreter: no thread runs, no signal is heard
    "gate": wait_for_gate,
    "swallow-at-gate": swallow_at_gate,
    "quick": lambda: None,
}


def hang(ctx: NodeContext, kind: str) -> int:
    """Hang in the first attempt."""
    LEDGER.note("start", ctx.run_id)
    if ctx.attempt == 1:
        HANGS[kind]()
        LEDGER.note("late", ctx.run_id)
    return ctx.attempt


async def hang_async(ctx: NodeContext, kind: str) -> int:
    """Hang in the event loop."""
    LEDGER.note("start", ctx.run_id)
    while ctx.attempt == 1:
        if kind == "block":
            time.sleep(60)  # noqa: ASYNC251 - as code does that is not async at heart
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if kind != "swallow":
                raise
    return ctx.attempt


def input_of(state: FlowState) -> str:
    return state.input(str)


def hangs_in_input(state: FlowState) -> str:
    LEDGER.note("start", state.run_id)
    time.sleep(60)
    return "never"


def undo_never(output: str) -> None:
    LEDGER.note("undo", output)
    time.sleep(60)


def flow(name: str, queue: str) -> FlowBuilder:
    return FlowBuilder(name).triggered_by(manual("test")).on_queue(queue)


def flows_of(queue: str) -> list[Flow]:
    """The flows of one pool."""
    hanging = Node("hang", hang).with_input_func(input_of).with_timeout(LIMIT)
    hanging_async = Node("hang-async", hang_async).with_input_func(input_of).with_timeout(LIMIT)
    return [
        flow(f"hangs-{queue}", queue).takes(str).then(hanging.with_retry(ONCE)).build(),
        flow(f"recovers-{queue}", queue).takes(str).then(hanging.with_retry(TWICE)).build(),
        flow(f"async-{queue}", queue).takes(str).then(hanging_async.with_retry(ONCE)).build(),
    ]


input_hangs = (
    flow("input-hangs", "prefork")
    .then(Node("take", lambda given: given).with_input_func(hangs_in_input).with_timeout(LIMIT).with_retry(TWICE))
    .build()
)
undo_hangs = (
    flow("undo-hangs", "prefork")
    .then(Node("first", lambda: "first").on_error(Node("undo-first", lambda output: LEDGER.note("undo", output))))
    .then(
        Node("second", lambda: "second").on_error(Node("undo-second", undo_never).with_timeout(LIMIT).with_retry(ONCE))
    )
    .then(Node("refuse", lambda: 1 / 0).with_retry(ONCE))
    .build()
)

for each in (*(each for pool in POOLS for each in flows_of(pool)), input_hangs, undo_hangs):
    orchestrator.register(each)
