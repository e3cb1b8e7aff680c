"""Name flow, run, node and attempt in the spans that OpenTelemetry's Celery instrumentation makes of nodes.

The instrumentation listens to Celery's task signals, which are sent for every attempt, so that each has a span. Active
by itself where the instrumentation is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import trace

from orchestrator.middleware import Middleware

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.middleware import NodeCall, Result


class NodeSpans(Middleware):
    """Adds attributes to the span of each attempt."""

    def around(self, call: NodeCall, proceed: Callable[[], Result]) -> Result:
        """Call the node with its span described."""
        span = trace.get_current_span()
        if span.is_recording():
            span.set_attributes(
                {
                    "flow.name": call.flow_name,
                    "flow.run_id": call.run_id,
                    "flow.node": call.node_name,
                    "flow.attempt": call.attempt,
                }
            )
        return proceed()
