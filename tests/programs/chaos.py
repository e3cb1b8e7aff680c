"""The load that raw canvas was measured with: chains of five and fan-outs of eight with a join, written to a ledger."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import timedelta

from celery import Celery

from orchestrator import (
    Flow,
    FlowBuilder,
    Node,
    NodeContext,
    Orchestrator,
    Page,
    RetryPolicy,
    SharedRateLimiter,
    Terminal,
    manual,
    paginate,
    signal,
    sleep,
)
from tests.harness import Ledger
from tests.post import VARIABLE, count_deliveries, open_office

URL = os.environ["TEST_REDIS_URL"]
LEDGER = Ledger(os.environ["TEST_LEDGER_URL"])
WORK_S = float(os.environ.get("TEST_WORK_S", "0.05"))
MANY = RetryPolicy(maximum_attempts=20)

app = Celery("chaos", broker=URL, backend=URL)
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        "visibility_timeout": 6 * 3600,
        "socket_timeout": 5,
        "socket_connect_timeout": 5,
        "health_check_interval": 5,
    },
    result_expires=3600,
    redis_socket_timeout=5,
    redis_socket_connect_timeout=5,
)
orchestrator = Orchestrator(app)


if VARIABLE in os.environ:
    open_office(LEDGER)
    count_deliveries(LEDGER)


def pace(name: str, seconds: float) -> float:
    """Seconds that something takes: what the test says, or else these."""
    return float(LEDGER.client.get(name) or seconds)


def act(ctx: NodeContext, value: int) -> int:
    """Write a start, work, write an end."""
    LEDGER.note("start", f"{ctx.run_id}/{ctx.node_name}/{ctx.attempt}")
    time.sleep(pace("work_s", WORK_S))
    LEDGER.note("end", f"{ctx.run_id}/{ctx.node_name}/{ctx.attempt}")
    return value + 1


def after(key: str):
    """An input function that reads one output."""
    return lambda state: state.get(key, int)


def line(name: str, length: int, *, fused: bool = False) -> Flow:
    """Nodes one after the other."""
    builder = FlowBuilder(name).triggered_by(manual("load"))
    builder.then(Node("link-0", act, 0).with_retry(MANY))
    for position in range(1, length):
        builder.then(Node(f"link-{position}", act).with_input_func(after(f"link-{position - 1}")).with_retry(MANY))
    return (builder.fused() if fused else builder).build()


chain, ten = line("chain", 5), line("ten", 10)


def fan_out(name: str, *, local: bool = False) -> Flow:
    """Eight nodes at once and one that adds up what they returned."""
    builder = FlowBuilder(name).triggered_by(manual("load"))
    members = [Node(f"member-{n}", act, n).with_retry(MANY) for n in range(8)]
    join = Node("join", act).with_input_func(lambda state: sum(state.get(f"member-{n}", int) for n in range(8)))
    builder.then_parallel("members", *members, local=local).then(join.with_retry(MANY))
    return (builder.fused() if local else builder).build()


fan, local = fan_out("fan"), fan_out("local", local=True)


def undo(name: str) -> Node[int, None]:
    """A compensation that leaves a trace."""

    def act_back(ctx: NodeContext, output: int) -> None:
        LEDGER.note("undo", f"{ctx.run_id}/{name}/{output}")

    return Node(f"undo-{name}", act_back).with_retry(MANY)


def refuse() -> None:
    """Fail for good."""
    raise ValueError("refused")


builder = FlowBuilder("saga").triggered_by(manual("load"))
for name in ("one", "two", "three"):
    builder.then(Node(name, act, 0).with_retry(MANY).on_error(undo(name)))
saga = builder.then(Node("refuse", refuse).with_retry(RetryPolicy(maximum_attempts=1))).build()

pick = (
    FlowBuilder("pick")
    .triggered_by(manual("load"))
    .then(Node("toss", act, 0).with_retry(MANY))
    .when(lambda state: LEDGER.count(f"asked-{state.run_id}") % 2 == 1)
    .then(Node("odd", act, 0).with_retry(MANY))
    .else_()
    .then(Node("even", act, 0).with_retry(MANY))
    .end_when()
    .then(Node("last", act, 0).with_retry(MANY))
    .build()
)


def stumble(ctx: NodeContext) -> int:
    """Fail at the first attempt."""
    if ctx.attempt == 1:
        raise OSError("not yet")
    return act(ctx, 0)


again = (
    FlowBuilder("again")
    .triggered_by(manual("load"))
    .then(Node("stumble", stumble).with_retry(RetryPolicy(timedelta(milliseconds=500), maximum_attempts=20)))
    .then(Node("after", act, 1).with_retry(MANY))
    .build()
)


def ask(ctx: NodeContext) -> int:
    """Leave the callback in the ledger, and wait for it."""
    LEDGER.client.set(f"callback {ctx.run_id}", ctx.callback)
    LEDGER.note("start", f"{ctx.run_id}/{ctx.node_name}/{ctx.attempt}")
    given: int = ctx.defer()
    return given


waits = (
    FlowBuilder("waits")
    .triggered_by(manual("load"))
    .then(Node("first", act, 0).with_retry(MANY).on_error(undo("first")))
    .then_parallel("both", signal("paid", int), Node("ask", ask).with_retry(MANY))
    .then(sleep("cool-off", timedelta(milliseconds=200)))
    .then(
        Node("last", act).with_input_func(lambda state: state.get("paid", int) + state.get("ask", int)).with_retry(MANY)
    )
    .build()
)

slow = (
    FlowBuilder("slow")
    .triggered_by(manual("load"))
    .then_parallel(
        "members",
        *[
            Node(f"member-{n}", act, n)
            .with_retry(MANY)
            .with_shared_rate_limit(SharedRateLimiter("slow", 1, per=timedelta(seconds=1)))
            for n in range(4)
        ],
    )
    .then(Node("after", act, 1).with_retry(MANY))
    .build()
)

once = (
    FlowBuilder("once")
    .triggered_by(manual("load"))
    .then(Node("only", act, 0).with_retry(RetryPolicy(maximum_attempts=1)))
    .build()
)


def fetch(ctx: NodeContext, cursor: str | None) -> Page[int]:
    """One of six pages."""
    number = int(cursor or 0)
    LEDGER.note("start", f"{ctx.run_id}/page-{number}/{ctx.attempt}")
    time.sleep(pace("work_s", WORK_S))
    return Page(items=[number], next_cursor=str(number + 1), has_more=number < 5)


pages = (
    FlowBuilder("pages")
    .triggered_by(manual("load"))
    .then_parallel("both", paginate("fetch", fetch).with_retry(MANY), Node("beside", act, 0).with_retry(MANY))
    .then(Node("total", act).with_input_func(lambda state: sum(state.get("fetch", dict)["items"])).with_retry(MANY))
    .build()
)


def go_round(ctx: NodeContext, number: int) -> int:
    """One of six iterations."""
    LEDGER.note("start", f"{ctx.run_id}/round-{ctx.iteration}/{ctx.attempt}")
    time.sleep(pace("work_s", WORK_S))
    return number + 1


rounds = (
    FlowBuilder("rounds")
    .triggered_by(manual("load"))
    .then_parallel(
        "both",
        Node("go", go_round, 0).with_repeat(lambda n: n == 6, every=timedelta(milliseconds=50)).with_retry(MANY),
        Node("beside", act, 0).with_retry(MANY),
    )
    .then(Node("total", act).with_input_func(after("go")).with_retry(MANY))
    .build()
)

items = (
    FlowBuilder("items")
    .triggered_by(manual("load"))
    .then_map("all", Node("item", act).with_retry(MANY), over=lambda _state: list(range(9)), batch_size=3)
    .then(Node("total", act).with_input_func(lambda state: sum(state.get("item", list[int]))).with_retry(MANY))
    .build()
)

leg = (
    FlowBuilder("leg")
    .triggered_by(manual("trip"))
    .then(Node("leg-1", act, 0).with_retry(MANY).on_error(undo("leg-1")))
    .then(Node("leg-2", act).with_input_func(after("leg-1")).with_retry(MANY).on_error(undo("leg-2")))
    .build()
)


def trip(name: str, ride: Flow, retry: RetryPolicy | None = None) -> FlowBuilder:
    """A node, then a run of another flow."""
    first = Node("first", act, 0).with_retry(MANY).on_error(undo("first"))
    node = Node("ride", ride) if retry is None else Node("ride", ride).with_retry(retry)
    return FlowBuilder(name).triggered_by(manual("load")).then(first).then(node)


def break_down(ctx: NodeContext, value: int) -> int:
    """Fail for good in the first run that a node has started."""
    parent = orchestrator.get(ctx.run_id).parent
    assert parent is not None
    LEDGER.client.hsetnx("first rides", parent.id, ctx.run_id)
    if LEDGER.client.hget("first rides", parent.id) == ctx.run_id:
        raise Terminal("not this one")
    return act(ctx, value)


frail = (
    FlowBuilder("frail")
    .triggered_by(manual("trip"))
    .then(Node("leg-1", act, 0).with_retry(MANY).on_error(undo("leg-1")))
    .then(Node("leg-2", break_down).with_input_func(after("leg-1")).with_retry(MANY))
    .build()
)
TWICE = RetryPolicy(timedelta(milliseconds=200), maximum_attempts=2, jitter=False)
"""As many as it takes, so that no crash may count as one."""


def laps_of(name: str, one: Flow) -> FlowBuilder:
    """Runs of another flow, one after the other."""
    return FlowBuilder(name).takes(int).triggered_by(manual("load")).then(Node("lap-by-lap", one).with_repeat(enough))


def enough(count: int) -> bool:
    return count >= 3


lap = (
    FlowBuilder("lap")
    .takes(int)
    .triggered_by(manual("trip"))
    .then(Node("run-lap", act).with_input_func(lambda state: state.input(int)).with_retry(MANY))
    .build()
)
laps = laps_of("laps", lap).build()
last = Node("last", act).with_input_func(after("ride")).with_retry(MANY)
there = trip("there", leg).then(last).build()
and_back = trip("and-back", leg).then(Node("refuse", refuse).with_retry(RetryPolicy(maximum_attempts=1))).build()
leg_fused, lap_fused, frail_fused = (replace(each, name=f"{each.name}-fused", fused=True) for each in (leg, lap, frail))
journey = trip("journey", there).then(last).build()
stay = (
    FlowBuilder("stay")
    .triggered_by(manual("trip"))
    .then(signal("paid", int))
    .then(Node("leave", act).with_input_func(after("paid")).with_retry(MANY))
    .build()
)
outing = trip("outing", trip("stop-over", stay).build()).then(last).build()
there_again = trip("there-again", frail, TWICE).then(last).build()
there_again_fused = trip("there-again-fused", frail_fused, TWICE).fused().then(last).build()

in_turn = (
    FlowBuilder("in-turn")
    .triggered_by(manual("turn"))
    .with_max_runs(1)
    .then(Node("mine", act, 0).with_retry(MANY))
    .then(Node("yours", act).with_input_func(after("mine")).with_retry(MANY))
    .build()
)
by_clock = (
    FlowBuilder("by-clock")
    .triggered_by(manual("turn"))
    .then(Node("mine", act, 0).with_retry(MANY))
    .then(Node("yours", act).with_input_func(after("mine")).with_retry(MANY))
    .build()
)

for flow in (
    *(
        chain,
        ten,
        fan,
        local,
        saga,
        pick,
        again,
        slow,
        once,
        pages,
        rounds,
        items,
        waits,
        leg,
        lap,
        laps,
        there,
        and_back,
        journey,
        outing,
        frail,
        frail_fused,
        there_again,
        there_again_fused,
    ),
    in_turn,
    by_clock,
):
    orchestrator.register(flow)
for flow in (chain, fan, pick, pages, items):  # as they are when every flow is fused
    orchestrator.register(replace(flow, name=f"{flow.name}-fused", fused=True))
for flow in (
    leg_fused,
    lap_fused,
    laps_of("laps-fused", lap_fused).fused().build(),
    trip("there-fused", leg_fused).fused().then(last).build(),
):
    orchestrator.register(flow)
