"""Send events of nodes to Flower and other Celery monitors where Celery sends none.

Celery reports each message as one task. Nodes that run in another node's message, and attempts that leave a canvas, are
reported here.
"""

from __future__ import annotations

import logging
import mmap
import time
import traceback
import uuid
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery.app import trace
from celery.exceptions import Ignore
from celery.signals import task_failure
from celery.worker.request import Request

from orchestrator.engine import engine_of
from orchestrator.messaging.publisher import BROKER_ERRORS

if TYPE_CHECKING:
    from orchestrator.execution.attempt import Attempt, Ended

logger = logging.getLogger(__name__)
_watched = mmap.mmap(-1, 1)  # shared with the pool processes, which are forked after this


def note_watching(*, is_watched: bool) -> None:
    """Let the pool processes know whether a monitor wants events of tasks."""
    _watched[0] = is_watched


class Followers:
    """Nodes that are worked on in another node's message, told to monitors as tasks of their own."""

    def __init__(self, task: Any) -> None:
        self.task = task
        self._began: dict[Attempt, tuple[str, float]] = {}

    def tell(self, attempt: Attempt, ended: Ended | None) -> None:
        """Tell that a node starts, or how it ended; a failure for good is told to Celery's handlers too."""
        failed = ended.error if ended and ended.kind == "failed" else None
        if not failed and not _watched[0]:
            return
        self._began.setdefault(attempt, (str(uuid.uuid4()), time.monotonic()))
        if failed:
            self._report_failure(attempt, failed)
        if _watched[0]:
            self._send(attempt, ended)
        if ended:
            del self._began[attempt]

    def _send(self, attempt: Attempt, ended: Ended | None) -> None:
        error = ended.error if ended else None
        try:
            with engine_of(self.task.app).publisher.dispatcher(self.task.request.hostname) as sender:
                if ended is None:
                    sender.send("task-received", **self._facts(attempt), args=repr((attempt.run_id,)), kwargs="{}")
                    sender.send("task-started", **self._facts(attempt))
                elif ended.kind == "stored":
                    runtime = time.monotonic() - self._began[attempt][1]
                    sender.send("task-succeeded", result="None", runtime=runtime, **self._facts(attempt))
                elif error is None:
                    sender.send("task-ignored", result=ended.kind, **self._facts(attempt))
                else:
                    kind = "task-retried" if ended.kind == "parked" else "task-failed"
                    lines = "".join(traceback.format_exception(error))
                    sender.send(kind, exception=repr(error), traceback=lines, **self._facts(attempt))
        except BROKER_ERRORS as problem:
            logger.warning("events of node %s are not sent: %s", attempt.name, problem)

    def _facts(self, attempt: Attempt) -> dict[str, Any]:
        run_id, task_id = attempt.run_id, self._began[attempt][0]
        return {"uuid": task_id, "name": attempt.facts.task, "root_id": run_id, "parent_id": run_id, "retries": 0}

    def _report_failure(self, attempt: Attempt, error: BaseException) -> None:
        """Do what Celery does for the failure of a task."""
        task = self.task.app.tasks[attempt.facts.task]
        told = {"name": task.name, "exc": repr(error), "traceback": "".join(traceback.format_exception(error))}
        task_id = self._began[attempt][0]
        context = {"id": task_id, "args": (), "kwargs": {}, "hostname": self.task.request.hostname} | told
        trace.logger.error(
            "Task %(name)s[%(id)s] raised unexpected: %(exc)s",
            context,
            exc_info=(type(error), error, error.__traceback__),
            extra={"data": context},
        )
        task_failure.send(
            sender=task,
            task_id=task_id,
            exception=error,
            args=(),
            kwargs={},
            traceback=error.__traceback__,
            einfo=ExceptionInfo((type(error), error, error.__traceback__)),
        )


class Parked(Ignore):
    """An attempt failed and its node waits for the next one."""


class NodeRequest(Request):
    """A node's message in the worker: tells monitors of attempts that leave the canvas, where Celery says nothing."""

    def send_event(self, type: str, **fields: Any) -> None:
        """Say in every event whose it is, for a monitor that has come since the message was received."""
        super().send_event(type, name=self.name, root_id=self.root_id, parent_id=self.parent_id, **fields)

    def on_failure(self, exc_info: Any, *args: Any, **options: Any) -> Any:
        """Do what Celery does, then say what became of an attempt that would be shown as running for ever."""
        answer = super().on_failure(exc_info, *args, **options)
        error = exc_info.exception
        error = error.exc if isinstance(error, ExceptionWithTraceback) else error
        if isinstance(error, Parked):
            self.send_event("task-retried", exception=str(error), traceback="")
        elif isinstance(error, Ignore):
            self.send_event("task-ignored", result=str(error))
        return answer
