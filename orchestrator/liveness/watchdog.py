"""Watchdog: kills a pool process past the timeout of its node, and a worker past the grace of its shutdown.

Its thread waits for nothing else: neither Redis nor a function that holds a pool process's interpreter delays it.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

from celery.worker import state

from orchestrator.liveness.fork_gate import gate
from orchestrator.liveness.leases import WATCH_EVERY_S, is_running
from orchestrator.liveness.pool_processes import is_overdue

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.liveness.leases import LeaseRenewer

logger = logging.getLogger(__name__)


class Watchdog(threading.Thread):
    """The thread of one worker's main process.

    Args:
        renewer: Knows the worker's pool processes.
        begin_shutdown: Called when the worker shuts down cold, which Celery says only when its pool has ended.
        out_of_grace: Called once when a shutdown has taken too long.
    """

    def __init__(
        self, renewer: LeaseRenewer, begin_shutdown: Callable[[], None], out_of_grace: Callable[[], None]
    ) -> None:
        super().__init__(name="orchestrator-watchdog", daemon=True)
        self._renewer = renewer
        self._begin_shutdown = begin_shutdown
        self._out_of_grace = out_of_grace
        self._grace_ends = float("inf")
        self._ended = threading.Event()

    def begin_grace(self, seconds: float) -> None:
        """Limit how long a shutdown may take; safe in a signal handler and in greenlets, as it waits for nothing."""
        self._grace_ends = min(self._grace_ends, time.monotonic() + seconds)

    def end(self) -> None:
        """Stop watching."""
        self._ended.set()

    def run(self) -> None:
        """Watch until it is ended."""
        is_told = False
        while not self._ended.wait(WATCH_EVERY_S):
            with gate.closed():
                self._kill_overdue()
            if not is_told and state.should_terminate is not None and state.should_terminate is not False:
                is_told = True
                self._begin_shutdown()
            if time.monotonic() > self._grace_ends:
                self._grace_ends = float("inf")
                self._out_of_grace()

    def _kill_overdue(self) -> None:
        # A copy: the thread that renews leases changes it meanwhile.
        for pid, place in list(self._renewer.known.items()):
            # A process that died leaves its limit behind, and its id may be another program's by now.
            if is_overdue(place) and is_running(pid):
                logger.error("worker process %d is killed: its node did not stop at its timeout", pid)
                # Three seconds past the limit: the exception at the limit did not end it, so that nothing softer will.
                os.kill(pid, signal.SIGKILL)
