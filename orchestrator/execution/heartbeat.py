"""Heartbeats of an attempt whose node has a heartbeat timeout: each one lets the limit of the attempt come later.

In its process at once, and in the claim, by which the leader ends it where nothing can interrupt it, now and then.
"""

from __future__ import annotations

import time

from orchestrator.liveness.time_limit import MovableLimit

LONGEST_S = 1.0
"""Longest time between two heartbeats that move the end of the claim."""
SHORTEST_S = 0.001


class Heartbeat:
    """Made in the call that it keeps alive.

    Args:
        within_ms: The heartbeat timeout.
        timeout_s: The limit of the whole attempt.
    """

    def __init__(self, within_ms: int, timeout_s: float) -> None:
        self._within_ms = within_ms
        self._ends = time.monotonic() + timeout_s
        self._moves_at = 0.0
        self._limit = MovableLimit()

    def beat(self) -> int:
        """Move the process's limit; returns by how many ms from now the claim is to end, 0 to leave it as it is."""
        now, within_s = time.monotonic(), self._within_ms / 1000
        self._limit.move(max(SHORTEST_S, min(within_s, self._ends - now)))
        if now < self._moves_at:
            return 0
        self._moves_at = now + min(LONGEST_S, within_s / 3)
        return self._within_ms

    def lose(self) -> None:
        """The claim was not moved: the next heartbeat is to do it."""
        self._moves_at = 0.0
