"""Keep a worker's main process from forking while a thread of the engine may hold a lock.

A pool process is a copy of the main process with the forking thread alone: a lock that another thread held at that
moment, such as that of the log's stream, is held in the copy for ever, and whatever asks for it hangs.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_S = 1.0
"""Longest time that a fork waits for a thread: a Redis that does not answer must not hold up the pool."""


class ForkGate:
    """Shared by the threads of the engine, which may be many at a time; a fork has it alone."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Have no thread in a block, as a process that was just forked, and a lock that nobody holds."""
        self._changed = threading.Condition()
        self._busy: set[int] = set()  # ids of threads
        self._is_forking = False

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Let no fork begin during the block, in which this thread does not wait for anything long."""
        thread = threading.get_ident()
        self._enter(thread)
        try:
            yield
        finally:
            self._leave(thread)

    def give_way(self) -> None:
        """Let a fork that waits go first, between two parts of a long block."""
        thread = threading.get_ident()
        if self._is_forking and thread in self._busy:
            self._leave(thread)
            self._enter(thread)

    def _enter(self, thread: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_forking, PATIENCE_S)
            self._busy.add(thread)

    def _leave(self, thread: int) -> None:
        with self._changed:
            self._busy.discard(thread)
            self._changed.notify_all()

    def before_fork(self) -> None:
        """Wait until no other thread is in a block."""
        own = {threading.get_ident()}
        with self._changed:
            self._is_forking = True
            self._changed.wait_for(lambda: self._busy <= own, PATIENCE_S)

    def after_fork(self) -> None:
        """Let the threads of the parent go on."""
        with self._changed:
            self._is_forking = False
            self._changed.notify_all()


gate = ForkGate()
if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(before=gate.before_fork, after_in_parent=gate.after_fork, after_in_child=gate.begin)
