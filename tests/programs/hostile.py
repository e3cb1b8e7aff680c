"""A user's module whose values, texts and patience are put to the test: what comes in, what goes out, what is said."""

from __future__ import annotations

import os
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from celery import Celery
from pydantic import BaseModel, ConfigDict

from orchestrator import Flow, FlowBuilder, FlowState, Node, NodeContext, Orchestrator, RetryPolicy, Terminal, manual
from tests.harness import Ledger

URL = os.environ["TEST_REDIS_URL"]
app = Celery("hostile", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
orchestrator = Orchestrator(app)
LEDGER = Ledger(URL)
GATE = "TEST_GATE"
"""Environment variable: the file that holds nodes back while it exists."""
SOON = RetryPolicy(initial_interval=timedelta(milliseconds=50), maximum_attempts=3, jitter=False)


def flow(name: str) -> FlowBuilder:
    return FlowBuilder(name).triggered_by(manual("test"))


# --- inputs ----------------------------------------------------------------------------------------
class Line(BaseModel):
    """One line of an order."""

    model_config = ConfigDict(extra="forbid")

    article: str
    count: int


class Order(BaseModel):
    """What is ordered."""

    model_config = ConfigDict(extra="forbid")

    id: int
    price: float = 0.0
    lines: list[Line] = []


def read_order(order: Order) -> int:
    """Count what is ordered."""
    LEDGER.note("start", "read-order")
    return sum(line.count for line in order.lines)


typed = (
    flow("typed").takes(Order).then(Node("read-order", read_order).with_input_func(lambda state: state.input())).build()
)
untyped = flow("untyped").then(Node("echo", lambda value: value).with_input_func(lambda state: state.input())).build()


# --- outputs ---------------------------------------------------------------------------------------
class Unreadable:
    """No part of it can be looked at."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __str__(self) -> str:
        raise RuntimeError("no str")

    def __reduce__(self) -> NoReturn:
        raise RuntimeError("no reduce")


def make_loop() -> list[Any]:
    """A list that contains itself."""
    loop: list[Any] = [1]
    loop.append(loop)
    return loop


def make_nest(depth: int) -> list[Any]:
    """Lists in lists."""
    nest: list[Any] = []
    for _ in range(depth):
        nest = [nest]
    return nest


OUTPUTS: dict[str, Any] = {
    "lock": threading.Lock,
    "loop": make_loop,
    "unreadable": Unreadable,
    "nested unreadable": lambda: {"rows": [1, {"cell": Unreadable()}]},
    "nan": lambda: {"rows": [1.0, float("nan")]},
    "infinity": lambda: float("-inf"),
    "bytes": lambda: {"raw": b"\xff\xfe"},
    "generator": lambda: (n for n in range(3)),
    "deep": lambda: make_nest(10_000),
    "surrogate": lambda: {"text": "a\ud800b"},
    "keys": lambda: {1: "a", "1": "b"},
    "large": lambda: "x" * 2_000_000,
    "huge": lambda: 10**5000,
    "none": lambda: None,
    "text": lambda: 'a:b{c}*?[x]\r\n\0 %s %(x)s ../../etc \u202e 😀 <script> __proto__ "; redis.call("FLUSHALL")',
}


def give(kind: str) -> Any:
    """Return what was asked for."""
    LEDGER.note("start", "give")
    return OUTPUTS[kind]()


gives = (
    flow("gives")
    .takes(str)
    .then(Node("give", give).with_input_func(lambda state: state.input()).with_retry(SOON).as_("given"))
    .then(Node("after", lambda given: given).with_input_func(lambda state: state.get("given", Any)).with_retry(SOON))
    .build()
)


def promise() -> Order:
    """Return something else than an Order."""
    LEDGER.note("start", "promise")
    return {"id": "x", "lines": [{"article": "a"}]}  # type: ignore[return-value]


breaks_its_word = flow("breaks-its-word").then(Node("promise", promise).with_retry(SOON)).build()


# --- texts -----------------------------------------------------------------------------------------
def say(text: str) -> NoReturn:
    """Raise an error with this text, or give it as a verdict."""
    if text.startswith("terminal"):
        raise Terminal(text)
    raise ValueError(text)


says: Flow = (
    flow("says")
    .takes(str)
    .then(Node("say", say).with_input_func(lambda state: state.input()).with_retry(RetryPolicy(maximum_attempts=1)))
    .build()
)


# --- a node that is at work while Redis is full or away ---------------------------------------------
def is_shut() -> bool:
    """Whether the gate is shut; a file, as Redis cannot tell it in an outage."""
    return Path(os.environ[GATE]).exists()


def hold(ctx: NodeContext) -> str:
    """Wait while the gate is shut, at most a minute."""
    LEDGER.note("start", ctx.run_id)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and is_shut():
        time.sleep(0.05)
    return "held"


def hold_and_talk(ctx: NodeContext) -> str:
    """Wait as `hold` does, and talk to the engine all the time."""
    LEDGER.note("start", ctx.run_id)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and is_shut() and not ctx.is_cancelled():
        ctx.heartbeat({"left": deadline - time.monotonic()})
        time.sleep(0.05)
    return "held"


def held(state: FlowState) -> str:
    return state.get("held", str)


holds = (
    flow("holds")
    .then(Node("hold", hold).as_("held"))
    .then(Node("pass-on", lambda given: given).with_input_func(held))
    .build()
)
talks = (
    flow("talks")
    .then(Node("talk", hold_and_talk).as_("held"))
    .then(Node("pass-on", lambda given: given).with_input_func(held))
    .build()
)
unserved = (
    flow("unserved")
    .then(Node("twin", lambda: 1).with_queue("nobody"))
    .then(Node("second", lambda: LEDGER.note("start", "second")))
    .build()
)
twin = flow("twin").then(Node("twin", lambda: 1)).build()
fresh = flow("fresh").then(Node("answer", os.getpid)).build()

for each in (typed, untyped, gives, breaks_its_word, says, holds, talks, fresh, unserved, twin):
    orchestrator.register(each)
