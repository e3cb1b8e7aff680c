"""Call nodes as tasks of the app: with the hooks of its Task class, and a request for functions that are tasks.

Celery calls `Task.__call__`, `before_start` and their like once for each message, and messages are the engine's own.
Here they are called once for each attempt of a node: those of the node's function if it is a task, else those of the
app's Task class. Where there are none, a node is called as it is.
"""

from __future__ import annotations

import inspect
import logging
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from celery import Task, states
from celery.exceptions import Ignore, Retry
from celery.utils.serialization import raise_with_context

from orchestrator.definition.plan import node_of
from orchestrator.engine import engine_of
from orchestrator.errors import RunError
from orchestrator.execution.celery_signals import einfo_of
from orchestrator.execution.node_requests import Stepwise, make_request, requested, with_current_task
from orchestrator.liveness.interruption import raise_interruption
from orchestrator.middleware import Middleware

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from celery import Celery
    from celery.app.task import Context

    from orchestrator.definition.signature import Contract
    from orchestrator.middleware import NodeCall, Result

logger = logging.getLogger(__name__)
HOOKS = ("__call__", "before_start", "on_success", "on_failure", "on_retry", "after_return")
_NOT_CALLED: Any = object()


class TaskCalls(Middleware):
    """Calls nodes as tasks, where that is more than a plain call."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        # By the name of the node's task: the task that it is called as, and how; None where a plain call will do.
        self._tasks: dict[str, tuple[Any, Callable[..., Any]] | None] = {}

    def around(self, call: NodeCall, proceed: Callable[[], Result]) -> Result:
        """Call a node with the hooks of the task that it is called as."""
        try:
            found = self._tasks[call.task]
        except KeyError:
            task = self._task_of(call)
            found = self._tasks[call.task] = None if task is None else (task, _entry_of(task))
        if found is None:
            return proceed()
        running = Running(*found, make_request(call), proceed)
        with running.entered():
            made: Result = running.call(call)
        return made

    def _task_of(self, call: NodeCall) -> Any:
        node = engine_of(self.app).registry.flows[call.flow_name].nodes.get(node_of(call.node_name))
        if node is not None and isinstance(node.contract.fn, Task):
            return _prepared(node.contract.fn)
        kind = self.app.Task
        task = type(kind.__name__, (AppTask, kind), {"__module__": kind.__module__, "name": call.task})()
        task.bind(self.app)
        return task if any(_is_custom(task, hook) for hook in HOOKS) else None


class AppTask:
    """Mixed into the app's own Task class: runs whatever a node stands for."""

    def run(self, *_: Any, **__: Any) -> Any:
        """Call the node; returns what its function returned."""
        running = _running.get()
        assert running is not None  # noqa: S101 - only `Running.call` calls it
        running.made = running.proceed()
        return running.returned


class Running:
    """One attempt of a node that is called as a task.

    Attributes:
        task: The task.
        entry: Calls the task.
        request: Its request.
        proceed: Calls the node.
        made: What that returned.
        returned: What the node's function returned.
    """

    def __init__(self, task: Any, entry: Callable[..., Any], request: Context, proceed: Callable[[], Any]) -> None:
        self.task = task
        self.entry = entry
        self.request = request
        self.proceed = proceed
        self.made: Any = _NOT_CALLED
        self.returned: Any = None

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be what runs in this context."""
        token = _running.set(self)
        try:
            with requested(self.task, self.request):
                yield
        finally:
            _running.reset(token)

    def call(self, call: NodeCall) -> Any:
        """Call the node, and the hooks behind it; returns what `proceed` returned."""
        try:
            if isinstance(self.task, AppTask):
                self.start(*self.request.args)
            else:  # started where its input is known
                self.made = self.proceed()
            self._refuse_uncalled(call)
        except BaseException as error:
            raise_interruption(error)  # a lost attempt has not failed
            self._end_failed(call, error)
            raise
        # Outside of the `try`: what one of these raises is logged, and must not turn a success into a failure (as in
        # Celery since 5.7, #10759).
        self._hook(call, "on_success", self.returned, *self._about)
        self._hook(call, "after_return", states.SUCCESS, self.returned, *self._about, None)
        return self.made

    def start(self, *args: Any, **kwargs: Any) -> Any:
        """Call the task as Celery's tracer does."""
        self.request.args, self.request.kwargs = args, kwargs
        self.task.before_start(*self._about)
        return self.entry(*args, **kwargs)

    @property
    def _about(self) -> tuple[str, Any, Any]:
        return self.request.id, self.request.args, self.request.kwargs

    def _refuse_uncalled(self, call: NodeCall) -> None:
        if self.made is _NOT_CALLED:
            message = f"{type(self.task).__name__}.__call__ of the app did not call `run`; the node was not called"
            raise RunError(message, flow_name=call.flow_name, run_id=call.run_id, node_name=call.node_name)

    def _end_failed(self, call: NodeCall, error: BaseException) -> None:
        will_retry = call.will_retry(error)
        self._hook(call, "on_retry" if will_retry else "on_failure", error, *self._about, einfo_of(error))
        state = states.RETRY if will_retry else states.FAILURE
        self._hook(call, "after_return", state, error, *self._about, None)

    def _hook(self, call: NodeCall, name: str, *given: Any) -> None:
        try:
            getattr(self.task, name)(*given)
        except Exception:  # as in Celery: how the attempt ended is settled
            where = (call.flow_name, call.run_id, call.node_name)
            logger.exception("flow %s run %s node %s: %s of its task raised; the node is not affected", *where, name)


