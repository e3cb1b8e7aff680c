"""A project with Sentry, OpenTelemetry's Celery instrumentation and structlog, as their documentation sets them up."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import structlog
from celery import Celery, Task, signals

from orchestrator import FlowBuilder, Node, NodeContext, Orchestrator, RetryPolicy, Terminal, manual
from tests.harness import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator import Flow

URL = os.environ["TEST_REDIS_URL"]
LEDGER = Ledger(URL)

if "TEST_OBSERVED" in os.environ:  # in the worker; the process of the tests has other programs, too
    import sentry_sdk
    from opentelemetry import trace
    from opentelemetry.instrumentation.celery import CeleryInstrumentor
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
    from sentry_sdk.integrations.celery import CeleryIntegration
    from sentry_sdk.transport import Transport

    class ToLedger(Transport):
        def capture_envelope(self, envelope: Any) -> None:
            for item in envelope.items:
                event: Any = item.get_event() or item.get_transaction_event() or {}
                values = (event.get("exception") or {}).get("values") or [{}]
                status = ((event.get("contexts") or {}).get("trace") or {}).get("status")
                tags = dict(event.get("tags") or {})
                line = [item.type, event.get("transaction"), values[-1].get("value"), status, tags]
                LEDGER.note("sentry", json.dumps(line))

    class Exporter(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            for span in spans:
                self.note(span)
            return SpanExportResult.SUCCESS

        @staticmethod
        def note(span: ReadableSpan) -> None:
            attributes = {name: value for name, value in (span.attributes or {}).items() if name.startswith("flow.")}
            trace_id = span.context.trace_id if span.context else 0
            line = [span.name, span.status.status_code.name, attributes, f"{trace_id:032x}"]
            LEDGER.note("span", json.dumps(line))

    sentry_sdk.init(
        dsn="http://public@127.0.0.1:9/1",
        transport=ToLedger,
        traces_sample_rate=1.0,
        integrations=[CeleryIntegration(propagate_traces=True)],
    )
    sentry_sdk.set_tag("service", "observed")
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Exporter()))
    trace.set_tracer_provider(provider)
    CeleryInstrumentor().instrument()

    @signals.task_prerun.connect
    def bind(task: Task, task_id: str, **_: Any) -> None:
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(task_id=task_id, task=task.name)


app = Celery("observed", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
app.conf.task_default_queue = "observed"
orchestrator = Orchestrator(app)
ONCE = RetryPolicy(maximum_attempts=1)
SOON = RetryPolicy(initial_interval=timedelta(milliseconds=50), maximum_attempts=2, jitter=False)


class Base(Task):
    """A base class whose tasks Sentry wraps where they are called."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)


def bound() -> str:
    """The task that structlog's context says this is; leaves a mark that no other node may have."""
    if "TEST_OBSERVED" in os.environ:
        sentry_sdk.set_tag("left", "behind")
    return str(structlog.contextvars.get_contextvars().get("task"))


def stumbles(ctx: NodeContext) -> str:
    if ctx.attempt == 1:
        raise ConnectionError("not yet")
    return bound()


@app.task(base=Base)
def task() -> str:
    return bound()


@app.task(base=Base, bind=True)
def stumbling(self: Task) -> str:
    if self.request.retries == 0:
        raise ConnectionError("not yet")
    return bound()


def refuses() -> None:
    raise Terminal("for good")


def picky(number: int) -> int:
    if number == 1:
        raise Terminal("not that one")
    return number


a, b = Node("a", bound), Node("b", bound)
flaky, broken = Node("flaky", stumbles).with_retry(SOON), Node("broken", refuses)
undo = Node("undo", bound)
item = Node("item", picky)


def flows(*, is_fused: bool) -> Iterator[Flow]:
    """The flows of the project, and once more as fused ones."""

    def flow(name: str) -> FlowBuilder:
        builder = FlowBuilder(f"{name}-fused" if is_fused else name).triggered_by(manual("test"))
        return builder.fused() if is_fused else builder

    left, right = Node("l", bound), Node("r", bound)
    yield flow("good").then(a).then_parallel("both", left, right, local=is_fused).then(flaky).build()
    yield flow("tasks").then(a).then(Node("task", task)).then(Node("again", stumbling).with_retry(SOON)).build()
    yield flow("bad").then(a.on_error(undo)).then(broken).build()
    yield flow("first").then(broken).build()
    yield flow("excused").then_parallel("both", a, broken, on_failure="continue", local=is_fused).then(b).build()
    yield flow("ends").then_map("all", item, over=lambda _: [0, 1, 2], batch_size=3).build()
    yield flow("picks").then_map("all", item, over=lambda _: [0, 1, 2], batch_size=3, on_failure="continue").build()
    yield flow("short").then(a).then(b).build()


for built in (*flows(is_fused=False), *flows(is_fused=True)):
    orchestrator.register(built)
