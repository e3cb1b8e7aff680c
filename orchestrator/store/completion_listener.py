"""How a client hears that a run has ended: one subscribed connection for each thread, kept for its next wait.

What it hears is a hint; whoever waits reads the run's status all the same.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Listener:
    """Subscriptions of one process over a client's connections."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.begin()

    def begin(self) -> None:
        """Keep no subscription, as a process that was just forked: it may not share a connection."""
        self._kept = threading.local()

    @contextmanager
    def subscribed(self, channel: str, *, patience: float) -> Iterator[Callable[[float], None]]:
        """Subscribe to a channel; gives a function that waits for a message for so many seconds at most.

        Args:
            channel: The channel.
            patience: Seconds until the server has confirmed it; without, messages may be missed.

        Raises:
            redis.RedisError: The server cannot be reached.
        """
        subscription = self._subscription()
        try:
            subscription.subscribe(channel)
            until = time.monotonic() + patience
            while time.monotonic() < until:
                told = subscription.get_message(timeout=patience)
                if told and told["type"] == "subscribe" and told["channel"] == channel.encode():
                    break
            yield lambda seconds: subscription.get_message(timeout=seconds)
            subscription.unsubscribe(channel)
        except BaseException:
            self._kept.subscription = None
            subscription.close()
            raise

    def _subscription(self) -> Any:
        kept = getattr(self._kept, "subscription", None)
        if kept is None:
            kept = self._kept.subscription = self._client.pubsub()
        return kept
