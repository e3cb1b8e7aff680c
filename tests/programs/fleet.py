"""A user's module whose flows use every way to run a node; each stops in the middle until it is told to go on.

It runs on the version before and on this one: every call says in the ledger by which files of the library it was made.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta

from celery import Celery

import orchestrator as library
from orchestrator import (
    FlowBuilder,
    Node,
    NodeContext,
    Orchestrator,
    Page,
    RetryPolicy,
    SharedConcurrency,
    SharedRateLimiter,
    Terminal,
    manual,
    paginate,
    schedule,
)
from tests.harness import Ledger

URL = os.environ["TEST_REDIS_URL"]
app = Celery("fleet", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
app.conf.task_default_queue = "fleet"
app.conf.beat_scheduler = "celery.beat:PersistentScheduler"
orchestrator = Orchestrator(app)
LEDGER = Ledger(URL)
GO_ON, MENDED = "go-on", "mended"
LIBRARY = str(library.__file__)
MANY = RetryPolicy(timedelta(milliseconds=300), maximum_attempts=60, backoff_coefficient=1.0, jitter=False)
ONCE = RetryPolicy(maximum_attempts=1)
# Who is second waits for ever while the limit is this one; workers of the second deployment bring another number.
seldom = SharedRateLimiter("fleet-seldom", 1, per=timedelta(seconds=float(os.environ.get("TEST_PER_S", "36000"))))
tenants = SharedRateLimiter("fleet-tenants", 20, per=timedelta(seconds=1), key=lambda value: str(value % 2))
one_slot = SharedConcurrency("fleet-slot", 1)


def note(ctx: NodeContext, name: str = "") -> None:
    """Say which node of which run was called, and by which version."""
    LEDGER.note("start", f"{ctx.run_id}/{name or ctx.node_name}/{ctx.attempt} {LIBRARY}")


def wait_to_go_on(ctx: NodeContext) -> None:
    LEDGER.note("held", ctx.run_id)
    for _ in range(6000):
        if LEDGER.client.exists(GO_ON):
            return
        time.sleep(0.02)


def act(ctx: NodeContext, value: int) -> int:
    note(ctx)
    return value + 1


def hold(ctx: NodeContext, value: int) -> int:
    """Stop in the middle."""
    note(ctx)
    wait_to_go_on(ctx)
    return value + 1


def stumble(ctx: NodeContext, value: int) -> int:
    """Fail until it may go on."""
    note(ctx)
    if not LEDGER.client.exists(GO_ON):
        LEDGER.note("held", ctx.run_id)
        raise ConnectionError("not yet")
    return value + 1


def refuse(ctx: NodeContext) -> None:
    note(ctx)
    raise Terminal("refused")


def mend(ctx: NodeContext, value: int) -> int:
    """Fail for good until it is mended."""
    note(ctx)
    if not LEDGER.client.exists(MENDED):
        LEDGER.note("held", ctx.run_id)
        raise ValueError("broken")
    return value + 1


def act_on(ctx: NodeContext, item: int) -> int:
    """Double an item; the third one stops."""
    note(ctx, f"item-{item}")
    if item == 2:
        wait_to_go_on(ctx)
    return 2 * item


def fetch(ctx: NodeContext, cursor: str | None) -> Page[int]:
    """One of four pages; the second one stops."""
    number = int(cursor or 0)
    note(ctx, f"page-{number}")
    if number == 1:
        wait_to_go_on(ctx)
    return Page(items=[number], next_cursor=str(number + 1), has_more=number < 3)


def undo(name: str, *, held: bool = False) -> Node[int, None]:
    def take_back(ctx: NodeContext, output: int) -> None:
        note(ctx)
        if held:
            wait_to_go_on(ctx)
        LEDGER.note("undo", f"{ctx.run_id}/{name}/{output}")

    return Node(f"undo-{name}", take_back).with_retry(MANY)


def report(ctx: NodeContext) -> str:
    note(ctx)
    assert ctx.scheduled_for is not None
    LEDGER.note("report", f"{ctx.run_id} {ctx.scheduled_for.isoformat()}")
    return ctx.scheduled_for.isoformat()


def flow(name: str) -> FlowBuilder:
    return FlowBuilder(f"fleet-{name}").triggered_by(manual("test"))


def after(key: str):
    """An input function that reads one output."""
    return lambda state: state.get(key, int)


def first() -> Node[int, int]:
    return Node("a", act, 0).with_retry(MANY)


def held(name: str = "held") -> Node[int, int]:
    return Node(name, hold).with_input_func(after("a")).with_retry(MANY)


def members(*names: str) -> list[Node[int, int]]:
    return [Node(name, act, 10).with_retry(MANY) for name in names]


total = Node("total", act).with_input_func(lambda state: sum(state.get(key, int) for key in ("held", "x", "y")))
last = Node("last", act).with_input_func(after("held")).with_retry(MANY)
undone = Node("one", act, 0).with_retry(MANY).on_error(undo("one"))
doubled = Node("item", act_on).with_retry(MANY)
pages = paginate("pages", fetch).with_retry(MANY)
count = Node("count", act).with_input_func(lambda state: state.get("pages", dict)["page_count"])
slow = [Node(f"call-{n}", act, n).with_retry(MANY).with_shared_rate_limit(seldom) for n in range(2)]
keyed = [Node(f"keyed-{n}", act, n).with_retry(MANY).with_shared_rate_limit(tenants) for n in range(4)]
in_turn = [Node(f"turn-{n}", hold, n).with_retry(MANY).with_concurrency(one_slot) for n in range(3)]

FLOWS = [
    flow("chain").then(first()).then(held()).then(last).returns("last").build(),
    flow("fused").fused().then(first()).then(held()).then(last).returns("last").build(),
    flow("fan").then(first()).then_parallel("fan", held(), *members("x", "y")).then(total).returns("total").build(),
    flow("local")
    .fused()
    .then(first())
    .then_parallel("fan", held(), *members("x", "y"), local=True)
    .then(total)
    .returns("total")
    .build(),
    flow("map").then_map("all", doubled, over=lambda _state: list(range(6)), batch_size=2).returns("item").build(),
    flow("pages").then(pages).then(count).returns("count").build(),
    flow("saga").then(undone).then(Node("held", hold, 1).with_retry(MANY)).then(Node("refuse", refuse)).build(),
    flow("undoing")
    .then(undone)
    .then(Node("two", act, 1).with_retry(MANY).on_error(undo("two", held=True)))
    .then(Node("refuse", refuse))
    .build(),
    flow("branch")
    .then(first())
    .when(lambda state: state.get("a", int) == 1, "choice")
    .then(held())
    .otherwise(Node("never", act, 0))
    .then(Node("last", act, 5))
    .returns("last")
    .build(),
    flow("retry").then(Node("held", stumble, 0).with_retry(MANY)).then(last).returns("last").build(),
    flow("limits")
    .then_parallel("calls", *slow)
    .then_parallel("keyed", *keyed)
    .then(Node("last", act, 1))
    .returns("last")
    .build(),
    flow("slots").then_parallel("turns", *in_turn).then(Node("last", act, 1)).returns("last").build(),
    flow("mended").then(first()).then(Node("held", mend, 0).with_retry(ONCE)).then(last).returns("last").build(),
]
reports = FlowBuilder("fleet-reports").then(Node("report", report).with_retry(MANY)).returns("report")
# The test says when: a minute or two before it starts a beat, and then not for a year.
reports.triggered_by(schedule(os.environ["TEST_CRON"], catch_up=timedelta(minutes=30)))
for each in (*FLOWS, reports.build()):
    orchestrator.register(each)
