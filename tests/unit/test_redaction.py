"""Redaction: fields by name in JSON and in texts, values by what an attempt has read, and nothing else."""

from __future__ import annotations

import json

import pytest

from orchestrator.errors import NodeFailure, RunError
from orchestrator.redaction import HIDDEN, Redaction

CARD = Redaction(["card"])


@pytest.mark.parametrize(
    "text",
    [
        "card=4711-0815",
        "card: 4711-0815, item: lamp",
        "Order(item='lamp', card='4711-0815', count=1)",
        "{'item': 'lamp', 'card': '4711-0815'}",
        '{"card": "4711-0815" and no JSON',
        r"'{\"card\": \"4711-0815\"}' is refused",
        "CARD = 4711-0815",
        "Order(card=Card(number='4711-0815', owner='x'))",
        "card={'number': '4711-0815'}",
        "card=['4711-0815', 'x']",
        r"card='47\'11 4711-0815'",
    ],
)
def test_a_text_loses_what_stands_behind_the_name_of_a_hidden_field(text):
    shown = CARD.text(text)
    assert ("4711" in shown, HIDDEN in shown) == (False, True)


@pytest.mark.parametrize(
    "text", ["no card is left", "discard: all", "card_type=debit", "3 cards", "", "card", "{'card': '[redacted]'}"]
)
def test_a_text_that_only_has_the_name_stays(text):
    assert CARD.text(text) == text


def test_values_that_were_read_under_the_name_are_found_alone_in_a_text():
    knowing = CARD.knowing({"order": [{"card": {"number": "4711", "code": 815, "ok": True, "x": "12"}}]}, None)
    assert knowing.prose("4711 and 815, not 47110 or 12") == f"{HIDDEN} and {HIDDEN}, not 47110 or 12"
    assert knowing.value({"said": "sent 4711", "card": [1]}) == {"said": f"sent {HIDDEN}", "card": HIDDEN}
    assert json.loads(knowing.text('"4711"')) == HIDDEN
    failure = NodeFailure(flow_name="f", node_name="n", attempt=1, type="E", message="4711", traceback="at 4711")
    assert knowing.failure_of(failure.model_dump_json()).message == HIDDEN
    assert "4711" not in knowing.failure(failure).traceback


def test_an_error_is_replaced_only_if_its_text_has_something_to_hide():
    fine, bad = ValueError("none left"), ValueError("card=4711")
    assert CARD.error(fine) is fine
    told = CARD.error(bad)
    assert (type(told), str(told)) == (RunError, f"ValueError: card={HIDDEN}")


def test_without_names_nothing_changes():
    nothing = Redaction([""])
    assert not nothing
    assert nothing.prose("a: b") == nothing.text("a: b") == "a: b"
    assert nothing.value({"a": (1,)}) == {"a": (1,)}
