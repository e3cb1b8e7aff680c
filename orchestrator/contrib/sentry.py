"""Report nodes to Sentry as its Celery integration reports tasks: each attempt a transaction, each failure one event.

The integration sees messages. The first attempt of a message is reported by it; attempts behind it are reported here,
in a scope of their own. Active by itself where the Celery integration is; each attempt is tagged with its flow, run,
node and number.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import sentry_sdk
from sentry_sdk import tracing_utils
from sentry_sdk.integrations.celery import CeleryIntegration
from sentry_sdk.scope import Scope, use_isolation_scope
from sentry_sdk.utils import event_from_exception

from orchestrator.liveness.interruption import raise_interruption
from orchestrator.middleware import End, Middleware

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator.middleware import NodeCall, Outcome, Result

OPERATION = "queue.task.celery"

# Of each message: a copy of its scope from before its first node could write into it.
_clean: WeakKeyDictionary[Any, Scope] = WeakKeyDictionary()
# The scope of the message that this context works on, with that copy.
_current: ContextVar[tuple[Scope, Scope] | None] = ContextVar("orchestrator_sentry_scope", default=None)


class SentryNodes(Middleware):
    """Reports what Sentry's Celery integration does not see."""

    def around(self, call: NodeCall, proceed: Callable[[], Result]) -> Result:
        """Call the node in a scope and a transaction of its own."""
        if not _is_active():
            return proceed()
        if call.is_first:
            scope = sentry_sdk.get_isolation_scope()
            _clean[call.message] = scope.fork()
            _current.set((scope, _clean[call.message]))
            _tag(scope, call)
            return proceed()
        with use_isolation_scope(_clean_scope(call).fork()) as own:
            own.clear_breadcrumbs()
            own.add_event_processor(_describe(call))
            _tag(own, call)
            return self._report(call, proceed)

    @staticmethod
    def _report(call: NodeCall, proceed: Callable[[], Result]) -> Result:
        error: BaseException | None = None
        try:
            # An error that left the block would make each status an internal error.
            with _transaction(call) as set_status:
                try:
                    return proceed()
                except BaseException as raised:  # noqa: BLE001 - raised behind the block
                    raise_interruption(raised)
                    error = raised
                    will_retry = call.will_retry(error)
                    set_status("aborted" if will_retry else "internal_error")
                    # Of the message's own node the integration reports what ends the run, when the message ends.
                    if not will_retry and (call.goes_on or not call.is_own):
                        _capture(error)
            raise error
        finally:
            del error  # its traceback has this frame

    def after_node(self, call: NodeCall, outcome: Outcome) -> None:
        """Report a failure that the integration does not see, and let the event of another one name its node."""
        if not call.is_own or outcome.error is None or not _is_active():
            return
        if call.is_first and outcome.end is End.TOLERATED:
            _capture(outcome.error)
        elif outcome.end is End.FAILED:
            _tag(sentry_sdk.get_isolation_scope(), call)


def _is_active() -> bool:
    return sentry_sdk.get_client().get_integration(CeleryIntegration) is not None


def _clean_scope(call: NodeCall) -> Scope:
    """The scope around a message, without what its first node has set; threads of local steps ask too."""
    if call.message not in _clean:
        scope = sentry_sdk.get_isolation_scope()
        known = _current.get()
        # The message of a run that is taken from the queue is worked on in the scope of the message before it.
        _clean[call.message] = known[1] if known is not None and known[0] is scope else scope.fork()
    return _clean[call.message]


def _tag(scope: Scope, call: NodeCall) -> None:
    tags = {"flow": call.flow_name, "run": call.run_id, "node": call.node_name, "attempt": str(call.attempt)}
    for name, value in tags.items():
        scope.set_tag(name, value)


def _describe(call: NodeCall) -> Callable[[Any, Any], Any]:
    """Name the task as the integration does; the copy of the message's scope names that of the message."""

    def process(event: Any, _hint: Any) -> Any:
        event.setdefault("tags", {})["celery_task_id"] = call.task_id
        event.setdefault("extra", {})["celery-job"] = {"task_name": call.task}
        return event

    return process


@contextmanager
def _transaction(call: NodeCall) -> Iterator[Callable[[str], None]]:
    """A transaction that continues the trace of the message; yields what sets its status."""
    headers = getattr(call.message, "headers", None) or {}
    job = {"celery_job": {"task": call.task, "args": [call.run_id], "kwargs": {}}}
    if _is_streaming():
        sentry_sdk.traces.continue_trace(headers)
        Scope.set_custom_sampling_context(job)
        attributes: dict[str, Any] = {
            "sentry.op": OPERATION,
            "sentry.origin": CeleryIntegration.origin,
            "sentry.segment.name.source": "task",
        }
        with sentry_sdk.traces.start_span(name=call.task, attributes=attributes, parent_span=None) as span:
            yield lambda _status: setattr(span, "status", "error")
        return
    continued = sentry_sdk.continue_trace(
        headers, op=OPERATION, name=call.task, source="task", origin=CeleryIntegration.origin
    )
    continued.set_status("ok")
    with sentry_sdk.start_transaction(continued, custom_sampling_context=job) as transaction:
        yield transaction.set_status


def _is_streaming() -> bool:
    """Whether spans are sent one by one, which older releases cannot do."""
    is_enabled = getattr(tracing_utils, "has_span_streaming_enabled", None)
    return is_enabled is not None and bool(is_enabled(sentry_sdk.get_client().options))


def _capture(error: BaseException) -> None:
    event, hint = event_from_exception(
        error,
        client_options=sentry_sdk.get_client().options,
        mechanism={"type": "celery", "handled": False},
    )
    sentry_sdk.capture_event(event, hint=hint)
