"""Flows of every mode whose functions open spans of their own; prints all spans that runs of them come to."""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from celery import Celery
from celery.contrib.testing.worker import start_worker
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from orchestrator import FlowBuilder, Node, NodeContext, Orchestrator, Page, RetryPolicy, Terminal, manual, paginate
from orchestrator.contrib.opentelemetry_runs import RunTraces
from tests.harness import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.sdk.trace import ReadableSpan

    from orchestrator import Flow

URL = os.environ["TEST_REDIS_URL"]
app = Celery("traced", broker=URL, backend=URL)
app.conf.task_default_queue = "traced"
orchestrator = Orchestrator(app)
exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
tracer = provider.get_tracer("user")
RunTraces(orchestrator, provider.get_tracer("orchestrator")).install()
SOON = RetryPolicy(initial_interval=timedelta(milliseconds=50), maximum_attempts=2, jitter=False)


def own(name: str) -> Callable[[], str]:
    """A function that opens a span of the user's."""

    def act() -> str:
        with tracer.start_as_current_span(f"own {name}"):
            return name

    return act


def stumbles(ctx: NodeContext) -> str:
    with tracer.start_as_current_span("own flaky"):
        if ctx.attempt == 1:
            raise ConnectionError("not yet")
        return "flaky"


async def waits() -> str:
    with tracer.start_as_current_span("own async"):
        return "async"


def breaks() -> None:
    with tracer.start_as_current_span("own broken"):
        raise Terminal("for good")


def of_item(number: int) -> int:
    with tracer.start_as_current_span(f"own item[{number}]"):
        return number


def undone(_output: str) -> None:
    own("undo")()


def pages(cursor: str | None) -> Page[int]:
    with tracer.start_as_current_span("own pages"):
        return Page(items=[1], next_cursor=None if cursor else "2")


def begins() -> str:
    return orchestrator.start("two-fused").id


def flows() -> Iterator[Flow]:
    def flow(name: str) -> FlowBuilder:
        return FlowBuilder(name).triggered_by(manual("test"))

    a, b = Node("a", own("a")), Node("b", own("b"))
    flaky, broken = Node("flaky", stumbles).with_retry(SOON), Node("broken", breaks)
    yield flow("single").then(a).then(flaky).then(Node("async", waits)).build()
    yield flow("fused").then(a).then(flaky).then(Node("async", waits)).fused().build()
    yield flow("fan").then_parallel("both", a, b).build()
    yield flow("local").then_parallel("both", a, b, local=True).then(Node("async", waits)).fused().build()
    yield flow("map").then(a).then_map("all", Node("item", of_item), over=lambda _: [0, 1, 2], batch_size=2).build()
    yield flow("undone").then(a.on_error(Node("undo", undone))).then(broken).build()
    yield flow("paged").then(paginate("pages", pages)).build()
    yield flow("two-fused").then(a).then(b).fused().build()
    yield flow("parent").then(Node("begins", begins)).build()


def told(span: ReadableSpan) -> dict[str, object]:
    assert span.context is not None
    return {
        "name": span.name,
        "trace": span.context.trace_id,
        "id": span.context.span_id,
        "parent": span.parent.span_id if span.parent else None,
        "start": span.start_time,
        "end": span.end_time,
        "failed": not span.status.is_ok,
        "links": [link.context.span_id for link in span.links],
        "node": (span.attributes or {}).get("flow.node", ""),
    }


def spans_of(name: str, runs: int) -> list[dict[str, object]]:
    exporter.clear()
    with tracer.start_as_current_span("caller"):
        run = orchestrator.start(name)
        time.sleep(0.001)  # so that its end is behind the start of the run's span
    run.wait(timeout=30)
    wait_until(
        lambda: sum(span.name.startswith("flow ") for span in exporter.get_finished_spans()) == runs, "spans of the run"
    )
    return [told(span) for span in exporter.get_finished_spans()]


def main() -> None:
    with start_worker(app, pool="threads", concurrency=2, perform_ping_check=False, shutdown_timeout=20):
        found = {name: spans_of(name, 2 if name == "parent" else 1) for name in NAMES}
    json.dump(found, sys.stdout)


NAMES = []
for each in flows():
    orchestrator.register(each)
    NAMES.append(each.name)
if __name__ == "__main__":
    main()
