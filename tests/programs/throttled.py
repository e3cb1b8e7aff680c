"""A user's module whose nodes are told by the other side to come back later."""

from __future__ import annotations

import os
from datetime import timedelta

from celery import Celery

from orchestrator import (
    FlowBuilder,
    Node,
    NodeContext,
    Orchestrator,
    RetryLater,
    RetryPolicy,
    SharedRateLimiter,
    manual,
)
from tests.harness import Ledger

URL = os.environ["TEST_REDIS_URL"]
app = Celery("throttled", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
orchestrator = Orchestrator(app)
LEDGER = Ledger(URL)
AFTER = timedelta(milliseconds=300)
ONCE = RetryPolicy(maximum_attempts=1)
api = SharedRateLimiter("throttled-api", 100, per=timedelta(seconds=1))


def ask(ctx: NodeContext, number: int) -> int:
    """Refused by the other side the first time that anybody asks."""
    if LEDGER.count("asked") == 1:
        LEDGER.note("refused", "api")
        raise RetryLater("429", after=AFTER, freeze=True)
    LEDGER.note("accepted", "api")
    return ctx.attempt


def refuse() -> None:
    """Refused whenever it asks."""
    LEDGER.note("refused", "always")
    raise RetryLater("429", after=AFTER, freeze=True)


refused_once = (
    FlowBuilder("refused-once")
    .triggered_by(manual("test"))
    .on_queue("throttled")
    .takes(int)
    .then(Node("ask", ask).with_input_func(lambda state: state.input(int)).with_retry(ONCE).with_shared_rate_limit(api))
    .build()
)
refused_always = (
    FlowBuilder("refused-always")
    .triggered_by(manual("test"))
    .on_queue("throttled")
    .then(Node("refuse", refuse).with_retry(ONCE))
    .build()
)
for each in (refused_once, refused_always):
    orchestrator.register(each)
