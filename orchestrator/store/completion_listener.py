"""Listener for the ends of runs: one subscribed connection for each thread, kept for its next wait.

A message is a hint; a wait reads the run's status all the same.
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
        """Forget all subscriptions; a forked process must not share a connection with its parent."""
        self._kept = threading.local()

    @contextmanager
    def subscribed(self, channel: str, *, patience: float) -> Iterator[Callable[[float], None]]:
        """Subscribe to a channel; yields a function that waits for a message for at most so many seconds.

        Args:
            channel: The channel.
            patience: Longest wait in seconds for the server to confirm it; before that, messages may be missed.

        Raises:
            redis.RedisError: The server cannot be reached.
        """
        subscription = self._subscription()
        try:
            subscription.subscribe(channel)
            until = time.monotonic() + patience
            while time.monotonic() < until:
                # A kept connection may still deliver messages of the channel before: only this confirmation counts.
                message = subscription.get_message(timeout=patience)
                if message and message["type"] == "subscribe" and message["channel"] == channel.encode():
                    break
            yield lambda seconds: subscription.get_message(timeout=seconds)
            subscription.unsubscribe(channel)
        except BaseException:  # what it would read next is not known, so it serves no further wait
            self._kept.subscription = None
            subscription.close()
            raise

    def _subscription(self) -> Any:
        kept = getattr(self._kept, "subscription", None)
        if kept is None:
            kept = self._kept.subscription = self._client.pubsub()
        return kept
