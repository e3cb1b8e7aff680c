"""A long node can say how far it is, and is ended early when it says nothing any more."""

import time
from datetime import timedelta

from orchestrator import FlowBuilder, Node, NodeContext, manual


def copy_rows(ctx: NodeContext) -> str:
    """Copy ten rows; the first attempt hangs after six of them."""
    first = ctx.last_heartbeat or 0
    for row in range(first, 10):
        if row == 6 and ctx.attempt == 1:
            time.sleep(60)
        ctx.heartbeat(row + 1)
    return f"copied rows {first} to 9"


flow = (
    FlowBuilder("copy")
    .triggered_by(manual("guide"))
    .then(Node("copy", copy_rows).with_heartbeat_timeout(timedelta(seconds=1)))
    .build()
)


def test_the_next_attempt_goes_on_where_the_last_report_was(orchestrator):
    """A time limit would have to be as long as the longest copy; silence shows in a second that this one hangs."""
    run = orchestrator.start(flow)
    assert run.result(str, timeout=30) == "copied rows 6 to 9"
    _, hung, *_ = [event for event in run.history() if event.node == "copy"]
    assert hung.error.startswith("orchestrator.errors.NodeTimeout")
