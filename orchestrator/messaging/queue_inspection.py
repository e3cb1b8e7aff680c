"""Inspection of a Celery queue: whether a message may be lost, or only waits behind many others.

The messages of a Redis broker can be read. Of any other, only the length of a queue is known: while it is not empty, a
node is published again only after it has waited for long.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kombu.transport.redis import Channel
from redis import Redis

from orchestrator.messaging.canvas import SINCE_HEADER
from orchestrator.messaging.celery_addresses import list_name
from orchestrator.messaging.publisher import BROKER_ERRORS
from orchestrator.sparing_log import warn_sparingly

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery import Celery

logger = logging.getLogger(__name__)
NO_QUEUE = "404"
WAITS_UNSEEN_MS = 60_000
"""Afterwards a message counts as lost where nobody can see it; once a minute is also what the back-off ends at."""
LOOK_AT = 100
"""Messages read at the old end: enough to find one of the engine's among others, without copying a long queue."""


@dataclass(frozen=True)
class QueueHead:
    """The old end of a queue.

    Attributes:
        length: Messages in it; None where the broker does not say.
        oldest: Smallest instant in ms that the engine's oldest messages carry, or None.
        is_opaque: Whether the broker shows no messages.
        by_list: The same of each of its lists, by the priority from which on messages are in it; none without such a
            message.
    """

    length: int | None
    oldest: int | None
    is_opaque: bool = False
    by_list: Mapping[int, int] = field(default_factory=dict)

    def may_have_lost(self, since: int, now: int, priority: int | None = None) -> bool:
        """Return whether a message published at `since` may not be in the queue any more `now`, both in ms.

        Args:
            since: When it was published.
            now: Redis's clock.
            priority: That of the message; None where it may be any.
        """
        # Also where the broker does not say: then the back-off alone keeps messages apart.
        if not self.length:
            return True
        if self.is_opaque:
            return now - since >= WAITS_UNSEEN_MS
        # Behind less urgent messages it does not wait: however old those are, they say nothing of it.
        oldest = self.oldest
        if priority is not None:
            oldest = min((found for lowest, found in self.by_list.items() if lowest <= priority), default=None)
        # Strictly later: a message with the same instant may be the very one.
        return oldest is None or oldest > since


def look_at_queue(app: Celery, queue: str) -> QueueHead:
    """Read the oldest messages of a queue, in all of its priorities."""
    try:
        with app.connection_for_read() as connection:
            channel = connection.default_channel
            if not isinstance(channel, Channel):
                return QueueHead(_length(connection, channel, queue), None, is_opaque=True)
            # Kombu keeps a list for each priority; a node's message may be in any of them, by a route or an annotation
            # of the app.
            steps = list(channel.priority_steps)
            lists = [list_name(channel, queue, priority) for priority in steps]
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
    read = [[since for message in messages if (since := _since(message)) is not None] for messages in answers[1::2]]
    by_list = {step: min(found) for step, found in zip(steps, read, strict=True) if found}
    return QueueHead(sum(answers[::2]), min(by_list.values(), default=None), by_list=by_list)


def _length(connection: Any, channel: Any, queue: str) -> int | None:
    try:
        return int(channel.queue_declare(queue=queue, passive=True).message_count)
    except connection.channel_errors as error:
        return 0 if str(getattr(error, "reply_code", "")) == NO_QUEUE else None


def _since(message: bytes) -> int | None:
    try:
        headers: Any = json.loads(message)["headers"]
        return int(headers[SINCE_HEADER])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None  # another library's message, or no message
