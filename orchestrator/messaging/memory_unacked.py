"""What a worker's transport need not do for a message of a node.

Kombu keeps a copy of every delivered message in Redis until it is acknowledged, so that another worker can give it
back hours later: two transactions a message. A node's message is only a hint: what a lost one would have done is in the
run's state, and the reconciler sends another one within seconds. So it is kept in memory, for a shutdown to give back.
"""

from __future__ import annotations

from typing import Any

from kombu.transport import redis as transport
from kombu.transport import virtual

from orchestrator.messaging.canvas import SINCE_HEADER
from orchestrator.messaging.resilient_broker import PatientQoS, outlast_full_memory

Untyped: Any = virtual.QoS
UntypedChannel: Any = transport.Channel
stock_create_client = UntypedChannel._create_client  # noqa: SLF001 - kombu has no public name for it


class LeanQoS(PatientQoS):
    """Keeps track of unacknowledged messages; of those of nodes in memory alone."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a message as delivered."""
        if SINCE_HEADER in message.headers:
            Untyped.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Note a message as done."""
        if self._of_node(delivery_tag) is None:
            super().ack(delivery_tag)
        else:
            Untyped.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's signature
        """Note a message as refused, or put it back."""
        if self._of_node(delivery_tag) is None:
            super().reject(delivery_tag, requeue=requeue)
            return
        if requeue:
            self.restore_by_tag(delivery_tag, leftmost=True)
        Untyped.ack(self, delivery_tag)

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:  # noqa: FBT001, FBT002
        """Put a message back."""
        message = self._of_node(tag)
        if message is None:
            super().restore_by_tag(tag, client, leftmost)
        else:
            outlast_full_memory(lambda: self._push(message, leftmost=leftmost))

    def _of_node(self, tag: str) -> Any:
        message = self._delivered.get(tag)
        return message if message is not None and SINCE_HEADER in message.headers else None

    def _push(self, message: Any, *, leftmost: bool) -> None:
        place = message.delivery_info
        with self.pipe_or_acquire() as pipe:
            raw = message._raw  # noqa: SLF001 - what kombu itself does with the copy in Redis
            self.channel._do_restore_message(raw, place["exchange"], place["routing_key"], pipe, leftmost)  # noqa: SLF001
            pipe.execute()


def create_client(channel: Any, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's signature
    """Return one client for all commands of a channel; kombu makes one for each, which takes as long as the command."""
    if asynchronous:
        return stock_create_client(channel, asynchronous=True)
    pool = channel.pool
    if getattr(channel, "_kept_pool", None) is not pool:
        channel._kept_pool, channel._kept_client = pool, stock_create_client(channel)  # noqa: SLF001
    return channel._kept_client  # noqa: SLF001


def install() -> None:
    """Prepare this process, a worker's main process, before its pool starts."""
    UntypedChannel.QoS = LeanQoS
    UntypedChannel._create_client = create_client  # noqa: SLF001 - as above
