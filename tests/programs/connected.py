"""A user's module whose connections are written in the environment, with flows that use most of what a run can do."""

from __future__ import annotations

import json
import os
import signal
import time
from datetime import timedelta

from celery import Celery

from orchestrator import (
    Adaptive,
    FlowBuilder,
    FlowState,
    Node,
    NodeContext,
    Orchestrator,
    Page,
    RetryLater,
    RetryPolicy,
    Settings,
    SharedConcurrency,
    SharedRateLimiter,
    manual,
    paginate,
    schedule,
)
from orchestrator.maintenance import early_ack
from tests.harness import Ledger

LEDGER = Ledger(os.environ["TEST_REDIS_URL"])
app = Celery("connected")
app.conf.update(json.loads(os.environ["TEST_CELERY"]))
app.conf.broker_connection_retry_on_startup = True
settings = Settings(prefix=os.environ.get("TEST_PREFIX", "orchestrator"))
early_ack.HOLD_S = float(os.environ.get("TEST_HOLD_S", early_ack.HOLD_S))
orchestrator = Orchestrator(app, os.environ.get("TEST_STORE_URL"), settings)
SOON = RetryPolicy(initial_interval=timedelta(milliseconds=50))
slots = SharedConcurrency("connected-slots", 1)
api = SharedRateLimiter("connected-api", 1, per=timedelta(milliseconds=500))
adaptive = SharedRateLimiter("connected-adaptive", 20, per=timedelta(seconds=1), adaptive=Adaptive(5, 50))


@app.task(name="connected.own", shared=False)
def own(number: int) -> int:
    """A task of the app's own, with a result."""
    return number + 1


def one() -> int:
    """Return a number."""
    return 1


def double(number: int) -> int:
    """Return twice the number."""
    return 2 * number


def fail() -> None:
    """Fail."""
    raise ValueError("no")


def die_once() -> int:
    """End the process the first time."""
    if LEDGER.count("connected-die") == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return 1


def later(ctx: NodeContext) -> int:
    """Ask for another attempt once, for everybody."""
    ctx.heartbeat("asked")
    if ctx.attempt == 1 and LEDGER.count("connected-later") == 1:
        raise RetryLater("busy", after=timedelta(milliseconds=100), freeze=True)
    return ctx.attempt


def ask(ctx: NodeContext) -> int:
    """Take a token for each of two calls."""
    for _ in range(2):
        ctx.limit(api.name)
    return 1


def pages(cursor: str | None) -> Page[int]:
    """Three pages of two."""
    number = int(cursor or 0)
    return Page(items=[2 * number, 2 * number + 1], next_cursor=str(number + 1), has_more=number < 2)


def hold() -> None:
    """Be at work for a moment."""
    time.sleep(0.3)


def work(ctx: NodeContext) -> int:
    """Be at work for a moment, and count it outside."""
    LEDGER.client.hincrby("work", f"{ctx.run_id}|{ctx.node_name}", 1)
    time.sleep(0.1)
    return 1


def total(state: FlowState) -> int:
    """How much is stored of what was done."""
    return sum(state.get(f"work-{number}", int) for number in range(4))


def stay(ctx: NodeContext) -> int:
    """Run longer than a broker lets a message be held, and until the test has seen it."""
    LEDGER.note("stay", ctx.run_id)
    began = time.monotonic()
    while time.monotonic() < began + 7 or ("seen", "") not in [line[:2] for line in LEDGER.lines()]:
        assert time.monotonic() < began + 60
        time.sleep(0.2)
    return ctx.attempt


def numbers(_state: FlowState) -> list[int]:
    """The items of a map."""
    return list(range(5))


def flow(name: str) -> FlowBuilder:
    return FlowBuilder(name).triggered_by(manual("test"))


FLOWS = [
    flow("connected-fan")
    .then(Node("one", one))
    .then_parallel("both", Node("left", one), Node("right", one))
    .then(Node("end", double).with_input_func(lambda state: state.get("left", int))),
    flow("connected-fused").then(Node("a", one)).then(Node("b", one)).then(Node("c", one)).fused(),
    flow("connected-local")
    .then(Node("a", one))
    .then_parallel("both", Node("left", one), Node("right", one), local=True)
    .then(Node("b", one))
    .fused(),
    flow("connected-map").then_map("all", Node("double", double), over=numbers, max_concurrency=2),
    flow("connected-pages").then(paginate("pages", pages, cursor_source="connected")),
    flow("connected-undone").then(Node("a", one).on_error(Node("undo-a", one))).then(Node("b", fail).with_retry(SOON)),
    flow("connected-dies").then(Node("a", die_once).with_retry(SOON)),
    flow("connected-limited")
    .then(Node("a", one).with_shared_rate_limit(api))
    .then(Node("b", ask).with_shared_rate_limit(api)),
    flow("connected-later").then(Node("a", later).with_retry(SOON).with_shared_rate_limit(adaptive)),
    flow("connected-slots").then(Node("a", hold, concurrency=slots)),
    flow("connected-work")
    .then(Node("work-0", work))
    .then_parallel("both", Node("work-1", work), Node("work-2", work))
    .then(Node("work-3", work))
    .then(Node("total", lambda number: number).with_input_func(total)),
    flow("connected-stay").then(Node("stay", stay)),
    flow("connected-branch").when(lambda _state: True).then(Node("a", one)).else_().then(Node("b", one)).end_when(),
    FlowBuilder("connected-scheduled").triggered_by(schedule("* * * * *")).then(Node("a", one)),
    flow("connected-timed").with_timeout(timedelta(seconds=1)).on_queue("nobody").then(Node("a", one)),
]
for each in FLOWS:
    orchestrator.register(each.build())
