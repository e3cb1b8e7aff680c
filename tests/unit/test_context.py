"""NodeContext: what a node's function is given, and what it can ask and report."""

import dataclasses
import logging
from dataclasses import dataclass

import pytest
from pydantic import BaseModel

from orchestrator.definition.context import AttemptLogger, NodeContext
from orchestrator.redaction import Redaction


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


class Card(BaseModel):
    number: str = "0815"


@dataclass
class Order:
    item: str = "lamp"
    number: str = "0815"
    at: object = None


SHOWN = [
    (("paid by %s", {"number": "0815", "name": "x"}), "paid by {'number': '[redacted]', 'name': 'x'}"),
    (("paid by %(number)s, %(name)s", {"number": "0815", "name": "x"}), "paid by [redacted], x"),
    (("all: %s", [{"Number": "0815"}, 1]), "all: [{'Number': '[redacted]'}, 1]"),
    (("card %s", Card()), "card {'number': '[redacted]'}"),
    (
        ("order %s", Order(at=(Card(),))),
        "order {'item': 'lamp', 'number': '[redacted]', 'at': ({'number': '[redacted]'},)}",
    ),
    (("json %s", '{"number": "0815"}'), 'json {"number": "[redacted]"}'),
    (('{"number": "0815"}',), '{"number": "[redacted]"}'),
    (({"number": "0815"},), "{'number': '[redacted]'}"),
    (("%d of %s: %s", 5, "it", '{"item":1}'), '5 of it: {"item":1}'),
    (("[no json",), "[no json"),
]


@pytest.mark.parametrize(("given", "shown"), SHOWN)
def test_fields_that_are_never_shown_are_hidden_in_what_is_logged_and_kept(caplog, given, shown):
    kept = []
    hide = Redaction(["number"]).argument
    logger = AttemptLogger(logging.getLogger("x"), {"run": "r"}, lambda _level, text: kept.append(text), hide)
    with caplog.at_level(logging.INFO, "x"):
        logger.info(*given, extra={"number": "0815", "more": {"number": "0815"}, "name_": "x"})
    (record,) = caplog.records
    assert [record.getMessage()] == kept == [shown]
    assert (record.number, record.more, record.name_) == ("[redacted]", {"number": "[redacted]"}, "x")


def test_what_hides_nothing_is_logged_as_it_is():
    for value in (Card(), Order(), {"number": 1}, [1], (), "{", '{"a":1}', None, 1.5, Card):
        assert Redaction([]).argument(value) is value
        assert Redaction(["other"]).argument(value) is value
