"""Distinguish the end of a pool process from an error of the function that it interrupts.

A signal to end arrives in a function as an exception that it did not raise. Such an attempt is lost, like that of a
process that was killed: the worker's main process sees it end and ends its claims.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from billiard import common
from celery.exceptions import WorkerShutdown, WorkerTerminate

if TYPE_CHECKING:
    from collections.abc import Callable

INTERRUPTED = -1
"""Exit code of a process that was told to end, where the real one is lost."""
# billiard 4.3 has a function for it; before, there is only the variable that the function reads.
is_ending: Callable[[], bool] = getattr(
    common,
    "terminate_handler_fired",
    lambda: common._should_have_exited[0],  # noqa: SLF001
)


def raise_interruption(error: BaseException) -> None:
    """Raise a function's exception again if it means that its process, or its greenlet, has to end.

    A function may raise SystemExit by itself, so the class says nothing. While the process ends, whatever the
    function's clean-up raises counts as part of it.

    Raises:
        BaseException: The error, or SystemExit in its place: any other exception would count as the task's.
    """
    greenlet = sys.modules.get("greenlet")
    if isinstance(error, WorkerShutdown | WorkerTerminate) or (greenlet and isinstance(error, greenlet.GreenletExit)):
        raise error
    if is_ending():
        raise error if isinstance(error, SystemExit) else SystemExit(INTERRUPTED) from error


def exit_if_ending() -> None:
    """End this process if it was told to while a function ran and swallowed the exception.

    Raises:
        SystemExit: It was.
    """
    if is_ending():
        raise SystemExit(INTERRUPTED)
