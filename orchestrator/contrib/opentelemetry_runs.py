"""Traces of runs for OpenTelemetry: spans of the run, its steps, attempts and waits, in every mode alike.

A run outlives the processes that work on it, so that none of them can hold its span open. The leading worker makes the
spans of a run that has ended, of its history, with the ids that `opentelemetry_context` has given them beforehand.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry import context, trace
from opentelemetry.trace import Status, StatusCode

from orchestrator import hooks
from orchestrator.contrib.opentelemetry_context import (
    NAME,
    NodeContexts,
    attributes_of,
    below,
    is_item,
    map_span,
    run_trace,
)
from orchestrator.definition.plan import node_of
from orchestrator.definition.priority import count_of
from orchestrator.definition.state import RunStatus
from orchestrator.engine import engine_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from opentelemetry.trace import Span, SpanContext, Tracer

    from orchestrator.client import Orchestrator
    from orchestrator.contrib.opentelemetry_context import RunTrace
    from orchestrator.definition.plan import Plan
    from orchestrator.store.history import Event
    from orchestrator.store.run_store import RunRecord

RESUMED = "resumed"
FAILED = {"failed", "unknown", "compensation_failed", "lost", "timed-out", "retrying", "paused"}
WAITS = {"retrying", "waiting", "throttled", "paused"}
"""Events behind which a node waits until its next attempt starts."""
UNDER_WAY = {"page"}


class RunTraces:
    """Sends the trace of each run that has ended, and gives nodes the context of their attempt.

    Args:
        orchestrator: Whose runs.
        tracer: Default: the global one.

    Example:
        >>> RunTraces(orchestrator).install()  # doctest: +SKIP
    """

    def __init__(self, orchestrator: Orchestrator, tracer: Tracer | None = None) -> None:
        self._engine = engine_of(orchestrator.app)
        self._orchestrator = orchestrator
        self._given = tracer

    @property
    def tracer(self) -> Tracer:
        """The tracer; the global one may be set up later, or anew behind a fork."""
        return self._given or trace.get_tracer(NAME)

    def install(self) -> None:
        """Begin, in a module that the workers import: connects the hook, and wraps the nodes of this process."""
        contexts = NodeContexts(self._engine.store, lambda: self.tracer)
        self._engine.middlewares.install(contexts, inside=hooks.HookCalls)
        hooks.run_finished.connect(self)

    def context_of(self, run_id: str) -> SpanContext:
        """Return the context of a run's span, since it was last resumed, for a link to it.

        Raises:
            UnknownRun: There is no such run.
        """
        return self._trace_of(self._engine.store.run(run_id)).root

    def __call__(self, run_id: str, **_: object) -> None:
        """Send the trace of a run; a receiver of `hooks.run_finished`.

        Raises:
            UnknownRun: Its record is gone.
        """
        store = self._engine.store
        record = store.run(run_id)
        plan = store.plan(record.plan)
        events = _since_resumed(self._orchestrator.get(run_id).history())
        if plan is None or record.finished is None or not events:
            return
        _Sender(self.tracer, self._trace_of(record), record).send(plan, events, record.finished)

    def _trace_of(self, record: RunRecord) -> RunTrace:
        return _trace(self.tracer, record, resumed=count_of(record.epoch) - 1)


def _trace(tracer: Tracer, record: RunRecord, *, resumed: int) -> RunTrace:
    given = record.fields.get("traceparent", "")
    return run_trace(tracer, record.run_id, record.flow, resumed=resumed, traceparent=given)


class _GivenIds:
    """Gives the next span an id that was fixed beforehand; in the manner of the SDK's `IdGenerator`."""

    def __init__(self, ordinary: Any) -> None:
        self._ordinary = ordinary
        self.next: SpanContext | None = None

    def generate_span_id(self) -> int:
        given, self.next = self.next, None
        return given.span_id if given else int(self._ordinary.generate_span_id())

    def generate_trace_id(self) -> int:
        return self.next.trace_id if self.next else int(self._ordinary.generate_trace_id())

    def is_trace_id_random(self) -> bool:
        return True


