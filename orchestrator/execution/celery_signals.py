"""Call the handlers of Celery's task signals once for every node and attempt, as for a task of its own.

Celery calls them for the first attempt of a message. Attempts behind it get the same signals here, in the thread of
their function, with a request of their own on their own task; without handlers no request is made. `task_received`
stays per message: it is the main process's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo
from celery import signals, states

from orchestrator.errors import traceback_text
from orchestrator.execution.node_requests import make_request, requested
from orchestrator.liveness.interruption import raise_interruption
from orchestrator.middleware import End, Middleware

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from orchestrator.middleware import NodeCall, Outcome, Result


class CelerySignals(Middleware):
    """Sends the signals of attempts that Celery does not trace; what a handler raises Celery logs."""

    def __init__(self, app: Celery) -> None:
        self.app = app

    def is_idle(self) -> bool:
        """While no handler is connected."""
        return not (
            signals.task_prerun.receivers
            or signals.task_postrun.receivers
            or signals.task_success.receivers
            or signals.task_failure.receivers
            or signals.task_retry.receivers
        )

    def around(self, call: NodeCall, proceed: Callable[[], Result]) -> Result:
        """Send what Celery's tracer would send around the task of this node."""
        # Celery's tracer sends them around the message's own attempt; twice would count it twice in metrics.
        if call.is_first:
            return proceed()
        task = self.app.tasks[call.task]
        with requested(task, make_request(call)):
            about = {"task_id": call.task_id, "task": task, "args": (call.run_id,), "kwargs": {}}
            state = states.SUCCESS
            signals.task_prerun.send(sender=task, **about)
            try:
                result = proceed()
                signals.task_success.send(sender=task, result=None)
            except BaseException as error:
                raise_interruption(error)  # a lost attempt has not failed
                state = self._send_failure(task, call, error)
                raise
            finally:
                signals.task_postrun.send(sender=task, retval=None, state=state, **about)
        return result

    def after_node(self, call: NodeCall, outcome: Outcome) -> None:
        """Send what Celery cannot know of a first attempt: it will be tried again, or its failure is tolerated."""
        if call.is_first and outcome.error is not None and outcome.end in {End.PARKED, End.TOLERATED}:
            task = self.app.tasks[call.task]
            if outcome.end is End.PARKED:
                _send_retry(task, call.message, outcome.error)
            else:
                _send_failed(task, call, outcome.error)

    @staticmethod
    def _send_failure(task: Any, call: NodeCall, error: BaseException) -> str:
        if call.will_retry(error):
            _send_retry(task, task.request, error)
            return str(states.RETRY)
        if call.goes_on or not call.is_own:  # else it is raised to Celery when its message ends
            _send_failed(task, call, error)
        return str(states.FAILURE)


def einfo_of(error: BaseException) -> ExceptionInfo:
    """The error as Celery passes it to handlers."""
    einfo = ExceptionInfo((type(error), error, error.__traceback__))
    einfo.traceback = traceback_text(error)
    return einfo


def _send_retry(task: Any, request: Any, error: BaseException) -> None:
    if signals.task_retry.receivers:
        signals.task_retry.send(sender=task, request=request, reason=error, einfo=einfo_of(error))


def _send_failed(task: Any, call: NodeCall, error: BaseException) -> None:
    if signals.task_failure.receivers:
        signals.task_failure.send(
            sender=task,
            task_id=call.task_id,
            exception=error,
            args=(call.run_id,),
            kwargs={},
            traceback=error.__traceback__,
            einfo=einfo_of(error),
        )
