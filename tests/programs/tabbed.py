"""A user's module whose runs are looked at over HTTP while no worker runs them."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import timedelta

from celery import Celery
from celery.exceptions import Ignore

from orchestrator import (
    Adaptive,
    FlowBuilder,
    FlowRun,
    FlowState,
    Node,
    NodeContext,
    Orchestrator,
    SharedRateLimiter,
    Terminal,
    approval,
    manual,
    run_input,
    schedule,
    signal,
)
from orchestrator.engine import engine_of

URL = os.environ["TEST_REDIS_URL"]
app = Celery("tabbed", broker=URL, backend=URL)
orchestrator = Orchestrator(app)
CALLBACKS: dict[str, str] = {}
"""The callbacks that this process has given away, by run."""
HOSTILE = """100% of %s <script>alert(1)</script>"'`${7*7}{{7*7}}</pre><img src=x onerror=alert(1)>\u202e\x00\x1b[31m"""


def done() -> str:
    """Succeed."""
    return "done"


def numbered(number: int) -> int:
    """Return it."""
    return number


def declined(number: int = 0) -> None:
    """Fail for good, unless the number is odd."""
    if number % 2 == 0:
        raise Terminal(f"card {number} was declined")


def numbers(state: FlowState) -> range:
    """Return the numbers."""
    return range(state.input(int))


def flow(name: str) -> FlowBuilder:
    return FlowBuilder(name).triggered_by(manual("by hand"))


def send(city: str, first: str, weight: str) -> str:
    """Succeed."""
    return f"{city} {first} {weight}"


def refuse() -> None:
    """Fail for good."""
    raise Terminal("the shop is closed")


def order_film(ctx: NodeContext) -> int:
    """Give the callback away, and wait for it."""
    CALLBACKS[ctx.run_id] = ctx.callback
    seconds: int = ctx.defer(timeout=timedelta(hours=1))
    return seconds


jira = SharedRateLimiter("jira", 2, per=timedelta(minutes=10))
github = SharedRateLimiter("github", 2, per=timedelta(seconds=1), adaptive=Adaptive(0.5, 50))
limited = Node("call-jira", done).with_shared_rate_limit(jira)
paced = Node("call-github", done).with_shared_rate_limit(github)
label = flow("label").takes(int).then(Node("print", done)).build()
number = run_input
errand = flow("errand").takes(int).then(Node("print-label", label).with_inputs(input=number)).build()
tour = flow("tour").takes(int).then(Node("run-errand", errand).with_inputs(input=number)).build()
journey = flow("journey").takes(int).then(Node("go-on-tour", tour).with_inputs(input=number)).build()


def counted(count: int) -> int:
    """Return the next number."""
    return count + 1


for built in (
    flow("order").then(Node("reserve-stock", done)).then(Node("ship-parcel", done)).build(),
    flow("import-catalogue")
    .takes(int)
    .then(Node("download", done))
    .then_map("import-each", Node("import-product", numbered), over=numbers)
    .build(),
    flow("nightly-report").triggered_by(schedule("30 2 * * *")).then(Node("report", done)).build(),
    flow("sync-tickets").then(limited).build(),
    flow("sync-issues").then(paced).build(),
    flow("trip").then(approval("manager")).then(signal("visa", str)).then(Node("book", done)).build(),
    flow("payment")
    .takes(int)
    .then(Node("pay", declined).with_inputs(number=run_input).on_error(Node("refund", refuse)))
    .then(Node("ship", refuse))
    .build(),
    flow("payments")
    .takes(int)
    .then_map("pay-all", Node("pay-each", declined), over=numbers, on_failure="continue")
    .build(),
    flow("parcel")
    .then(Node("weigh", done))
    .then(Node("send", send).with_inputs(city=run_input["to"]["city"], first=run_input["items"][0], weight="weigh"))
    .build(),
    label,
    errand,
    tour,
    journey,
    flow("swap")
    .takes(int)
    .then(Node("print-label", label).with_inputs(input=number))
    .then(Node("ship", refuse))
    .build(),
    flow("counting")
    .takes(int)
    .then(Node("count-on", counted).with_inputs(count=number).with_repeat(until=lambda count: count >= 45))
    .build(),
    flow("nasty").then(Node("says-it", done)).build(),
    flow("render").then(Node("order-film", order_film)).build(),
):
    orchestrator.register(built)


def work(run: FlowRun, *names: str) -> None:
    """Call the tasks of nodes in this process, as their messages would; each may fail."""
    plan = engine_of(app).registry.flows[run.flow_name].plan
    for name in names:
        with suppress(Terminal, Ignore):
            app.tasks[f"{plan.flow}.{name}"].run(run.id, 1, plan.hash)
