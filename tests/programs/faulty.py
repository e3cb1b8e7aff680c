"""The flows whose fault only a run can find."""

from __future__ import annotations

import os

from celery import Celery

from orchestrator import Orchestrator
from tests.faulty_flows import AT_RUN_TIME

URL = os.environ["TEST_REDIS_URL"]
app = Celery("faulty", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
app.conf.task_default_queue = "faulty"
orchestrator = Orchestrator(app)
for row in AT_RUN_TIME:
    orchestrator.register(row.builder().build())
