"""A user's module whose flows read a source page by page."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import Any

from celery import Celery

from orchestrator import (
    FlowBuilder,
    Node,
    NodeContext,
    Orchestrator,
    Page,
    Pages,
    RetryLater,
    RetryPolicy,
    SharedRateLimiter,
    Terminal,
    manual,
    paginate,
)
from tests.harness import Ledger

URL = os.environ["TEST_REDIS_URL"]
app = Celery("paged", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
orchestrator = Orchestrator(app)
LEDGER = Ledger(URL)
QUEUE = "paged"
SOON = RetryPolicy(initial_interval=timedelta(milliseconds=50), maximum_attempts=3, jitter=False)
ONCE = RetryPolicy(maximum_attempts=1)
api = SharedRateLimiter("paged-api", 20, per=timedelta(seconds=1), burst=1)
frozen = SharedRateLimiter("paged-frozen", 1000, per=timedelta(seconds=1))


def read(ctx: NodeContext, cursor: str | None, last: int) -> Page[int]:
    """Page n has the numbers 2n and 2n + 1; its cursor is n as text."""
    number = int(cursor or 0)
    LEDGER.note("page", f"{ctx.run_id}/{number}")
    items = [2 * number, 2 * number + 1]
    return Page(items=items, next_cursor=str(number + 1) if number < last else None, has_more=number < last)


async def read_later(cursor: str | None, last: int) -> Page[int]:
    number = int(cursor or 0)
    return Page(items=[number], next_cursor=str(number + 1), has_more=number < last)


def is_at(cursor: str | None, number: int) -> bool:
    return int(cursor or 0) == number


def dies_once(ctx: NodeContext, cursor: str | None, last: int) -> Page[int]:
    """The page 3 takes its process with it, the first time."""
    page = read(ctx, cursor, last)
    if is_at(cursor, 3) and ctx.attempt == 1:
        os._exit(1)
    return page


def flaky(ctx: NodeContext, cursor: str | None, last: int) -> Page[int]:
    """Every page fails twice: more often in all than one page may."""
    page = read(ctx, cursor, last)
    if ctx.attempt < 3:
        raise ConnectionError("not yet")
    return page


def throttled(ctx: NodeContext, cursor: str | None, last: int) -> Page[int]:
    """The page 2 is told to wait, the first time."""
    page = read(ctx, cursor, last)
    if is_at(cursor, 2) and LEDGER.count(ctx.run_id) == 1:
        raise RetryLater(after=timedelta(milliseconds=500), freeze=True)
    assert ctx.attempt == 1
    return page


def refuses_until_open(ctx: NodeContext, cursor: str | None, last: int) -> Page[int]:
    page = read(ctx, cursor, last)
    if is_at(cursor, 2) and not LEDGER.client.get("open"):
        raise Terminal("closed")
    return page


def slow(ctx: NodeContext, cursor: str | None, last: int) -> Page[int]:
    page = read(ctx, cursor, last)
    time.sleep(0.05)
    return page


def hangs_once(ctx: NodeContext, cursor: str | None, last: int) -> Page[int]:
    page = read(ctx, cursor, last)
    if is_at(cursor, 1) and ctx.attempt == 1:
        time.sleep(30)
    return page


def wrong(ctx: NodeContext, cursor: str | None, what: str) -> Page[Any]:
    """Pages that cannot be gone on from, or cannot be stored."""
    LEDGER.note("page", f"{ctx.run_id}/{cursor}")
    if cursor is None:
        return Page(items=[1], next_cursor="a", has_more=True)
    if what == "large":
        return Page(items=["x" * 2_000_000])
    if what == "not-json":
        return Page(items=[float("nan")])
    return Page(items=[2], next_cursor={"same": "a", "none": None}[what], has_more=True)


def tell_context(ctx: NodeContext, cursor: str | None) -> Page[list[Any]]:
    number = int(cursor or 0)
    told = [ctx.page_size, ctx.attempt, ctx.node_name, ctx.idempotency_key.removeprefix(ctx.run_id)]
    return Page(items=[told], next_cursor=str(number + 1), has_more=number < 1)


def feed(cursor: str | None) -> Page[int]:
    """A source that grows: what came after the cursor, at most three at once."""
    first, end = int(cursor or 0), int(LEDGER.client.get("grown") or 0)
    last = min(first + 3, end)
    return Page(items=list(range(first, last)), next_cursor=str(last), has_more=last < end)


def work(numbers: list[int]) -> int:
    if LEDGER.client.get("broken"):
        raise Terminal("broken")
    return sum(numbers)


def add_up(numbers: list[int]) -> int:
    return sum(numbers)


def undo(ctx: NodeContext, pages: Pages[int] | None) -> None:
    LEDGER.note("undo", f"{ctx.run_id}={None if pages is None else pages.total_items}")


def flow(name: str) -> FlowBuilder:
    return FlowBuilder(name).triggered_by(manual("test")).on_queue(QUEUE)


def reader(name: str, function: Any = read, **options: Any) -> Node[Any, Pages[int]]:
    """A node that is given the run's input."""
    return paginate(name, function, **options).with_retry(SOON).with_input_func(lambda state: state.input())


def alone(name: str, node: Node[Any, Any]) -> Any:
    return flow(name).then(node).build()


numbers = reader("numbers")
total = Node("total", add_up).with_input_func(lambda state: state.get(numbers).items)
plain = flow("plain").takes(int).then(Node("first", lambda: 1)).then(numbers).then(total).build()
later = alone("later", reader("numbers", read_later))
few = alone("few", reader("numbers", max_pages=3))
dies = alone("dies", reader("numbers", dies_once))
flakes = alone("flakes", reader("numbers", flaky))
throttles = alone("throttles", reader("numbers", throttled).with_shared_rate_limit(frozen))
refuses = alone("refuses", reader("numbers", refuses_until_open))
limited = alone("limited", reader("numbers", slow).with_shared_rate_limit(api))
hangs = alone("hangs", reader("numbers", hangs_once).with_timeout(timedelta(seconds=1)))
wrongs = alone("wrongs", reader("numbers", wrong))
contexts = alone("contexts", paginate("told", tell_context, page_size=25))
both = (
    flow("both")
    .then_parallel("both", reader("one"), reader("two"), Node("three", lambda: 3))
    .then(
        Node("ended", lambda found: found).with_input_func(
            lambda state: [state.get(key, Pages[int]).total_items for key in ("one", "two")]
        )
    )
    .build()
)
best = (
    flow("best")
    .then_parallel("all", reader("one"), reader("two", refuses_until_open), on_failure="continue")
    .then(Node("ended", lambda found: found).with_input_func(lambda state: sorted(state.keys())))
    .build()
)
undone = (
    flow("undone")
    .then(reader("numbers").on_error(Node("undo", undo)))
    .then(Node("refuse", lambda: 1 / 0).with_retry(ONCE))
    .build()
)
undone_started = alone("undone-started", reader("numbers", refuses_until_open).on_error(Node("undo", undo), "started"))
news = paginate("news", feed, cursor_source="feed")
synced = flow("synced").then(news).then(Node("work", work).with_input_func(lambda state: state.get(news).items)).build()

for each in (
    plain, later, few, dies, flakes, throttles, refuses, limited, hangs, wrongs, contexts, both, best, undone,
    undone_started, synced,
):  # fmt: skip
    orchestrator.register(each)
