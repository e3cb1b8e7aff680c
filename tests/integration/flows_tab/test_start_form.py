"""The box that starts a run: what is typed is checked by the server, and kept where it is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from html import escape, unescape

import pytest

START = "/flows/flow/import-catalogue/start"


def test_a_run_is_started_from_a_box_that_the_server_checks(flower, program):
    refused = flower.post(START, {"input": '"many"', "key": "", "tags": ""})
    assert refused.status == 422
    assert "valid integer" in refused.text
    assert "&quot;many&quot;" in refused.text  # what was typed is still there
    broken = flower.post(START, {"input": "{", "key": "", "tags": ""})
    assert "no JSON" in broken.text
    started = flower.post(START, {"input": "3", "key": "k-1", "tags": "by=me"})
    assert started.status == 303
    run = program.orchestrator.get(started.headers["Location"].rpartition("/")[2])
    assert dict(run.tags) == {"by": "me"}
    again = flower.post(START, {"input": "3", "key": "k-1", "tags": "by=me"})
    assert again.headers["Location"] == started.headers["Location"]


def test_a_run_is_started_later_and_with_a_priority(flower, program):
    started = flower.post(START, {"input": "3", "delay": "3600", "priority": " 3 "})
    assert started.status == 303
    run = program.orchestrator.get(started.headers["Location"].rpartition("/")[2])
    assert run.show().run.priority == 3
    waiting = run.explain()[0]
    assert timedelta(minutes=59) < waiting.until - datetime.now(UTC) <= timedelta(hours=1)
    plain = flower.post(START, {"input": "3", "delay": "", "priority": ""})
    assert program.orchestrator.get(plain.headers["Location"].rpartition("/")[2]).show().run.priority is None


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"delay": "soon<b>"}, "Begin in 'soon<b>': give a number of seconds"),
        ({"delay": "nan"}, "Begin in 'nan': give a number of seconds"),
        ({"delay": "1e300"}, "Begin in '1e300': give a number of seconds"),
        ({"delay": "-1"}, "the delay is -1 s; use at least a millisecond, or 0"),
        ({"delay": "1e10"}, "the delay is 115740 days; use at most 36500"),
        ({"priority": "high"}, "The priority is 'high': give a whole number"),
        ({"priority": "1.5"}, "The priority is '1.5': give a whole number"),
        ({"priority": "-1"}, "the priority is -1; use a whole number from 0 to 9"),
        ({"priority": "300"}, "the priority is 300; use a whole number from 0 to 9"),
    ],
)
def test_a_delay_and_a_priority_are_checked_and_kept(flower, program, typed, said):
    before = [row.id for row in program.orchestrator.runs(flow="import-catalogue").rows]
    refused = flower.post(START, {"input": "3", "key": "k"} | typed)
    assert refused.status == 422
    assert said in unescape(refused.text)
    assert "<b>" not in refused.text
    ((name, text),) = typed.items()
    assert f'name="{name}" value="{escape(text)}"' in refused.text
    assert 'name="key" value="k"' in refused.text
    assert [row.id for row in program.orchestrator.runs(flow="import-catalogue").rows] == before
