"""A user's module whose runs are looked at in the Flows tab: one that waits, one undone, a long one, a large map."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from celery import Celery

from orchestrator import (
    FlowBuilder,
    FlowState,
    Node,
    Orchestrator,
    RetryLater,
    RetryPolicy,
    SharedRateLimiter,
    Terminal,
    approval,
    manual,
    node,
    schedule,
    signal,
)
from tests.harness import Ledger, wait_until

URL = os.environ["TEST_REDIS_URL"]
app = Celery("shown", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
orchestrator = Orchestrator(app)
LEDGER = Ledger(URL)
HOSTILE = """100% of %s <script>alert(1)</script>"'`${7*7}{{7*7}}</pre><img src=x onerror=alert(1)>\u202e\x00\x1b[31m"""
NIGHTLY = "30 2 * * *"
HOURLY = "0 */4 * * *"
FEW = RetryPolicy(maximum_attempts=3, initial_interval=timedelta(milliseconds=200), jitter=False)
limiter = SharedRateLimiter("jira", 2, per=timedelta(minutes=10), burst=1)


def hold(name: str) -> None:
    """Go on when the ledger says so."""
    LEDGER.note("start", name)
    wait_until(lambda: LEDGER.client.get(f"go:{name}") or LEDGER.client.get("go"), name, timeout=600)


@node(name="fetch-issues")
def fetch_issues(days: int = 3) -> list[str]:
    """Fetch the issues of some days."""
    return [f"ISSUE-{number}" for number in range(80 * days)]


def enrich_jira() -> None:
    """Be told to come back later until the ledger says otherwise."""
    if not LEDGER.client.get("go"):
        raise RetryLater("jira said 429 Too Many Requests", after=timedelta(minutes=8))


def enrich_slack() -> int:
    """Count the mentions."""
    return 12


def enrich_prs() -> None:
    """Run for long."""
    hold("enrich-prs")


def done() -> str:
    """Succeed."""
    return "done"


enrich = (
    FlowBuilder("enrich-issues")
    .triggered_by(manual("by hand"))
    .takes(int)
    .then(fetch_issues)
    .then_parallel(
        "enrich-sources",
        Node("enrich-jira", enrich_jira).with_retry(RetryPolicy(maximum_attempts=5)),
        Node("enrich-slack", enrich_slack),
        Node("enrich-prs", enrich_prs),
    )
    .then(Node("merge-data", done))
    .when(lambda state: len(state.get(fetch_issues)) > 100, name="is-it-big")
    .then(Node("ask-for-review", done))
    .then(Node("tell-everybody-who-asked-for-it", done))
    .else_()
    .then(Node("store-directly", done))
    .end_when()
    .then(Node("store-report", done))
    .build()
)


class OutOfStockError(Exception):
    """The warehouse has no more of it."""


def ship() -> None:
    """Find the warehouse empty."""
    stock: dict[str, int] = {}
    try:
        stock["shelf 7"] -= 1
    except KeyError as error:
        raise Terminal("no shoes of size 43 in any warehouse") from error


def undo(name: str) -> Node[object, None]:
    return Node(f"{name}", lambda: None)


def stumble() -> str:
    """Succeed at the second attempt."""
    if LEDGER.count("charge") % 2:
        raise ConnectionError("the bank closed the connection")
    return "charged"


order = (
    FlowBuilder("order")
    .triggered_by(manual("by hand"))
    .then(Node("reserve-stock", done).on_error(undo("release-stock")))
    .then(Node("charge-card", stumble).with_retry(FEW).on_error(undo("refund-card")))
    .then(Node("book-courier", done).on_error(undo("cancel-courier")))
    .then(Node("ship-parcel", ship).with_retry(FEW))
    .then(Node("send-receipt", done))
    .build()
)


def import_product(number: int) -> int:
    """Refuse one product of two thousand; stop in the middle until the ledger says so."""
    if number == 7_000:
        hold("import-product")
    if number % 2_000 == 77:
        raise Terminal(f"product {number} has no price")
    return number


def sizes(state: FlowState) -> range:
    """Return the numbers of the products."""
    return range(state.input(int))


catalogue = (
    FlowBuilder("import-catalogue")
    .triggered_by(manual("by hand"))
    .takes(int)
    .then(Node("download", done))
    .then_map("import-each", Node("import-product", import_product), over=sizes, batch_size=100, on_failure="continue")
    .then(Node("publish", done))
    .build()
)


def transform_23() -> None:
    """Wait for the ledger."""
    hold("transform-23")


def step(number: int) -> Node[object, Any]:
    """Return a step; one behind the middle waits for the ledger."""
    return Node(f"transform-{number:02}", transform_23 if number == 23 else done)


report = FlowBuilder("nightly-report").triggered_by(schedule(NIGHTLY), manual("by hand"))
for number in range(40):
    report = report.then(step(number))
nightly = report.build()


def call() -> str:
    """Call the limited side."""
    return "called"


sync = (
    FlowBuilder("sync-tickets")
    .triggered_by(manual("by hand"))
    .then(Node("call-jira", call).with_shared_rate_limit(limiter))
    .build()
)


def sweep() -> str:
    """Fail now and then."""
    if LEDGER.count("sweep") % 9 == 4:
        raise Terminal("100% of the carts are locked")
    return "swept"


sweeper = FlowBuilder("sweep-carts").triggered_by(schedule(HOURLY)).then(Node("sweep", sweep)).build()


trip = (
    FlowBuilder("book-trip")
    .triggered_by(manual("by hand"))
    .then(Node("find-offers", done))
    .then_parallel("agreed", approval("manager", quorum=2, approvers=("ada", "bert", "cleo")), signal("visa", str))
    .then(Node("book", done))
    .build()
)


def hostile() -> str:
    """Fail with a text that is meant to break a page."""
    raise Terminal(HOSTILE)


nasty = (
    FlowBuilder("nasty")
    .triggered_by(manual("by hand"))
    .then(Node("says-it", lambda: HOSTILE))
    .then(Node("x" * 100, done))
    .then(Node("fails", hostile))
    .build()
)


def watch(looks: int) -> int:
    """Look once more."""
    return looks + 1


def drive() -> None:
    """Run for long."""
    hold("drive")


courier = (
    FlowBuilder("courier")
    .triggered_by(manual("by hand"))
    .then(Node("load-van", done))
    .then(Node("drive", drive))
    .build()
)
shipping = (
    FlowBuilder("shipping")
    .triggered_by(manual("by hand"))
    .then(Node("pack", done).on_error(undo("unpack")))
    .then(Node("carry", courier))
    .then(Node("hand-over", done))
    .build()
)
billing = (
    FlowBuilder("billing")
    .triggered_by(manual("by hand"))
    .then(Node("charge", done).on_error(undo("refund")))
    .then(Node("send-invoice", done))
    .build()
)
deliver = (
    FlowBuilder("deliver")
    .triggered_by(manual("by hand"))
    .then(Node("watch-stock", watch).with_inputs(looks=0).with_repeat(until=lambda looks: looks >= 5))
    .then_parallel("fulfil", Node("ship", shipping), Node("bill", billing))
    .then(Node("say-thanks", done))
    .build()
)
exchange = (
    FlowBuilder("exchange")
    .triggered_by(manual("by hand"))
    .then(Node("bill-again", billing))
    .then(Node("ship-parcel", ship))
    .build()
)

for each in (
    courier,
    shipping,
    billing,
    deliver,
    exchange,
    enrich,
    order,
    catalogue,
    nightly,
    sync,
    sweeper,
    trip,
    nasty,
):
    orchestrator.register(each)
