"""Take it as a lost connection when the worker's consumer is refused whatever it asks of Redis.

It cannot save, is a replica, is busy, has too few replicas, takes rights away: redis-py calls that an answer to the
command, and a stock worker ends at its next fetch, or when it sets its connection up again. This way it connects again,
asks Sentinel again who is the master, and goes on when Redis does. Kombu's own error for a lost connection, which
greeting other workers raises, ends a stock worker too.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import redis
from kombu.exceptions import OperationalError

if TYPE_CHECKING:
    from collections.abc import Iterator

TRY_AGAIN_S = 0.5


@contextmanager
def applied(worker: Any) -> Iterator[None]:
    """Make the worker's consumer connect again in the block."""
    consumer = worker.consumer
    stock = consumer.connection_errors
    # Not a list of refusals: one that nobody knows yet must not end a worker either.
    consumer.connection_errors = (*stock, redis.RedisError, OperationalError)
    reports = {name: getattr(consumer, name) for name in REPORTS}
    for name, report in reports.items():
        setattr(consumer, name, _pausing(report))
    try:
        yield
    finally:
        consumer.connection_errors = stock
        for name, report in reports.items():
            setattr(consumer, name, report)


REPORTS = ("on_connection_error_before_connected", "on_connection_error_after_connected")
"""What Celery's consumer calls before it connects again."""


def _pausing(report: Any) -> Any:
    def report_and_pause(error: BaseException) -> None:
        report(error)
        # Redis answers at once, so that nothing else slows this down. The loop of the worker stands still in any case.
        if isinstance(error, redis.ResponseError):
            time.sleep(TRY_AGAIN_S)

    return report_and_pause
