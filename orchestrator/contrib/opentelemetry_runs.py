"""Traces of runs for OpenTelemetry: one for each run, made of its history when it has ended, in every mode alike.

A run outlives the processes that work on it, so that none of them can hold its span open. The trace's id is made of the
run's id and of how often it was resumed: who knows a run can link to its trace, and nothing of it is stored.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags

from orchestrator.definition.plan import node_of
from orchestrator.definition.state import RunStatus
from orchestrator.engine import engine_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from opentelemetry.trace import Span, Tracer

    from orchestrator.client import Orchestrator
    from orchestrator.definition.plan import Plan
    from orchestrator.runs import Event
    from orchestrator.store.run_store import RunRecord

NAME = "orchestrator"
RESUMED = "resumed"
FAILED = {"failed", "unknown", "compensation_failed", "lost", "timed-out", "retrying"}
WAITS = {"retrying", "waiting", "throttled"}
"""Events behind which a node waits until its next attempt starts."""


def trace_of(run_id: str, *, resumed: int = 0) -> SpanContext:
    """Return the context that the spans of a run are below, for a link to its trace.

    Args:
        run_id: The run.
        resumed: How often it had been resumed; each time has a trace of its own.
    """
    digest = hashlib.sha256(f"{run_id}\n{resumed}".encode()).digest()
    ids = int.from_bytes(digest[:16]), int.from_bytes(digest[16:24])
    return SpanContext(*ids, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def link_run(run_id: str) -> None:
    """Link the span that is open here to the trace of a run that it has started."""
    span = trace.get_current_span()
    if span.is_recording():
        span.add_link(trace_of(run_id), {"flow.run_id": run_id})


class RunTraces:
    """Sends the trace of a run that has ended; to be connected to `hooks.run_finished`.

    Args:
        orchestrator: Whose runs.
        tracer: Default: the global one.
    """

    def __init__(self, orchestrator: Orchestrator, tracer: Tracer | None = None) -> None:
        self._orchestrator = orchestrator
        self._tracer = tracer or trace.get_tracer(NAME)

    def __call__(self, run_id: str, **_: object) -> None:
        """Send the trace of a run: spans of the run, of its steps, and of their attempts and waits.

        Raises:
            UnknownRun: Its record is gone.
        """
        store = engine_of(self._orchestrator.app).store
        record = store.run(run_id)
        plan = store.plan(record.plan)
        events = _since_resumed(self._orchestrator.get(run_id).history())
        if plan is None or record.finished is None or not events:
            return
        resumed = record.epoch - 1
        links = [trace.Link(trace_of(run_id, resumed=resumed - 1))] if resumed else []
        above = trace.set_span_in_context(NonRecordingSpan(trace_of(run_id, resumed=resumed)))
        attributes = {"flow.name": record.flow, "flow.run_id": run_id, "flow.status": str(record.status)}
        root = self._tracer.start_span(
            f"flow {record.flow}", above, links=links, start_time=_ns(events[0].at), attributes=attributes
        )
        for step in _steps(plan, events):
            self._send_step(root, step, record)
        if record.status is not RunStatus.SUCCEEDED:
            root.set_status(Status(StatusCode.ERROR, str(record.error or record.status)))
        root.end(_ns(record.finished))

    def _send_step(self, root: Span, step: Step, record: RunRecord) -> None:
        span = self._tracer.start_span(
            f"step {step.name}", trace.set_span_in_context(root), start_time=_ns(step.parts[0].begin)
        )
        above = trace.set_span_in_context(span)
        for part in step.parts:
            attributes: dict[str, str | int] = {
                "flow.name": record.flow,
                "flow.run_id": record.run_id,
                "flow.node": part.node,
                "flow.attempt": part.attempt,
            }
            inner = self._tracer.start_span(part.title, above, start_time=_ns(part.begin), attributes=attributes)
            if part.outcome in FAILED:
                inner.set_status(Status(StatusCode.ERROR, part.outcome))
            inner.end(_ns(part.end))
        span.end(_ns(max(part.end for part in step.parts)))


@dataclass(frozen=True)
class Part:
    """An attempt of a node, or its wait for one.

    Attributes:
        title: "attempt" or "wait" with the node's name.
        node: The node.
        attempt: Its number.
        begin: When it began.
        end: When it ended.
        outcome: The event that ended it.
    """

    title: str
    node: str
    attempt: int
    begin: datetime
    end: datetime
    outcome: str


@dataclass(frozen=True)
class Step:
    """The parts of one step, in order of their begin."""

    name: str
    parts: list[Part]


def _since_resumed(events: list[Event]) -> list[Event]:
    last = max((place for place, event in enumerate(events) if event.event == RESUMED), default=0)
    return events[last:]


def _steps(plan: Plan, events: list[Event]) -> Iterator[Step]:
    """Yield the steps that ran, by the begin of their first part."""
    found: dict[str, list[Part]] = {}
    for part in sorted(_parts(events), key=lambda part: part.begin):
        node = plan.nodes.get(node_of(part.node))
        is_undo = node is None or node.kind == "compensation"
        found.setdefault("compensation" if is_undo or node is None else plan.steps[node.step].name, []).append(part)
    yield from (Step(name, parts) for name, parts in found.items())


def _parts(events: list[Event]) -> Iterator[Part]:
    started: dict[str, Event] = {}
    waits: dict[str, Event] = {}
    for event in events:
        node = event.node
        if not node:
            continue
        if event.event == "started":
            if wait := waits.pop(node, None):
                yield Part(f"wait {node}", node, event.attempt, wait.at, event.at, "started")
            started[node] = event
            continue
        if begun := started.pop(node, None):
            yield Part(f"attempt {node}", node, begun.attempt, begun.at, event.at, event.event)
        if event.event in WAITS:
            waits[node] = event


def _ns(instant: datetime) -> int:
    return round(instant.timestamp() * 1_000_000) * 1000
