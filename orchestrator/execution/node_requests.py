"""Make the Celery request of one attempt: that of its message, with an id, a retry count and arguments of its own.

Celery makes one request for each message. An attempt behind the message's first one, and a function that is a Celery
task itself, get one here; what the sender put into the headers is in all of them. Celery keeps requests by thread: a
coroutine carries its own into the thread of the event loop.
"""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from celery._state import _task_stack  # Celery's own tracer pushes the running task there
from celery.app.task import Context

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterator

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


class Stepwise:
    """An awaitable that has its task's request in each of its steps, in whichever thread its event loop runs."""

    def __init__(self, awaitable: Awaitable[Any], task: Any, request: Context) -> None:
        self._awaitable = awaitable
        self._task = task
        self._request = request

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._awaitable.__await__()
        step: Callable[[], Any] = partial(next, steps)
        while True:
            try:
                # Around each step, not around all: between two of them the loop's thread runs other attempts, which
                # have their own.
                with requested(self._task, self._request):
                    awaited = step()
            except StopIteration as end:
                return end.value
            try:
                step = partial(steps.send, (yield awaited))
            except BaseException as error:  # noqa: BLE001 - the coroutine's own, a cancellation among them
                step = partial(steps.throw, error)

    def close(self) -> None:
        """Let it never begin, as `close` of a coroutine does."""
        if isinstance(self._awaitable, Coroutine):
            self._awaitable.close()


def with_current_task(awaitable: Awaitable[Any]) -> Awaitable[Any]:
    """Let an awaitable have the request of the task that is the current one in this thread, if there is one."""
    task = _task_stack.top
    return awaitable if task is None else Stepwise(awaitable, task, task.request_stack.top)
