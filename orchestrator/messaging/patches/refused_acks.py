"""Wait where Redis refuses to note what became of a message, because it is full or cannot save.

Kombu lets the refusal end the worker, and with it every child's running node; celery#5716 tells of a worker that is
left in such a state.
"""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import redis
from kombu.transport.redis import Channel

from orchestrator.sparing_log import warn_sparingly
from orchestrator.store.refusals import refusal_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")
Untyped: Any = Channel
TRY_AGAIN_S = 0.25
OUTLASTED = ("OOM", "MISCONF")
"""Refusals for which no other server can be asked: a replica's, for example, would last as long as this connection."""


def outlast_refusals(call: Callable[[], Answer]) -> Answer:
    """Repeat a call while Redis refuses what it will do later on this connection; other errors are the caller's."""
    while True:
        try:
            return call()
        except redis.ResponseError as error:
            refusal = refusal_of(error)
            if refusal is None or refusal.code not in OUTLASTED:
                raise
            warn_sparingly(logger, "Redis %s, trying again: %s. %s", refusal.means, error, refusal.remedy)
            # The main process stands still here on purpose: it could neither acknowledge nor fetch anything meanwhile.
            time.sleep(TRY_AGAIN_S)


@contextmanager
def applied(_worker: Any) -> Iterator[None]:
    """Make channels that are created in the block wait."""
    stock = Untyped.QoS

    # A class made here: other patches put theirs on top, and each takes off what it has put on.
    class PatientQoS(stock):  # type: ignore[misc, valid-type]
        """Keeps track of unacknowledged messages, waiting while Redis refuses."""

        def append(self, message: Any, delivery_tag: str) -> None:
            """Note a message as delivered."""
            # With its arguments, for a bare super() finds no `self` in a lambda.
            outlast_refusals(lambda: super(PatientQoS, self).append(message, delivery_tag))

        def ack(self, delivery_tag: str) -> None:
            """Note a message as done."""
            outlast_refusals(lambda: super(PatientQoS, self).ack(delivery_tag))

        def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's signature
            """Note a message as refused, or put it back."""
            outlast_refusals(lambda: super(PatientQoS, self).reject(delivery_tag, requeue=requeue))

        def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:  # noqa: FBT001, FBT002
            """Put a message back."""
            outlast_refusals(lambda: super(PatientQoS, self).restore_by_tag(tag, client, leftmost))

    Untyped.QoS = PatientQoS
    try:
        yield
    finally:
        Untyped.QoS = stock
