"""Make the Celery request of one attempt: that of its message, with an id, a retry count and arguments of its own.

Celery makes one request for each message. An attempt behind the message's first one, and a function that is a Celery
task itself, get one here; what the sender put into the headers is in all of them.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery._state import _task_stack  # Celery's own tracer pushes the running task there
from celery.app.task import Context

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.middleware import NodeCall

# The canvas around a message is the flow's; a task that used it would send parts of the flow once more.
CANVAS = dict.fromkeys(("callbacks", "errbacks", "chain", "chord", "group", "group_index", "reply_to", "_children"))


def make_request(call: NodeCall) -> Context:
    """The request of an attempt, as Celery makes one of a message."""
    message = vars(call.message) if call.message is not None else {}
    return Context(
        message,
        **CANVAS,
        id=call.task_id,
        correlation_id=call.task_id,
        root_id=call.run_id,
        parent_id=call.run_id,
        task=call.task,
        args=(call.run_id,),
        kwargs={},
        retries=call.attempt - 1,
        called_directly=False,
        headers=dict(message.get("headers") or {}),
        _protected=0,  # Celery's mark that a `Task.__call__` of the user's has gone on to Celery's
    )


@contextmanager
def requested(task: Any, request: Context) -> Iterator[None]:
    """Let a task have a request, and be the current task, as while Celery traces it."""
    _task_stack.push(task)
    task.request_stack.push(request)
    try:
        yield
    finally:
        task.request_stack.pop()
        _task_stack.pop()
