"""Flows that make each script run, on an app as most are: with no word about sockets.

`TEST_VISIBILITY_S` makes Redis deliver unacknowledged messages again so soon.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta

from celery import Celery

from orchestrator import (
    FlowBuilder,
    Node,
    NodeContext,
    Orchestrator,
    Page,
    RetryPolicy,
    SharedRateLimiter,
    manual,
    paginate,
)
from tests.programs.chaos import LEDGER, MANY, URL, act, after, chain, fan, line, pace, undo

app = Celery("network", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
if visibility := os.environ.get("TEST_VISIBILITY_S"):
    app.conf.broker_transport_options = {
        "visibility_timeout": float(visibility),
        "unacked_restore_interval": 0.5,
        "unacked_restore_throttle": 1,
    }
orchestrator = Orchestrator(app)

ONCE = RetryPolicy(maximum_attempts=1)
SOON = RetryPolicy(initial_interval=timedelta(milliseconds=300), maximum_attempts=5, jitter=False)


def flow(name: str) -> FlowBuilder:
    return FlowBuilder(name).triggered_by(manual("test"))


def nap(ctx: NodeContext) -> int:
    """Take long enough that everything periodic happens meanwhile."""
    act(ctx, 0)
    time.sleep(pace("nap_s", 2))
    return 1


def stumble(ctx: NodeContext) -> int:
    """Succeed in the second attempt."""
    act(ctx, 0)
    if ctx.attempt == 1:
        raise ConnectionError("not yet")
    return 1


def tell(ctx: NodeContext) -> int:
    """Say how far it is."""
    act(ctx, 0)
    for percent in (25, 50, 75):
        ctx.heartbeat({"percent": percent})
    return 1


def wait_for_help(ctx: NodeContext) -> int:
    """Fail until the ledger says that it is mended."""
    act(ctx, 0)
    if not LEDGER.client.get("mended"):
        raise ValueError("not mended")
    return 1


naps = (
    flow("naps")
    .then(Node("before", act, 0).with_retry(MANY).on_error(undo("before")))
    .then(Node("nap", nap).with_retry(MANY))
    .then(Node("afterwards", act).with_input_func(after("nap")).with_retry(MANY))
    .build()
)
shaky = (
    flow("shaky")
    .then(Node("shaky", stumble).with_retry(SOON))
    .then(Node("afterwards", act).with_input_func(after("shaky")).with_retry(MANY))
    .build()
)
telling = flow("telling").then(Node("tells", tell).with_retry(MANY)).build()
mendable = (
    flow("mendable")
    .then(Node("kept", act, 0).with_retry(MANY))
    .then(Node("helped", wait_for_help).with_retry(ONCE))
    .then(Node("afterwards", act).with_input_func(after("helped")).with_retry(MANY))
    .build()
)
narrow = SharedRateLimiter("narrow", 4, per=timedelta(seconds=1), burst=1)
limited = (
    flow("limited")
    .then_parallel(
        "calls", *[Node(f"call-{n}", act, n).with_shared_rate_limit(narrow).with_retry(MANY) for n in range(6)]
    )
    .build()
)

limited_call = Node("call", act, 0).with_shared_rate_limit(narrow).with_retry(MANY)
joined = (
    flow("joined")
    .fused()
    .then(Node("first", act, 0).with_retry(MANY))
    .then(limited_call)
    .then(Node("last", act, 0).with_retry(MANY))
    .build()
)


def note(ctx: NodeContext) -> None:
    """Take no time."""
    LEDGER.note("start", f"{ctx.run_id}/{ctx.node_name}/{ctx.attempt}")


short = (
    flow("short").fused().then(Node("first", note).with_retry(MANY)).then(Node("last", note).with_retry(MANY)).build()
)


def act_on(ctx: NodeContext, item: int) -> int:
    """Note an item."""
    LEDGER.note("start", f"{ctx.run_id}/each-{item}/{ctx.attempt}")
    return item


each_one: Node[int, int] = Node("each", act_on).with_retry(MANY)
batch = flow("batch").then_map("all", each_one, over=lambda _state: list(range(5)), batch_size=5).build()
tenants = SharedRateLimiter("tenants", 100, per=timedelta(seconds=1), key=lambda value: str(value % 2))
keyed = (
    flow("keyed")
    .then_parallel("calls", *[Node(f"call-{n}", act, n).with_shared_rate_limit(tenants) for n in range(4)])
    .build()
)


def call_in_a_loop(ctx: NodeContext) -> int:
    """Take a token for each call."""
    act(ctx, 0)
    for _ in range(3):
        ctx.limit("narrow")
    return 1


looping = flow("looping").then(Node("loops", call_in_a_loop).with_retry(MANY)).then(limited_call).build()


def fetch(ctx: NodeContext, cursor: str | None) -> Page[int]:
    """One of three pages."""
    number = int(cursor or 0)
    LEDGER.note("start", f"{ctx.run_id}/page-{number}/{ctx.attempt}")
    return Page(items=[number], next_cursor=str(number + 1), has_more=number < 2)


paged = flow("paged").then(paginate("fetch", fetch, cursor_source="origin").with_retry(MANY)).build()

fused = line("fused", 5, fused=True)
for each in (chain, fan, fused, joined, short, batch, naps, shaky, telling, mendable, limited, keyed, looping, paged):
    orchestrator.register(each)
