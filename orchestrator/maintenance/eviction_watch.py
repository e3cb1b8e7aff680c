"""Watch over the server of the runs: a worker begins no run on one that throws keys of live runs away.

Runs that have begun go on to their end, and so do the app's own tasks. Messages of others are let go: the reconciler
sends them again, later and later, until the server is set right.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from orchestrator.errors import StoreError
from orchestrator.liveness.pool_processes import note_evicting
from orchestrator.store.eviction import find_eviction

if TYPE_CHECKING:
    from orchestrator.engine import Engine

logger = logging.getLogger(__name__)
LOOK_EVERY_S = 5.0
KEEP_MS = 60_000
"""How long a finding is believed that no leader confirms."""


class EvictionWatch:
    """Looks at the server every few seconds, in each worker; the leading one tells the clients.

    Args:
        engine: The engine of the worker's app.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._is_allowed = engine.settings.allow_eviction
        self._looked = -LOOK_EVERY_S
        self._problem = ""

    def look(self, *, leads: bool) -> None:
        """Look, if it is time, and let the worker begin runs or not; a server that is away changes nothing."""
        if time.monotonic() - self._looked < LOOK_EVERY_S:
            return
        try:
            with self._engine.store.guarded():
                found = find_eviction(self._engine.store)
                problem = found.problem if found and found.takes_live_runs and not self._is_allowed else ""
                if leads:
                    self._engine.store.upkeep.note_eviction(problem, keep_ms=KEEP_MS)
        except StoreError as error:  # reported by the lease renewer
            logger.debug("whether Redis evicts is not known: %s", error)
            return
        # Only now: a server that did not answer is asked again in the next round.
        self._looked = time.monotonic()
        if problem and not self._problem:
            logger.error("no run is begun here: %s; or set Settings.allow_eviction", problem)
        elif self._problem and not problem:
            logger.warning("runs are begun again: Redis does not throw their keys away any more")
        self._problem = problem
        note_evicting(is_evicting=bool(problem))
