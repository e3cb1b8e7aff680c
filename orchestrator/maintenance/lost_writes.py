"""Detection of writes that are gone: a replica that was behind took over, or an older copy was restored.

A leading worker counts its sweeps, and keeps the count in the store. What the store says must be what the worker knows:
where it says less, the writes since then are gone, and the instants of the two say how much that is.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from orchestrator.store.lost_writes import LostWrites

if TYPE_CHECKING:
    from orchestrator.store.lost_writes import SweepMark
    from orchestrator.store.run_store import Store

logger = logging.getLogger(__name__)


class SweepMemory:
    """What one worker knows of its sweeps.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: SweepMark | None = None
        self._number = 0

    @property
    def next_number(self) -> int:
        """The number of its next sweep, also after others have led in between."""
        return self._number + 1

    def note(self, stored: SweepMark | None, made: SweepMark) -> None:
        """Compare what the store had before a sweep, and remember what this one has left there."""
        self._compare(stored)
        self._known, self._number = made, made.number

    def end(self, worker: str) -> None:
        """Compare once more, for another worker leads now: it does not know what this one knew."""
        if self._known is not None:
            self._compare(self._store.upkeep.sweep_mark(worker))
            self._known = None

    def _compare(self, stored: SweepMark | None) -> None:
        known = self._known
        # More than it knows of is no loss: the answer to a sweep was lost, and its mark was left.
        if known is None or (stored is not None and stored.number >= known.number):
            return
        lost = LostWrites(
            known.at,
            None if stored is None else known.at - stored.at,
            None if stored is None else max(known.events - stored.events, 0),
        )
        logger.error("Redis at %s: %s", self._store.place, lost.sentence())
        self._store.upkeep.note_loss(lost)
