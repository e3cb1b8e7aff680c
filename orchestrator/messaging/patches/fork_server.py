"""Let processes of a fork server report under the numbers that their pipes have in the worker's main process.

A report names the pipe over which the process takes its next message. A fork server's child gets its pipes under other
numbers than the main process has, unless both happen to have equally many files open: the main process then takes the
child for busy after its first message, and waits for ever.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery.concurrency import asynpool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Untyped: Any = asynpool.Worker


class NumberedWorker(Untyped):
    """What a pool process runs, with the numbers that its pipes have where it was made."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Take the numbers along."""
        make, arguments, *_ = super().__reduce__()
        return _rebuilt, (make, arguments, self.inqW_fd, self.synqW_fd)


def _rebuilt(make: Callable[..., Any], arguments: tuple[Any, ...], inq: int, synq: int | None) -> Any:
    worker = make(*arguments)
    worker.inqW_fd, worker.synqW_fd = inq, synq
    return worker


@contextmanager
def applied(_worker: Any) -> Iterator[None]:
    """Let pools that are made in the block have such processes."""
    stock = asynpool.AsynPool.Worker
    asynpool.AsynPool.Worker = NumberedWorker
    try:
        yield
    finally:
        asynpool.AsynPool.Worker = stock