_running: ContextVar[Running | None] = ContextVar("orchestrator_running", default=None)


class Replaced(Ignore):
    """A task was replaced by a signature, which has been applied in its place."""

    def __init__(self, returned: Any) -> None:
        super().__init__("replaced")
        self.returned = returned


def call_function(contract: Contract, *given: Any, finish: Callable[[Awaitable[Any]], Any]) -> Any:
    """Call a node's function, as a task where it is one.

    Args:
        contract: The function's.
        given: As `Contract.invoke` takes it.
        finish: Waits for what an async function returned.
    """
    running = _running.get()
    if running is None:
        result = contract.invoke(*given)
        return finish(with_current_task(result)) if _is_awaitable(result) else result
    function = None if isinstance(running.task, AppTask) else running.start
    try:
        result = contract.invoke(*given, function=function)
        running.returned = finish(Stepwise(result, running.task, running.request)) if _is_awaitable(result) else result
    except Replaced as replaced:
        running.returned = replaced.returned
    return running.returned


def _is_awaitable(value: Any) -> bool:
    # inspect.isawaitable asks an abstract class, which costs more than the call of a small function.
    return hasattr(type(value), "__await__") or (type(value) is GeneratorType and inspect.isawaitable(value))


def _is_custom(task: Any, hook: str) -> bool:
    """Whether a task has a hook that is not Celery's.

    Celery's own question, `task_has_custom`, takes the guard for one that workers put into `Task.__call__`.
    """
    owner = next(kind for kind in type(task).__mro__ if hook in vars(kind))
    return owner is not Task or not vars(owner)[hook].__module__.startswith("celery.")


def _entry_of(task: Any) -> Callable[..., Any]:
    """What Celery's tracer calls of a task, as its class has it.

    Wrappers on the task itself are left out: autoretry does not apply to nodes, and Sentry's would report attempts that
    are tried again.
    """
    is_custom = _is_custom(task, "__call__")
    function = inspect.getattr_static(type(task), "__call__" if is_custom else "run")
    if is_custom and hasattr(task, "_sentry_is_patched"):
        function = getattr(function, "__wrapped__", function)
    entry: Callable[..., Any] = function.__get__(task, type(task))
    return entry


def _prepared(fn: Any) -> Any:
    """A task that is a node's function: `retry` and `replace` send no message while it runs as one."""
    task = fn._get_current_object() if hasattr(fn, "_get_current_object") else fn  # noqa: SLF001 - Celery's proxies
    # Once: a function that is several nodes, or is looked up again, would be wrapped in its own wrapper.
    if not isinstance(vars(task).get("retry"), partial):
        task.retry = partial(_retry, task, task.retry)
        task.replace = partial(_replace, task, task.replace)
    return task


def _is_node(task: Any) -> bool:
    running = _running.get()
    return running is not None and running.task is task


def _retry(task: Any, retry: Callable[..., Any], *given: Any, **options: Any) -> Any:
    """Fail with the reason: whether the node is tried again, and when, is its own policy's to say."""
    if not _is_node(task):
        return retry(*given, **options)
    error = given[2] if len(given) > 2 else options.get("exc")  # noqa: PLR2004 - args, kwargs, exc
    # As Celery's own `retry` raises when it has run out of retries: the error that is being handled stays its cause.
    return raise_with_context(error or Retry("Task can be retried", None))


def _replace(task: Any, replace: Callable[[Any], Any], sig: Any) -> Any:
    """Apply the signature here, in place of the function: what it returns is the node's output."""
    if not _is_node(task):
        return replace(sig)
    # Celery refuses to wait for a result inside of a task, where it might wait for a worker; this one has been made
    # here, and is there.
    raise Replaced(sig.apply().get(disable_sync_subtasks=False))
