"""Messages that a process passes on because its code does not fit: back to the queue, where another worker takes them.

A process passes a message on once a second. If it meets it again, nobody else takes it now: the node is left to the
reconciler, which sends another message, so that idle workers do not hand one to each other without an end.
"""

from __future__ import annotations

import time

ONCE_IN_S = 1.0
MOST_KEPT = 1000


class PassedOn:
    """The messages that this process has passed on lately."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, str], float] = {}

    def may_pass(self, run_id: str, node: str) -> bool:
        """Return whether the message of a node may be passed on, and take it as passed on."""
        now = time.monotonic()
        if self._until.get((run_id, node), 0.0) > now:
            return False
        # Bounded without a lock: at worst a message is passed on once more.
        if len(self._until) >= MOST_KEPT:
            self._until = {place: until for place, until in self._until.items() if until > now}
        self._until[run_id, node] = now + ONCE_IN_S
        return True


passed_on = PassedOn()
