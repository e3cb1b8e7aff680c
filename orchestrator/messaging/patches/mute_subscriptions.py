"""Read from a worker's subscription to Redis only what is there, so that its loop never stands still without a word.

An event may be of a connection that was lost in the same turn of the loop. kombu then connects the subscription again
without subscribing, and reads from it without a timeout: nothing comes, and the worker takes no message any more.
"""

from __future__ import annotations

from contextlib import contextmanager
from queue import Empty
from typing import TYPE_CHECKING, Any

from kombu.transport.redis import Channel

if TYPE_CHECKING:
    from collections.abc import Iterator

Untyped: Any = Channel


@contextmanager
def applied(_worker: Any) -> Iterator[None]:
    """Have channels that are made in the block look before they read."""
    stock = Untyped._receive  # noqa: SLF001 - kombu has no public name for it

    def receive(channel: Any) -> Any:
        connection = channel.subclient.connection
        # The next turn connects and subscribes. One that is lost would connect if it were asked what can be read.
        if connection is None or connection._sock is None or not connection.can_read(timeout=0):  # noqa: SLF001
            raise Empty
        return stock(channel)

    Untyped._receive = receive  # noqa: SLF001
    try:
        yield
    finally:
        Untyped._receive = stock  # noqa: SLF001
