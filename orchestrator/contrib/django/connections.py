"""Close the database connections that asynchronous nodes have opened.

Celery closes Django's connections around each task, in the task's own thread. Django's asynchronous methods open theirs
in one thread of asgiref's, to which nobody comes.
"""

from __future__ import annotations

from threading import current_thread
from typing import TYPE_CHECKING, Any

from asgiref.sync import SyncToAsync
from django.db import DatabaseError, connections
from django.db.backends.signals import connection_created

from orchestrator.middleware import Middleware

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.middleware import NodeCall, Result

_executor = SyncToAsync.single_thread_executor
# By its name: in its first call the thread is not in the executor's list yet.
_THREAD = f"{_executor._thread_name_prefix}_"  # noqa: SLF001 - it has one


class AsyncConnections(Middleware):
    """Closes them behind each node, if there are any."""

    def __init__(self) -> None:
        self._are_open = False
        connection_created.connect(self._note, weak=False)

    def around(self, call: NodeCall, proceed: Callable[[], Result]) -> Result:
        """Call the node, and leave the closing to the thread that has opened them."""
        try:
            return proceed()
        finally:
            if self._are_open and not getattr(call.message, "is_eager", False):
                self._are_open = False
                # Behind the mark: what is opened from there on sets it again, and is at worst closed twice.
                _executor.submit(self._close)

    def _note(self, **_: Any) -> None:
        if current_thread().name.startswith(_THREAD):
            self._are_open = True

    @staticmethod
    def _close() -> None:
        for connection in connections.all(initialized_only=True):
            try:
                connection.close()
            except DatabaseError:  # it is closed from the other side
                continue
