"""Traces of runs: their spans, errors and links, for a task a node, a fused flow and a parallel step."""

from __future__ import annotations

from datetime import timedelta

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from orchestrator import hooks
from orchestrator.contrib.opentelemetry_context import run_trace
from orchestrator.contrib.opentelemetry_runs import RunTraces


class Traced:
    """What the traces of a program's runs come to."""

    def __init__(self, orchestrator) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = provider.get_tracer("test")
        self.orchestrator = orchestrator
        self.send = RunTraces(orchestrator, self.tracer)

    def spans(self, run):
        self.exporter.clear()
        self.send(run_id=run.id, flow_name=run.flow_name, status=str(run.status))
        return {span.name: span for span in self.exporter.get_finished_spans()}


@pytest.fixture(scope="module")
def traced(sample):
    return Traced(sample.orchestrator)


def start(traced, flow, given=None):
    run = traced.orchestrator.start(flow, given)
    run.wait(timedelta(seconds=30))
    return run


def test_a_run_is_one_trace_with_a_span_for_each_step_and_attempt(traced):
    run = start(traced, "two-fans")
    spans = traced.spans(run)
    assert {span.context.trace_id for span in spans.values()} == {traced.send.context_of(run.id).trace_id}
    assert {"flow two-fans", "step first-fan", "step second-fan", "attempt first-0", "attempt joined"} <= set(spans)
    root, step, attempt = (spans[name] for name in ("flow two-fans", "step first-fan", "attempt first-0"))
    assert (step.parent.span_id, attempt.parent.span_id) == (root.context.span_id, step.context.span_id)
    assert (root.parent, root.context.span_id) == (None, traced.send.context_of(run.id).span_id)
    assert (
        root.start_time <= step.start_time <= attempt.start_time <= attempt.end_time <= step.end_time <= root.end_time
    )
    assert dict(attempt.attributes)["flow.node"] == "first-0"
    assert root.status.is_ok


def test_the_hook_of_runs_that_have_finished_sends_it(traced):
    run = start(traced, "two-fans")
    traced.exporter.clear()
    hooks.run_finished.connect(traced.send)
    try:
        hooks.run_finished.send(run_id=run.id, flow_name="two-fans", status="succeeded")
    finally:
        hooks.run_finished.disconnect(traced.send)
    assert "flow two-fans" in [span.name for span in traced.exporter.get_finished_spans()]


def test_a_failed_attempt_and_the_wait_behind_it_are_spans_of_their_own(traced):
    run = start(traced, "retries")
    traced.exporter.clear()
    traced.send(run_id=run.id)
    spans = traced.exporter.get_finished_spans()
    attempts = sorted(span.attributes["flow.attempt"] for span in spans if span.name.startswith("attempt "))
    assert attempts == [1, 2, 3]
    assert len([span for span in spans if span.name.startswith("wait ")]) == 2
    assert [span.status.is_ok for span in spans if span.name.startswith("attempt ")] == [False, False, True]


def test_a_run_that_failed_says_why_and_is_linked_to_after_it_was_resumed(traced):
    run = start(traced, "terminal")
    spans = traced.spans(run)
    root = spans["flow terminal"]
    assert not root.status.is_ok
    assert root.status.description
    run.resume()
    run.wait(timedelta(seconds=30))
    again = traced.spans(run)["flow terminal"]
    assert again.context.trace_id != root.context.trace_id
    assert [link.context.trace_id for link in again.links] == [root.context.trace_id]


def test_the_caller_is_the_parent_of_the_run_that_it_starts(traced):
    with traced.tracer.start_as_current_span("caller") as caller:
        run = start(traced, "two-fans")
    root = traced.spans(run)["flow two-fans"]
    assert (root.context.trace_id, root.parent.span_id) == (
        caller.get_span_context().trace_id,
        caller.get_span_context().span_id,
    )
    assert traced.send.context_of(run.id).span_id == root.context.span_id


def test_a_trace_that_is_not_sampled_is_not_sent(traced):
    silent = RunTraces(traced.orchestrator, TracerProvider(sampler=ALWAYS_OFF).get_tracer("test"))
    run = start(traced, "two-fans")
    assert not silent.context_of(run.id).trace_flags.sampled
    unsampled = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(TraceFlags.DEFAULT))
    with trace.use_span(NonRecordingSpan(unsampled)):
        run = start(traced, "two-fans")
    assert traced.spans(run) == {}


def test_what_is_no_traceparent_begins_a_trace(traced):
    for text in ("", "00-1-2", "00-zz-11-01", f"00-{0:032x}-{0:016x}-01"):
        assert run_trace(traced.tracer, "run", "flow", resumed=0, traceparent=text).caller is None
