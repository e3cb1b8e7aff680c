"""NodeContext: what a node's function is given, and what it can ask and report."""

import dataclasses
import logging

from orchestrator.definition.context import NodeContext


def context():
    return NodeContext(
        run_id="r", flow_name="f", node_name="n", attempt=1, idempotency_key="k", logger=logging.getLogger("x")
    )


def test_a_context_asks_and_reports():
    seen: list[object] = []
    ctx = dataclasses.replace(context(), ask_cancelled=lambda: True, report=seen.append)
    assert ctx.is_cancelled()
    ctx.heartbeat({"done": 5})
    ctx.heartbeat()
    assert seen == [{"done": 5}, None]


def test_a_context_alone_is_never_cancelled():
    ctx = context()
    assert not ctx.is_cancelled()
    ctx.heartbeat("half")
    assert (ctx.scheduled_for, ctx.page_size) == (None, None)
