"""Read what pool processes report, a message at a time, over a lost connection.

A report longer than the pipe holds arrives in parts. Losing the connection to the broker resets the event loop, which
forgets the half that was read; the other half is then taken for a message of its own: the worker ends, or hangs.
"""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery.concurrency import asynpool

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

Untyped: Any = asynpool.ResultHandler


class ResumingResultHandler(Untyped):
    """Continues a report that it has read in part."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._reading: dict[int, tuple[Any, Generator[None, None, None]]] = {}

    def _recv_message(self, add_reader: Any, fd: int, callback: Any) -> Generator[None, None, None]:
        """Continue the message of this very process that was begun, or begin one."""
        # The number alone does not do: the pipe of a process that took the place of a dead one may have the same.
        process = self.fileno_to_outq[fd]
        owner, reading = self._reading.get(fd, (None, None))
        if owner is not process or reading is None or inspect.getgeneratorstate(reading) == inspect.GEN_CLOSED:
            reading = super()._recv_message(add_reader, fd, callback)
            self._reading[fd] = (process, reading)
        return reading


@contextmanager
def applied(_worker: Any) -> Iterator[None]:
    """Make pools that are created in the block continue partial reports."""
    stock = asynpool.AsynPool.ResultHandler
    asynpool.AsynPool.ResultHandler = ResumingResultHandler
    try:
        yield
    finally:
        asynpool.AsynPool.ResultHandler = stock