class _Sender:
    """Sends the spans of one run."""

    def __init__(self, tracer: Tracer, run: RunTrace, record: RunRecord) -> None:
        # The API has no way to choose an id. A tracer that is not the SDK's gives spans ids of its own: then those of
        # nodes' functions are in the same trace, beside the attempts.
        own: Any = copy.copy(tracer)
        self._ids = _GivenIds(getattr(own, "id_generator", None))
        if hasattr(own, "id_generator"):
            own.id_generator = self._ids
        self._tracer: Tracer = own
        self._run = run
        self._record = record

    def send(self, plan: Plan, events: list[Event], finished: datetime) -> None:
        """Send a run's spans: its own, and below that those of its steps with their attempts and waits."""
        record, run = self._record, self._run
        before = [_trace(self._tracer, record, resumed=run.resumed - 1).root] if run.resumed else []
        above = below(run.caller) if run.caller else context.Context()
        attributes = {"flow.name": record.flow, "flow.run_id": record.run_id, "flow.status": str(record.status)}
        links = [trace.Link(each) for each in before]
        root = self._start(f"flow {record.flow}", above, events[0].at, id=run.root, links=links, attributes=attributes)
        for step in _steps(plan, events, finished):
            self._send_step(root, step)
        if record.status is not RunStatus.SUCCEEDED:
            root.set_status(Status(StatusCode.ERROR, str(record.error or record.status)))
        root.end(_ns(finished))

    def _send_step(self, root: Span, step: Step) -> None:
        own = map_span(self._run, step.map_node) if step.map_node else None
        span = self._start(f"step {step.name}", trace.set_span_in_context(root), step.begin, id=own)
        above = trace.set_span_in_context(span)
        for part in step.parts:
            own = self._run.span("attempt", part.node, str(part.attempt)) if part.is_attempt else None
            attributes = attributes_of(self._record.run_id, self._record.flow, part.node, part.attempt)
            inner = self._start(part.title, above, part.begin, id=own, attributes=attributes)
            if part.outcome in FAILED:
                inner.set_status(Status(StatusCode.ERROR, part.outcome))
            inner.end(_ns(part.end))
        span.end(_ns(step.end))

    def _start(self, name: str, above: Any, begin: datetime, *, id: SpanContext | None, **options: Any) -> Span:
        self._ids.next = id
        span: Span = self._tracer.start_span(name, above, start_time=_ns(begin), **options)
        return span


@dataclass(frozen=True)
class Part:
    """An attempt of a node, or its wait for one.

    Attributes:
        is_attempt: Whether it is an attempt.
        node: The node.
        attempt: Its number.
        begin: When it began.
        end: When it ended.
        outcome: The event that ended it.
    """

    is_attempt: bool
    node: str
    attempt: int
    begin: datetime
    end: datetime
    outcome: str

    @property
    def title(self) -> str:
        """The name of its span."""
        return f"{'attempt' if self.is_attempt else 'wait'} {self.node}"


@dataclass(frozen=True)
class Step:
    """A step that ran, with its parts in order of their begin; of a map, whose parts are not known, its node."""

    name: str
    begin: datetime
    end: datetime
    parts: list[Part]
    map_node: str = ""


def _since_resumed(events: list[Event]) -> list[Event]:
    last = max((place for place, event in enumerate(events) if event.event == RESUMED), default=0)
    return events[last:]


def _steps(plan: Plan, events: list[Event], finished: datetime) -> Iterator[Step]:
    """Yield the steps that ran, by the begin of their first part."""
    found: dict[str, list[Part]] = {}
    for part in sorted(_parts(plan, events), key=lambda part: part.begin):
        node = plan.nodes.get(node_of(part.node))
        is_undo = node is None or node.kind == "compensation"
        found.setdefault("compensation" if is_undo or node is None else plan.steps[node.step].name, []).append(part)
    for name, parts in found.items():
        yield Step(name, parts[0].begin, max(part.end for part in parts), parts)
    yield from _maps(plan, events, finished)


def _maps(plan: Plan, events: list[Event], finished: datetime) -> Iterator[Step]:
    """Yield the maps that ran, each from the end of what gives its items to the begin of what follows it."""
    maps = {step.source: step for step in plan.steps if step.source}
    for place, event in enumerate(events):
        step = maps.get(event.node) if event.event == "succeeded" else None
        if step is not None:
            later = (each for each in events[place + 1 :] if not is_item(each.node))
            end = next((each.at for each in later if each.event in {"started", "run-ending"}), finished)
            yield Step(step.name, event.at, end, [], map_node=step.nodes[0])


def _parts(plan: Plan, events: list[Event]) -> Iterator[Part]:
    started: dict[str, Event] = {}
    waits: dict[str, Event] = {}
    for event in events:
        node = event.node
        of = plan.nodes.get(node_of(node))
        if not node or event.event in UNDER_WAY or of is None or (is_item(node) and of.kind != "compensation"):
            continue
        if event.event == "started":
            if wait := waits.pop(node, None):
                yield Part(False, node, event.attempt, wait.at, event.at, "started")  # noqa: FBT003 - the first field
            started.setdefault(node, event)  # of a paginated node's later attempts, each page says so
            continue
        if begun := started.pop(node, None):
            yield Part(True, node, begun.attempt, begun.at, event.at, event.event)  # noqa: FBT003 - as above
        if event.event in WAITS:
            waits[node] = event


def _ns(instant: datetime) -> int:
    return round(instant.timestamp() * 1_000_000) * 1000
