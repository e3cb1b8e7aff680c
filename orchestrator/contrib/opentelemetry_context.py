"""Context of a run's trace for OpenTelemetry, known in every process: ids of spans are made of the run and the node.

A trace begins with the span in which `start` was called, whose `traceparent` the run keeps, or with the run itself.
While a node runs, the span of its attempt is the current one, and spans which its function opens are its children.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from opentelemetry import context, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from orchestrator.errors import StoreError
from orchestrator.middleware import Middleware

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

    from orchestrator.middleware import NodeCall, Result
    from orchestrator.store.run_store import Store

NAME = "orchestrator"
RUNS_KNOWN = 1000


@dataclass(frozen=True)
class RunTrace:
    """The trace of a run since its start, or since one of its resumes.

    Attributes:
        run_id: The run.
        resumed: How often it had been resumed.
        trace_id: The trace.
        flags: Whether it is sampled.
        caller: The span in which it was started, if there was one.
    """

    run_id: str
    resumed: int
    trace_id: int
    flags: TraceFlags
    caller: SpanContext | None

    @property
    def root(self) -> SpanContext:
        """The run's own span."""
        return self.span("run")

    def span(self, *parts: str) -> SpanContext:
        """Return the context of a span of it, which has the same id wherever it is asked for."""
        digest = _digest(self.run_id, str(self.resumed), *parts)
        return SpanContext(self.trace_id, int.from_bytes(digest[:8]), is_remote=True, trace_flags=self.flags)


def run_trace(tracer: Tracer, run_id: str, flow: str, *, resumed: int, traceparent: str = "") -> RunTrace:
    """Return the trace of a run; each resume has one of its own.

    Args:
        tracer: Whose sampler decides about a trace that begins with the run.
        run_id: The run.
        flow: Its flow.
        resumed: How often it has been resumed.
        traceparent: Of the span in which it was started, as the run keeps it.
    """
    caller = None if resumed else _read(traceparent)
    if caller is not None:
        return RunTrace(run_id, resumed, caller.trace_id, caller.trace_flags, caller)
    trace_id = int.from_bytes(_digest(run_id, str(resumed), "trace")[:16])
    sampler: Any = getattr(tracer, "sampler", None)  # of the SDK; the nodes run before the run's own span is made
    is_sampled = sampler is None or sampler.should_sample(None, trace_id, f"flow {flow}").decision.is_sampled()
    flags = TraceFlags(TraceFlags.SAMPLED if is_sampled else TraceFlags.DEFAULT)
    return RunTrace(run_id, resumed, trace_id, flags, None)


def _read(traceparent: str) -> SpanContext | None:
    """The context that a `traceparent` names, if it is one."""
    try:
        _, trace_id, span_id, flags = traceparent.split("-")
        found = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
    except ValueError:
        return None
    return found if found.is_valid else None


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\n".join(parts).encode()).digest()


def below(span: SpanContext) -> Context:
    """Return a context in which a span is the current one."""
    return trace.set_span_in_context(NonRecordingSpan(span), context.Context())


def attributes_of(run_id: str, flow: str, node: str, attempt: int) -> dict[str, str | int]:
    """Return the attributes of the span of an attempt."""
    return {"flow.name": flow, "flow.run_id": run_id, "flow.node": node, "flow.attempt": attempt}


class NodeContexts(Middleware):
    """Makes the span of its attempt the current one while a node runs.

    Args:
        store: Where runs keep what they were started in.
        tracer: Gives the tracer.
    """

    def __init__(self, store: Store, tracer: Callable[[], Tracer]) -> None:
        self._store = store
        self._tracer = tracer
        self._trace_of = lru_cache(maxsize=RUNS_KNOWN)(self._look_up)

    def _look_up(self, run_id: str, flow: str, epoch: int) -> RunTrace:
        with self._store.guarded():
            text = self._store.client.hget(self._store.keys.run(run_id), "traceparent") or b""
        return run_trace(self._tracer(), run_id, flow, resumed=epoch - 1, traceparent=text.decode())

    def around(self, call: NodeCall, proceed: Callable[[], Result]) -> Result:
        """Call the node in the context of its attempt."""
        try:
            run = self._trace_of(call.run_id, call.flow_name, call.epoch)
        except StoreError:  # a trace is not worth a node
            return proceed()
        own = run.span("attempt", call.node_name, str(call.attempt))
        task: Span = trace.get_current_span()  # of an instrumentation of Celery
        if task.is_recording():
            task.add_link(own)
        if is_item(call.node_name) and not call.undoes:
            return self._in_span(call, run, proceed)
        token = context.attach(below(own))
        try:
            return proceed()
        finally:
            context.detach(token)

    def _in_span(self, call: NodeCall, run: RunTrace, proceed: Callable[[], Result]) -> Result:
        """Call an item of a map in a span that is made here: the history of its run does not have it."""
        above = below(map_span(run, call.node_name))
        attributes = attributes_of(call.run_id, call.flow_name, call.node_name, call.attempt)
        name = f"attempt {call.node_name}"
        with self._tracer().start_as_current_span(name, above, attributes=attributes):
            return proceed()


def is_item(node: str) -> bool:
    """Return whether a name is that of an item of a map, or of what undoes it."""
    return node.endswith("]")


def map_span(run: RunTrace, node: str) -> SpanContext:
    """Return the context of the span of a map, by its node or an item of it."""
    return run.span("map", node.partition("[")[0])
