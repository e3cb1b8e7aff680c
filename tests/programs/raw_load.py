"""The same load on plain Celery canvas: chains of five and chords of eight with a body, written to a ledger.

`RAW_SETTING` says how: `plain` as Celery comes, `hardened` with what its documentation offers against lost work.
"""

from __future__ import annotations

import os
import time

from celery import Celery

from tests.harness import Ledger

URL = os.environ["TEST_REDIS_URL"]
LEDGER = Ledger(os.environ["TEST_LEDGER_URL"])
WORK_S = float(os.environ.get("TEST_WORK_S", "0.05"))

SETTINGS = {
    "plain": {"broker_connection_retry_on_startup": True},
    "hardened": {
        "broker_connection_retry_on_startup": True,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "broker_transport_options": {
            "visibility_timeout": 8,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
            "unacked_mutex_expire": 15,
            "socket_timeout": 5,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 5,
        },
        "redis_socket_timeout": 5,
        "redis_socket_connect_timeout": 5,
        "redis_backend_health_check_interval": 5,
        "redis_retry_on_timeout": True,
        "result_backend_always_retry": True,
        "result_backend_max_retries": 100,
        "task_publish_retry_policy": {"max_retries": 50, "interval_start": 0, "interval_step": 0.2, "interval_max": 1},
        "result_expires": 3600,
    },
}

app = Celery("raw", broker=URL, backend=URL)
app.conf.update(SETTINGS[os.environ.get("RAW_SETTING", "plain")])


def act(flow: str, node: str, value: int) -> int:
    """Write a start, work, write an end."""
    LEDGER.note("start", f"{flow}/{node}/1")
    time.sleep(WORK_S)
    LEDGER.note("end", f"{flow}/{node}/1")
    return value + 1


@app.task(name="raw.link")
def link(value: int, flow: str, node: str) -> int:
    """One node of a chain, or a member of a chord."""
    return act(flow, node, value)


@app.task(name="raw.join")
def join(values: list[int], flow: str) -> int:
    """The body of a chord."""
    return act(flow, "join", sum(values))
