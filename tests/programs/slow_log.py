"""A user's module whose log has a lock of its own, and whose worker loses a pool process while its log is written."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from datetime import timedelta

from celery import Celery
from celery.signals import after_setup_logger

from orchestrator import FlowBuilder, Node, NodeContext, Orchestrator, RetryPolicy, manual
from tests.harness import Ledger, child_pids

URL = os.environ["TEST_REDIS_URL"]
app = Celery("slow_log", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
orchestrator = Orchestrator(app)
LEDGER = Ledger(URL)
WRITES_FOR_S = 0.4
_writing = threading.Lock()
_victims: list[int] = []


class SlowLog(logging.Handler):
    """Takes its time with the first process that died, and kills the next one meanwhile."""

    def emit(self, record: logging.LogRecord) -> None:
        with _writing:
            if "died" in record.getMessage() and not _victims:
                _victims.append(child_pids(os.getpid())[0])
                os.kill(_victims[0], signal.SIGKILL)
                time.sleep(WRITES_FOR_S)
                LEDGER.note("written", str(_victims[0]))


@after_setup_logger.connect
def add_slow_log(logger: logging.Logger, **_: object) -> None:
    logger.addHandler(SlowLog())


def logs(ctx: NodeContext) -> int:
    logging.getLogger(__name__).warning("run %s is here", ctx.run_id)
    return ctx.attempt


def dies_once(ctx: NodeContext) -> int:
    if ctx.attempt == 1:
        os._exit(1)
    return ctx.attempt


SOON = RetryPolicy(initial_interval=timedelta(milliseconds=50), maximum_attempts=2, jitter=False)
for name, fn in {"logs": logs, "dies-once": dies_once}.items():
    flow = FlowBuilder(name).on_queue("slow-log").triggered_by(manual("test"))
    orchestrator.register(flow.then(Node("act", fn).with_retry(SOON)).build())
