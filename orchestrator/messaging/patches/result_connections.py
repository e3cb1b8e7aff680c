"""Close the connections of Celery's result backend that it drops when one of them was lost.

It empties their pool and leaves them open. redis-py's connections refer to themselves, so that each loss leaves some
more, in CLOSE-WAIT, until the process is collected.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from celery.backends.redis import ResultConsumer

if TYPE_CHECKING:
    from collections.abc import Iterator

Untyped: Any = ResultConsumer


@contextmanager
def applied(_worker: Any) -> Iterator[None]:
    """Make backends close them in the block, and in pool processes that are forked meanwhile."""
    stock = Untyped._reconnect_pubsub  # noqa: SLF001 - Celery has no public name for it

    def reconnect_pubsub(consumer: Any) -> None:
        pool = consumer.backend.client.connection_pool
        with getattr(consumer, "_locked", nullcontext)():  # since Celery 5.7
            if consumer._pubsub is not None:  # noqa: SLF001 - as above
                consumer._pubsub.close()  # noqa: SLF001 - as above
            # Not those that are in use: Celery gets here in the middle of a call too, as a result is collected.
            pool.reset = partial(pool.disconnect, inuse_connections=False)
            try:
                stock(consumer)
            finally:
                vars(pool).pop("reset", None)

    Untyped._reconnect_pubsub = reconnect_pubsub  # noqa: SLF001 - as above
    try:
        yield
    finally:
        Untyped._reconnect_pubsub = stock  # noqa: SLF001 - as above
