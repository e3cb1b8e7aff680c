"""Take it as a lost connection when Redis refuses to let a lost connection be set up again.

Setting one up writes queue bindings, and a lock for giving back what others left. A refusal, because Redis is full or
has become a replica, ends a stock worker; this way it connects again until Redis takes what it writes.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import redis

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def applied(worker: Any) -> Iterator[None]:
    """Make the worker's consumer connect again in the block."""
    stock = worker.consumer.connection_errors
    worker.consumer.connection_errors = (*stock, redis.OutOfMemoryError, redis.ReadOnlyError)
    try:
        yield
    finally:
        worker.consumer.connection_errors = stock
