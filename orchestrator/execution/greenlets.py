"""Keep event loops apart that run in greenlets of one thread.

Python notes for each native thread which event loop runs there. Where gevent or eventlet make greenlets of threads, the
loop of one would be the running loop of all others: `asyncio.run()` is refused in them, and what looks for the running
loop finds a stranger's.
"""

from __future__ import annotations

import asyncio
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable

_suspended: WeakKeyDictionary[Any, asyncio.AbstractEventLoop] = WeakKeyDictionary()
"""Loops that run in greenlets which are not at work now."""


def has_greenlets() -> bool:
    """Return whether what `threading` starts in this process are greenlets."""
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    return bool(
        (gevent is not None and gevent.is_module_patched("threading"))
        or (eventlet is not None and eventlet.is_monkey_patched("thread"))
    )


def make_loop() -> asyncio.AbstractEventLoop:
    """Make an event loop for this greenlet, and give each greenlet of its thread a running loop of its own.

    It is not what a policy makes: only Python's own loop waits by what gevent and eventlet replace.
    """
    greenlet = import_module("greenlet")
    before = greenlet.gettrace()
    if not isinstance(before, Apart):
        greenlet.settrace(Apart(before))
    return asyncio.SelectorEventLoop()


class Apart:
    """Puts the running loop away when its greenlet is left, and back when it goes on; called at each switch."""

    def __init__(self, also: Callable[[str, Any], None] | None) -> None:
        self._also = also

    def __call__(self, event: str, greenlets: Any) -> None:
        """See the switch from one greenlet to another one."""
        left, entered = greenlets
        running, wanted = asyncio._get_running_loop(), _suspended.pop(entered, None)  # noqa: SLF001 - neither raises
        if running is not None:
            _suspended[left] = running
        if running is not wanted:
            asyncio._set_running_loop(wanted)  # noqa: SLF001
        if self._also is not None:
            self._also(event, greenlets)
