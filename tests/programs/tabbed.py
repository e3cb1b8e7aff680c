"""A user's module whose runs are looked at over HTTP while no worker runs them."""

from __future__ import annotations

import os
from datetime import timedelta

from celery import Celery

from orchestrator import Adaptive, FlowBuilder, FlowState, Node, Orchestrator, SharedRateLimiter, manual, schedule
from orchestrator.definition.gates import approval, signal

URL = os.environ["TEST_REDIS_URL"]
app = Celery("tabbed", broker=URL, backend=URL)
orchestrator = Orchestrator(app)
HOSTILE = """100% of %s <script>alert(1)</script>"'`${7*7}{{7*7}}</pre><img src=x onerror=alert(1)>\u202e\x00\x1b[31m"""


def done() -> str:
    """Succeed."""
    return "done"


def numbered(number: int) -> int:
    """Return it."""
    return number


def numbers(state: FlowState) -> range:
    """Return the numbers."""
    return range(state.input(int))


def flow(name: str) -> FlowBuilder:
    return FlowBuilder(name).triggered_by(manual("by hand"))


jira = SharedRateLimiter("jira", 2, per=timedelta(minutes=10))
github = SharedRateLimiter("github", 2, per=timedelta(seconds=1), adaptive=Adaptive(0.5, 50))
limited = Node("call-jira", done).with_shared_rate_limit(jira)
paced = Node("call-github", done).with_shared_rate_limit(github)
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
    flow("nasty").then(Node("says-it", done)).build(),
):
    orchestrator.register(built)
