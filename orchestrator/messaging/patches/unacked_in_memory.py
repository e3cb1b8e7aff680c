"""Keep delivered messages of nodes in the worker's memory alone.

Kombu keeps a copy of every delivered message in Redis until it is acknowledged, so that another worker can give it
back hours later: two transactions a message. A node's message is only a hint: what a lost one would have done is in the
run's state, and the reconciler sends another one within seconds. So it is kept in memory, for a shutdown to give back.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kombu.transport import virtual
from kombu.transport.redis import Channel

from orchestrator.messaging.canvas import SINCE_HEADER
from orchestrator.messaging.patches.refused_acks import outlast_refusals

if TYPE_CHECKING:
    from collections.abc import Iterator

Untyped: Any = virtual.QoS
UntypedChannel: Any = Channel


@contextmanager
def applied(_worker: Any) -> Iterator[None]:
    """Make channels that are created in the block keep messages of nodes in memory."""
    stock = UntypedChannel.QoS

    class LeanQoS(stock):  # type: ignore[misc, valid-type]
        """Keeps track of unacknowledged messages; of those of nodes in memory alone."""

        def append(self, message: Any, delivery_tag: str) -> None:
            """Note a message as delivered."""
            if SINCE_HEADER in message.headers:  # past the Redis transport's own, which writes the message into a hash
                Untyped.append(self, message, delivery_tag)
            else:
                super().append(message, delivery_tag)

        def ack(self, delivery_tag: str) -> None:
            """Note a message as done."""
            if _of_node(self, delivery_tag) is None:
                super().ack(delivery_tag)
            else:
                Untyped.ack(self, delivery_tag)

        def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's signature
            """Note a message as refused, or put it back."""
            if _of_node(self, delivery_tag) is None:
                super().reject(delivery_tag, requeue=requeue)
                return
            if requeue:  # before the acknowledgement: from there on nothing has the message any more
                self.restore_by_tag(delivery_tag, leftmost=True)
            Untyped.ack(self, delivery_tag)

        # Kombu calls it for each message that a closing channel still holds: without it a prefetched one would end with
        # the process, and its node wait for the reconciler.
        def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:  # noqa: FBT001, FBT002
            """Put a message back."""
            message = _of_node(self, tag)
            if message is None:
                super().restore_by_tag(tag, client, leftmost)
            else:
                outlast_refusals(lambda: _push(self, message, leftmost=leftmost))

    UntypedChannel.QoS = LeanQoS
    try:
        yield
    finally:
        UntypedChannel.QoS = stock


def _of_node(qos: Any, tag: str) -> Any:
    message = qos._delivered.get(tag)  # noqa: SLF001 - kombu has no public name for it
    return message if message is not None and SINCE_HEADER in message.headers else None


def _push(qos: Any, message: Any, *, leftmost: bool) -> None:
    place = message.delivery_info
    with qos.pipe_or_acquire() as pipe:
        raw = message._raw  # noqa: SLF001 - what kombu itself does with the copy in Redis
        qos.channel._do_restore_message(raw, place["exchange"], place["routing_key"], pipe, leftmost)  # noqa: SLF001
        pipe.execute()
