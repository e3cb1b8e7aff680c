"""Isolation of what the reconciler handles: a run, a holder, a timer or a line that fails is set aside, others go on.

A part that is set aside is tried again after a pause that grows, is logged once, and is named in the store for
`explain` and `Orchestrator.set_aside`. When it works again it is named no longer.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.errors import StoreError
from orchestrator.liveness.fork_gate import gate
from orchestrator.store.refusals import concerns_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.store.run_store import Store

logger = logging.getLogger(__name__)
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
MET_AGAIN_S = 60.0
KEPT = 10_000


@dataclass
class _Pause:
    seconds: float
    until: float


class BrokenParts:
    """What one leader has set aside."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pauses: dict[tuple[str, str], _Pause] = {}

    def begin(self) -> None:
        """Learn, as a new leader, what another one has set aside."""
        for part in self._store.aside.parts():
            self._pauses.setdefault((part.kind, part.name), _Pause(FIRST_PAUSE_S, time.monotonic()))

    def attempt(self, kind: str, name: str, step: Callable[[], object]) -> bool:
        """Do a step for one part, unless it failed just now; returns whether it was done.

        Raises:
            StoreFull: No other part gets further either.
            StoreUnavailable: As above.
        """
        gate.give_way()
        pause = self._pauses.get((kind, name))
        if pause is not None and time.monotonic() < pause.until:
            return False
        try:
            with self._store.guarded():
                step()
        except Exception as error:  # whatever else it is, it is this part's alone, such as a key of another type
            if concerns_all(error):
                raise
            self.set_aside(kind, name, error)
            return False
        if pause is not None:
            self.forget(kind, name)
        return True

    def set_aside(self, kind: str, name: str, error: Exception) -> None:
        """Note that a part fails, and leave it alone for a while."""
        before = self._pauses.get((kind, name))
        seconds = FIRST_PAUSE_S if before is None else min(2 * before.seconds, LONGEST_PAUSE_S)
        if before is None and len(self._pauses) >= KEPT:
            # Bounded: what is forgotten here is at worst logged once more.
            self._pauses.clear()
        self._pauses[kind, name] = _Pause(seconds, time.monotonic() + seconds)
        reason = str(error) if isinstance(error, StoreError) else f"{type(error).__name__}: {error}"
        if before is None:
            logger.error("reconciler: %s %s is set aside, others go on: %s", kind, name, reason)
            logger.debug("reconciler: %s %s", kind, name, exc_info=error)
        with self._store.guarded():
            now = self._store.now_ms()
            # What is due first would hide the rest.
            self._store.upkeep.look_later(kind, name, now + round(1000 * seconds))
            self._store.aside.note(kind, name, reason, now_ms=now)

    def forget_old(self) -> None:
        """Name parts no longer that were not met again: their run has ended, or they are gone."""
        for kind, name in [
            each for each, pause in self._pauses.items() if time.monotonic() > pause.until + MET_AGAIN_S
        ]:
            self.forget(kind, name)

    def forget(self, kind: str, name: str) -> None:
        """Note that a part works again, or is gone."""
        if self._pauses.pop((kind, name), None) is not None:
            with self._store.guarded():
                self._store.aside.clear(kind, name)
