"""How long a function may run in this process: an exception at the limit, the end of a process that cannot raise it.

Only the main thread of a process can be interrupted; in other threads and pools the attempt is ended from outside. A
pool process that does not stop is killed by the worker's main process, which sees the limit in shared memory.
"""

from __future__ import annotations

import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from orchestrator.activity import set_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

HARD_AFTER_S = 3.0


@contextmanager
def time_limit(seconds: float, expired: Callable[[], BaseException]) -> Iterator[None]:
    """Raise `expired()` in the block after `seconds`; a pool process is killed 3 s later if it still runs it.

    The kill comes from another process, so it works while a function in C holds the interpreter.
    """
    if threading.current_thread() is not threading.main_thread():
        with killed_after(seconds + HARD_AFTER_S):
            yield
        return

    def interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise expired()

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with killed_after(seconds + HARD_AFTER_S):
            signal.setitimer(signal.ITIMER_REAL, seconds)
            try:
                yield
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    finally:  # also when the limit is reached just now, in the line above
        signal.signal(signal.SIGALRM, before)


@contextmanager
def killed_after(seconds: float) -> Iterator[None]:
    """Let the worker's main process kill this pool process if the block takes longer."""
    set_limit(time.monotonic() + seconds)
    try:
        yield
    finally:
        set_limit(0)
