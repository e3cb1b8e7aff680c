"""Take it as a lost connection when RabbitMQ closes a channel because a message was held for too long.

Messages that wait behind long tasks are held: kombu reports the closed channel as a refused command, which ends a stock
worker and all that runs in it (celery#6760). This way it connects again, and the broker delivers the messages anew.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from amqp import Channel
from amqp.exceptions import PreconditionFailed, RecoverableConnectionError

if TYPE_CHECKING:
    from collections.abc import Iterator

Untyped: Any = Channel
NO_COMMAND = (0, 0)
"""What the broker names as the cause when it closes a channel by itself."""


@contextmanager
def applied(_worker: Any) -> Iterator[None]:
    """Name the cause in this process."""
    stock = Untyped._on_close  # noqa: SLF001 - py-amqp has no public name for it

    def on_close(channel: Any, reply_code: int, reply_text: str, class_id: int, method_id: int) -> None:
        try:
            stock(channel, reply_code, reply_text, class_id, method_id)
        except PreconditionFailed as error:
            if (class_id, method_id) != NO_COMMAND:
                raise
            # One of the errors on which Celery's consumer connects again; a PreconditionFailed ends it.
            raise RecoverableConnectionError(reply_text) from error

    Untyped._on_close = on_close  # noqa: SLF001 - as above
    try:
        yield
    finally:
        Untyped._on_close = stock  # noqa: SLF001 - as above
