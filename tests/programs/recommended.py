"""A user's module as the documents recommend it: a queue of its own, a limit, a schedule, hardened settings."""

from __future__ import annotations

import os
from datetime import timedelta

from celery import Celery

from orchestrator import FlowBuilder, Node, Orchestrator, SharedRateLimiter, manual, schedule

URL = os.environ["TEST_REDIS_URL"]
app = Celery("recommended", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
app.conf.worker_prefetch_multiplier = 1
app.conf.accept_content = ["json"]
orchestrator = Orchestrator(app)
yearly = (
    FlowBuilder("yearly")
    .triggered_by(manual("test"), schedule("0 0 1 1 *"))
    .on_queue("books")
    .then(Node("close", lambda: 1).with_shared_rate_limit(SharedRateLimiter("books", 5, timedelta(seconds=1))))
    .build()
)
orchestrator.register(yearly)
