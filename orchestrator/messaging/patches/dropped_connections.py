"""Close all of a connection to the broker that the worker's consumer gives up, whatever fails as it does so.

Celery forgets a connection that is lost between being made and being kept, and kombu leaves the other channels of a
connection alone when closing one fails. Each of them keeps a socket open, in CLOSE-WAIT once the server has gone.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kombu.transport import virtual

if TYPE_CHECKING:
    from collections.abc import Iterator

Untyped: Any = virtual.Transport


@contextmanager
def applied(worker: Any) -> Iterator[None]:
    """Close them in the block."""
    consumer = worker.consumer
    stock, connect, make = Untyped.close_connection, consumer.connect, consumer.connection_for_read

    def close_connection(transport: Any, connection: Any) -> None:
        before = _channels_of(transport)
        try:
            stock(transport, connection)
        except BaseException:
            if 0 < _channels_of(transport) < before:  # the one that failed is taken out
                close_connection(transport, connection)
            raise

    def connect_or_close() -> Any:
        made: list[Any] = []

        def make_noted(**options: Any) -> Any:
            made.append(make(**options))
            return made[-1]

        consumer.connection_for_read = make_noted
        try:
            return connect()
        except BaseException:
            # Connected, and lost when the loop of the worker was to watch it: nothing has it any more.
            for connection in made:
                connection.collect()
            raise
        finally:
            consumer.connection_for_read = make

    Untyped.close_connection, consumer.connect = close_connection, connect_or_close
    try:
        yield
    finally:
        Untyped.close_connection, consumer.connect = stock, connect


def _channels_of(transport: Any) -> int:
    return len(transport.channels) + len(transport._avail_channels)  # noqa: SLF001 - kombu has no public name for it
