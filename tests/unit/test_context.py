"""NodeContext: what a node's function is given, and what it can ask and report."""

import dataclasses
import logging

import pytest

from orchestrator.definition.context import AttemptLogger, NodeContext


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


@pytest.mark.parametrize(
    ("extra", "seen"),
    [
        ({"order": 5}, {"run": "r", "node": "n", "order": 5}),
        ({"node": "of the caller"}, {"run": "r", "node": "of the caller"}),
        (None, {"run": "r", "node": "n"}),
    ],
)
def test_a_line_keeps_its_own_extra_beside_that_of_the_attempt(caplog, extra, seen):
    logger = AttemptLogger(logging.getLogger("x"), {"run": "r", "node": "n"})
    with caplog.at_level(logging.INFO, "x"):
        logger.info("order %d", 5, extra=extra)
    (record,) = caplog.records
    assert record.getMessage() == "order 5"
    assert vars(record).items() >= seen.items()
