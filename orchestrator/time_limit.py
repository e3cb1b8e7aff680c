"""How long a function may run in this process: an exception at the limit, the end of a process that cannot raise it.

Only the main thread of a process can be interrupted; for other pools the reconciler ends the attempt from outside.
"""

from __future__ import annotations

import faulthandler
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from billiard.process import current_process
from celery.signals import worker_process_init

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

HARD_AFTER_S = 3.0
_state = {"may_exit": False}


@worker_process_init.connect
def _enter_child(**_: object) -> None:
    # A pool process may die for a stuck function; a worker's main process, for which solo sends this too, may not.
    _state["may_exit"] = hasattr(current_process(), "index")


def in_pool_process() -> bool:
    """Whether this process is a child of a prefork pool."""
    return _state["may_exit"]


@contextmanager
def time_limit(seconds: float, expired: Callable[[], BaseException]) -> Iterator[None]:
    """Raise `expired()` in the block after `seconds`; in a pool process, kill it 3 s later if it still runs.

    The kill needs no Python code to run, so it works while a function in C holds the interpreter.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise expired()

    before = signal.signal(signal.SIGALRM, interrupt)
    if in_pool_process():
        faulthandler.dump_traceback_later(seconds + HARD_AFTER_S, exit=True, file=2)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:  # also when the limit is reached just now, in the line above
        if in_pool_process():
            faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)
