"""A user's module whose nodes are called again with their own output."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import Any

from celery import Celery
from pydantic import BaseModel

from orchestrator import FlowBuilder, Node, NodeContext, Orchestrator, RetryPolicy, SharedRateLimiter, Terminal, manual
from tests.harness import Ledger

URL = os.environ["TEST_REDIS_URL"]
app = Celery("repeating", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
orchestrator = Orchestrator(app)
LEDGER = Ledger(URL)
QUEUE = "repeating"
SOON = RetryPolicy(initial_interval=timedelta(milliseconds=50), maximum_attempts=3, jitter=False)
ONCE = RetryPolicy(maximum_attempts=1)
api = SharedRateLimiter("repeating-api", 20, per=timedelta(seconds=1), burst=1)


class Poll(BaseModel):
    job: str
    seen: int = 0
    done: bool = False


def count(ctx: NodeContext, n: int) -> int:
    LEDGER.note("count", f"{ctx.run_id}/{n}")
    return n + 1


def look(ctx: NodeContext, poll: Poll) -> Poll:
    assert ctx.iteration == poll.seen
    LEDGER.note("count", f"{ctx.run_id}/{poll.seen}")
    return Poll(job=poll.job, seen=poll.seen + 1, done=poll.seen == 2)


async def count_later(n: int) -> int:
    return n + 1


def tell_context(ctx: NodeContext) -> list[Any]:
    """It has no parameter for what it returned before."""
    return [ctx.iteration, ctx.attempt, ctx.idempotency_key.removeprefix(ctx.run_id)]


def add(a: int, b: int) -> dict[str, int]:
    return {"a": a + b, "b": b}


def dies_once(ctx: NodeContext, n: int) -> int:
    after = count(ctx, n)
    if n == 3 and ctx.attempt == 1:
        os._exit(1)
    return after


def flaky(ctx: NodeContext, n: int) -> int:
    """Every iteration fails twice: more often in all than one of them may."""
    after = count(ctx, n)
    if ctx.attempt < 3:
        raise ConnectionError("not yet")
    return after


def hangs_once(ctx: NodeContext, n: int) -> int:
    after = count(ctx, n)
    if n == 1 and ctx.attempt == 1:
        time.sleep(30)
    return after


def refuses_until_open(ctx: NodeContext, n: int) -> int:
    after = count(ctx, n)
    if n == 2 and not LEDGER.client.get("open"):
        raise Terminal("closed")
    return after


def answer_wrongly(what: str) -> Any:
    if what == "large":
        return "x" * 2_000_000
    return float("nan") if what == "not-json" else {"no": "text"}


def undo(ctx: NodeContext, n: int | None) -> None:
    LEDGER.note("undo", f"{ctx.run_id}={n}")


def raise_at_two(n: int) -> bool:
    if n == 2:
        raise ValueError("cannot tell")
    return False


def flow(name: str) -> FlowBuilder:
    return FlowBuilder(name).triggered_by(manual("test")).on_queue(QUEUE)


def counter(name: str = "count", function: Any = count, **repeat: Any) -> Node[Any, int]:
    """A node that counts from 0 up to the run's input."""
    repeat = {"until": lambda n: n >= 5} | repeat
    return Node(name, function).with_input(0).with_retry(SOON).with_repeat(**repeat)


def alone(name: str, node: Node[Any, Any], *, fused: bool = False) -> Any:
    builder = flow(name).then(node)
    return (builder.fused() if fused else builder).build()


SHORT = timedelta(milliseconds=200)
plain = (
    flow("plain")
    .then(Node("first", lambda: 1))
    .then(counter())
    .then(Node("after", lambda n: 10 * n).with_input_func(lambda state: state.get("count", int)))
    .build()
)
long = alone("long", counter(until=lambda n: n == 120))
fused = (
    flow("fused")
    .fused()
    .then(Node("first", lambda: 1))
    .then(counter())
    .then(Node("after", lambda n: 10 * n).with_input_func(lambda state: state.get("count", int)))
    .build()
)
polls = alone("polls", Node("look", look, Poll(job="7")).with_repeat(until=lambda poll: poll.done, every=SHORT))
later = alone("later", counter(function=count_later))
told = alone("told", Node("told", tell_context).with_repeat(until=lambda seen: seen[0] == 2))
sums = alone("sums", Node("add", add, {"a": 1, "b": 2}).with_repeat(until=lambda found: found["a"] > 6))
dies = alone("dies", counter(function=dies_once))
flakes = alone("flakes", counter(function=flaky, until=lambda n: n == 3))
hangs = alone("hangs", counter(function=hangs_once, until=lambda n: n == 3).with_timeout(timedelta(seconds=1)))
limited = alone("limited", counter(until=lambda n: n == 25).with_shared_rate_limit(api))
refuses = alone("refuses", counter(function=refuses_until_open))
many = alone("many", counter(until=lambda _: False, max_iterations=4, every=SHORT))
unsure = alone("unsure", counter(until=raise_at_two))
wrongs = alone(
    "wrongs",
    Node("wrong", answer_wrongly)
    .with_input_func(lambda state: state.input())
    .with_repeat(until=lambda answer: not isinstance(answer, dict)),
)
waits = alone("waits", counter(until=lambda _: False, every=timedelta(days=1)).on_error(Node("undo", undo), "started"))
both = (
    flow("both")
    .then_parallel("both", counter("one"), counter("two", every=SHORT), Node("three", lambda: 3))
    .then(Node("ended", lambda n: n).with_input_func(lambda s: s.get("one", int) + s.get("two", int)))
    .build()
)
best = (
    flow("best")
    .then_parallel("all", counter("one"), counter("two", refuses_until_open), on_failure="continue")
    .then(Node("ended", lambda found: found).with_input_func(lambda state: sorted(state.keys())))
    .build()
)
undone = (
    flow("undone")
    .then(counter().on_error(Node("undo", undo)))
    .then(Node("refuse", lambda: 1 / 0).with_retry(ONCE))
    .build()
)
undone_started = alone("undone-started", counter(function=refuses_until_open).on_error(Node("undo", undo), "started"))

for each in (
    plain, long, fused, polls, later, told, sums, dies, flakes, hangs, limited, refuses, many, unsure, wrongs, waits,
    both, best, undone, undone_started,
):  # fmt: skip
    orchestrator.register(each)
