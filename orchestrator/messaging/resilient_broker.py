"""How a worker's main process outlives a Redis that is full or gone.

Stock Celery and kombu end it in four cases, and with it every child's running node: Redis refuses an acknowledgement
for memory; it refuses to let a lost connection be set up again; a channel is closed after its connection has lost its
address; the connection is lost while a pool process's report is read in part.
"""

from __future__ import annotations

import inspect
import logging
import time
from typing import TYPE_CHECKING, Any, TypeVar

import redis
from celery.concurrency import asynpool
from kombu.transport import redis as transport

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")
Untyped: Any = transport.QoS
UntypedHandler: Any = asynpool.ResultHandler
UntypedChannel: Any = transport.Channel
stock_disconnect_pools = UntypedChannel._disconnect_pools  # noqa: SLF001 - kombu has no public name for them
TRY_AGAIN_S = 0.25


def outlast_full_memory(call: Callable[[], Answer]) -> Answer:
    """Repeat a call while Redis refuses it for memory; every other error is the caller's."""
    while True:
        try:
            return call()
        except redis.OutOfMemoryError as error:
            logger.warning("Redis is full, trying again: %s", error)
            time.sleep(TRY_AGAIN_S)


class PatientQoS(Untyped):
    """Keeps track of unacknowledged messages, waiting while Redis is full."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a message as delivered."""
        outlast_full_memory(lambda: super(PatientQoS, self).append(message, delivery_tag))

    def ack(self, delivery_tag: str) -> None:
        """Note a message as done."""
        outlast_full_memory(lambda: super(PatientQoS, self).ack(delivery_tag))

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's signature
        """Note a message as refused, or put it back."""
        outlast_full_memory(lambda: super(PatientQoS, self).reject(delivery_tag, requeue=requeue))

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:  # noqa: FBT001, FBT002
        """Put a message back."""
        outlast_full_memory(lambda: super(PatientQoS, self).restore_by_tag(tag, client, leftmost))


def disconnect_pools(channel: Any) -> None:
    """Disconnect a channel that is closed, so that it can still give back and acknowledge what it delivered.

    Kombu drops the channel's connection pools, and makes new ones when something is left to give back or acknowledge.
    When closing one channel fails, it takes the address away before it closes the next, and making a pool raises an
    AttributeError that nobody expects. A disconnected pool needs no address to connect again.
    """
    pools = channel._pool, channel._async_pool  # noqa: SLF001 - as above
    stock_disconnect_pools(channel)
    channel._pool, channel._async_pool = pools  # noqa: SLF001 - as above


class ResumingResultHandler(UntypedHandler):
    """Reads what pool processes report, a message at a time, over a lost connection.

    A message longer than the pipe holds arrives in parts. Losing the connection resets the event loop, which forgets
    the half that was read; the other half would be taken for a message of its own: the worker ends, or hangs.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._reading: dict[int, tuple[Any, Generator[None, None, None]]] = {}

    def _recv_message(self, add_reader: Any, fd: int, callback: Any) -> Generator[None, None, None]:
        """Go on with the message of this very process that was begun, or begin one."""
        process = self.fileno_to_outq[fd]
        owner, reading = self._reading.get(fd, (None, None))
        if owner is not process or reading is None or inspect.getgeneratorstate(reading) == inspect.GEN_CLOSED:
            reading = super()._recv_message(add_reader, fd, callback)
            self._reading[fd] = (process, reading)
        return reading


def install() -> None:
    """Prepare this process, a worker's main process, before its pool starts."""
    UntypedChannel.QoS = PatientQoS
    UntypedChannel._disconnect_pools = disconnect_pools  # noqa: SLF001 - as above
    asynpool.AsynPool.ResultHandler = ResumingResultHandler


def connect_again_when_refused(consumer: Any) -> None:
    """Let a worker's consumer take a refusal as a lost connection: it connects again until Redis takes what it writes.

    Setting up a connection writes queue bindings, and a lock for giving back what others left.
    """
    consumer.connection_errors += (redis.OutOfMemoryError, redis.ReadOnlyError)
