"""Time limits of functions: an exception at the limit, and the end of a process that cannot raise it.

Only the main thread of a process can be interrupted; in other threads and pools the attempt is ended from outside. A
pool process that does not stop is killed by the worker's main process, which sees the limit in shared memory.
"""

from __future__ import annotations

import signal
import threading
import time
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING

from orchestrator.liveness.pool_processes import limit_setter, set_limit
from orchestrator.middleware import Middleware

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from orchestrator.middleware import NodeCall, Result

HARD_AFTER_S = 3.0
HAS_TIMER = hasattr(signal, "setitimer")
# signal.getsignal() wraps its result in an enum, which costs more than everything else here.
getsignal: Callable[[int], object] = import_module("_signal").getsignal
_errors: list[Callable[[], BaseException]] = []  # of the call that the main thread is in now
_calls: dict[int, Callable[[], BaseException]] = {}  # the call that each thread is in


def _can_be_interrupted() -> bool:
    """Whether a timer raises in this thread: Python runs handlers in the main one alone, and Windows has no timer."""
    return HAS_TIMER and threading.get_ident() == threading.main_thread().ident


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    # A loop and no index: the call may have ended between the signal and this line, and left nothing to raise.
    for make_error in _errors:
        raise make_error()


def _take_back() -> None:
    """Install our handler again if a node function installed another one, which our timer would call."""
    if getsignal(signal.SIGALRM) is not _interrupt:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, _interrupt)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let time limits in the block interrupt it, if this is the main thread: once for all attempts of a message."""
    if not _can_be_interrupted():
        yield
        return
    before = signal.signal(signal.SIGALRM, _interrupt)
    try:
        yield
    finally:
        # The timer first: between the two it would call the handler that was there before us.
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def call_within(seconds: float, expired: Callable[[], BaseException], function: Callable[[], Result]) -> Result:
    """Call a function and raise `expired()` in it after `seconds`; a pool process is killed 3 s later if it still runs.

    The kill comes from another process, so it works while a function in C holds the interpreter. The timer is left to
    the next call or to the end of `interruptible`, whichever comes first: outside of a call it does nothing.
    """
    # The kill is armed before the timer: it also ends a function that holds the interpreter, where no handler runs.
    set_limit(time.monotonic() + seconds + HARD_AFTER_S)
    _calls[threading.get_ident()] = expired
    try:
        if not _can_be_interrupted():
            return function()
        _take_back()
        try:
            # In this order: the timer that the call before left must not strike this one.
            signal.setitimer(signal.ITIMER_REAL, seconds)
            _errors[:] = [expired]
            return function()
        finally:
            _errors.clear()  # first, so that the timer finds nothing to raise from here on
            _take_back()
    finally:  # the limit may strike in any line above, and its kill must be disarmed all the same
        _calls.pop(threading.get_ident(), None)
        set_limit(0)


class MovableLimit:
    """The limit of the call that this thread is in: any thread may let it come later, as long as the call goes on."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._call = _calls.get(self._thread)
        self._arm_kill = limit_setter()

    def move(self, seconds: float) -> None:
        """Let it come so many seconds from now."""
        if self._call is None or _calls.get(self._thread) is not self._call:
            return
        self._arm_kill(time.monotonic() + seconds + HARD_AFTER_S)
        if HAS_TIMER and _errors[:1] == [self._call] and self._thread == threading.main_thread().ident:
            signal.setitimer(signal.ITIMER_REAL, seconds)


class TimeLimit(Middleware):
    """Holds every call of a node to the node's timeout."""

    def around(self, call: NodeCall, proceed: Callable[[], Result]) -> Result:
        """Call the node's function under its limit."""
        return call_within(call.timeout_s, call.expired, proceed)
