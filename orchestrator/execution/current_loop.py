"""Give the threads of node functions a current event loop, for code that calls `asyncio.get_event_loop()`.

Python makes one for the main thread only, and none after the first `asyncio.run()` there.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

_thread = threading.local()


def provide_current_loop() -> None:
    """Let this thread have a current event loop, the same for all of its nodes; one that it has already stays."""
    # Asked by asyncio.get_event_loop(), Python would make one for the main thread, and warn of it.
    policy: Any = getattr(asyncio.events, "_event_loop_policy", None)
    current = getattr(policy, "_local", None)
    if current is None and policy is not None:  # a policy of somebody's own
        return
    if getattr(current, "_loop", None) is None:
        own: OwnLoop | None = getattr(_thread, "own", None)
        if own is None or own.loop.is_over():
            own = _thread.own = OwnLoop()
        asyncio.set_event_loop(own.loop)


class OwnLoop:
    """The loop that a thread was given, which is closed when the thread ends.

    Attributes:
        loop: The loop.
    """

    def __init__(self) -> None:
        self.loop = LoopOnDemand()

    def __del__(self) -> None:
        # A loop is part of cycles; left to the collector, its sockets may be closed in front of it, with a warning.
        if self.loop.is_open():
            self.loop.close()


class LoopOnDemand(asyncio.SelectorEventLoop):
    """A loop that opens its files when it is first used: most threads never use theirs."""

    def __init__(self) -> None:
        """Set nothing, so that whatever is done with it first looks for an attribute that is not there."""

    def __getattr__(self, name: str) -> Any:
        if self.__dict__:
            raise AttributeError(name)
        super().__init__()
        return getattr(self, name)

    def __del__(self) -> None:
        if self.__dict__:
            super().__del__()

    def is_open(self) -> bool:
        """Whether it was used, and is neither closed nor running."""
        return bool(self.__dict__) and not self.is_closed() and not self.is_running()

    def is_over(self) -> bool:
        """Whether it was used and closed."""
        return bool(self.__dict__) and self.is_closed()
