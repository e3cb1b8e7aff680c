"""Send events of nodes to Flower and other Celery monitors where Celery sends none.

Celery reports each message as one task. Nodes that run in another node's message, and attempts that leave a canvas, are
reported here.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionWithTraceback
from celery.app import trace
from celery.exceptions import Ignore, NotRegistered

from orchestrator.engine import engine_of
from orchestrator.errors import traceback_text
from orchestrator.liveness.leases import note_missing
from orchestrator.liveness.pool_processes import is_watched
from orchestrator.messaging.engine_task import EngineRequest
from orchestrator.messaging.publisher import BROKER_ERRORS
from orchestrator.middleware import End, Middleware

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from orchestrator.middleware import NodeCall, Outcome, Result

logger = logging.getLogger(__name__)


class TaskEvents(Middleware):
    """Sends task events of the nodes that run behind the first one of a message, while a monitor wants any."""

    def __init__(self, app: Celery) -> None:
        self.app = app

    def is_idle(self) -> bool:
        """While no monitor wants events; errors are logged all the same."""
        return not is_watched()

    def around(self, call: NodeCall, proceed: Callable[[], Result]) -> Result:
        """Send that the node starts."""
        if is_watched() and not call.is_own:
            self._send(call, "task-received", args=repr((call.run_id,)), kwargs="{}")
            self._send(call, "task-started")
        return proceed()

    def after_node(self, call: NodeCall, outcome: Outcome) -> None:
        """Send how it ended; a failure for good is logged as Celery logs that of a task."""
        error = outcome.error
        # Celery has logged and sent what became of the message's own task.
        if call.is_own:
            return
        if outcome.end is End.FAILED and error is not None:
            self._log_failure(call, error)
        if not is_watched():
            return
        if error is not None and outcome.end is not End.TOLERATED:
            kind = "task-retried" if outcome.end is End.PARKED else "task-failed"
            self._send(call, kind, exception=repr(error), traceback=traceback_text(error))
        elif outcome.end is End.STORED:
            self._send(call, "task-succeeded", result="None", runtime=time.monotonic() - call.started)
        else:
            self._send(call, "task-ignored", result=outcome.end.value)

    def _send(self, call: NodeCall, kind: str, **fields: Any) -> None:
        ids = {"uuid": call.task_id, "name": call.task, "root_id": call.run_id, "parent_id": call.run_id}
        try:
            with engine_of(self.app).publisher.dispatcher(call.message.hostname) as sender:
                sender.send(kind, **ids, retries=0, **fields)
        except BROKER_ERRORS as problem:
            logger.warning("events of node %s are not sent: %s", call.node_name, problem)

    def _log_failure(self, call: NodeCall, error: BaseException) -> None:
        told = {"name": call.task, "exc": repr(error), "traceback": traceback_text(error)}
        context = {"id": call.task_id, "args": (), "kwargs": {}, "hostname": call.message.hostname} | told
        context["description"] = trace.log_policy_unexpected.description
        trace.logger.error(
            trace.LOG_FAILURE,
            context,
            exc_info=(type(error), error, error.__traceback__),
            extra={"data": context},  # by it `QuotedErrors` knows the record of a node
        )


class Parked(Ignore):
    """An attempt failed and its node waits for the next one."""


class NodeRequest(EngineRequest):
    """A node's message in the worker: tells monitors of attempts that leave the canvas, where Celery says nothing."""

    def send_event(self, type: str, **fields: Any) -> None:
        """Say in every event whose it is, for a monitor that has come since the message was received."""
        super().send_event(type, name=self.name, root_id=self.root_id, parent_id=self.parent_id, **fields)

    def on_failure(self, exc_info: Any, *args: Any, **options: Any) -> Any:
        """Do what Celery does, then say what became of an attempt that would be shown as running for ever."""
        answer = super().on_failure(exc_info, *args, **options)
        error = exc_info.exception
        # Billiard wraps what crosses a pipe, so that its traceback is not lost.
        error = error.exc if isinstance(error, ExceptionWithTraceback) else error
        if isinstance(error, Parked):
            self.send_event("task-retried", exception=str(error), traceback="")
        elif isinstance(error, NotRegistered):
            # The main process knew the task, or it had passed the message on: a pool process was started without its
            # module.
            note_missing(self.name)
        elif isinstance(error, Ignore):
            self.send_event("task-ignored", result=str(error))
        return answer
