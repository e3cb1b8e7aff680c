"""Inspection of a Celery queue: whether a message may be lost, or only waits behind many others.

Only a Redis broker can be inspected; with any other, only the back-off decides when a node is published again.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kombu.transport.redis import Channel
from redis import Redis

from orchestrator.messaging.canvas import SINCE_HEADER
from orchestrator.messaging.celery_addresses import list_name
from orchestrator.messaging.publisher import BROKER_ERRORS
from orchestrator.sparing_log import warn_sparingly

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)
LOOK_AT = 100
"""Messages read at the old end: enough to find one of the engine's among others, without copying a long queue."""


@dataclass(frozen=True)
class QueueHead:
    """The old end of a queue.

    Attributes:
        length: Messages in it; None where the broker cannot be inspected.
        oldest: Smallest instant in ms that the engine's oldest messages carry, or None.
    """

    length: int | None
    oldest: int | None

    def may_have_lost(self, since: int) -> bool:
        """Return whether a message published at `since` may not be in the queue any more."""
        # Strictly later: a message with the same instant may be the very one.
        return not self.length or self.oldest is None or self.oldest > since


def look_at_queue(app: Celery, queue: str) -> QueueHead:
    """Read the oldest messages of a queue, in all of its priorities."""
    try:
        with app.connection_for_read() as connection:
            channel = connection.default_channel
            if not isinstance(channel, Channel):
                return QueueHead(None, None)
            lists = [list_name(channel, queue, priority) for priority in channel.priority_steps]
            # Not the channel's client: it prefixes the keys of some commands, but not of LRANGE, with the app's key
            # prefix.
            pipe = Redis(connection_pool=channel.client.connection_pool).pipeline(transaction=False)
            for name in lists:
                pipe.llen(name)
                pipe.lrange(name, -LOOK_AT, -1)  # kombu pushes on the left: the oldest are on the right
            answers = pipe.execute()
    except BROKER_ERRORS as error:
        warn_sparingly(logger, "queue %s cannot be inspected: %s", queue, error)
        return QueueHead(None, None)
    instants = [
        instant for messages in answers[1::2] for message in messages if (instant := _since(message)) is not None
    ]
    return QueueHead(sum(answers[::2]), min(instants, default=None))


def _since(message: bytes) -> int | None:
    try:
        headers: Any = json.loads(message)["headers"]
        return int(headers[SINCE_HEADER])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None  # another library's message, or no message
