"""Texts and filters of the Flows tab."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import orchestrator.web
from orchestrator.web import texts
from orchestrator.web.listing import BadFilterError, Filters, read_instant, read_tags

AT = datetime(2026, 1, 31, 8, 5, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 ms"),
        (0.0124, "12 ms"),
        (0.2, "0.20 s"),
        (3.44, "3.4 s"),
        (12.4, "12 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (3600 * 4 + 65, "4 h 1 min"),
        (86400 * 2 + 3600 * 5, "2 d 5 h"),
        (86400 * 4000, "4000 d"),
        (-3, "0 ms"),
    ],
)
def test_lengths_of_time(seconds, said):
    assert texts.lasted(seconds) == said
    assert texts.lasted(timedelta(seconds=seconds)) == said


def test_spans_of_rates():
    spans = (timedelta(seconds=1), timedelta(hours=1), timedelta(minutes=10))
    assert [texts.every(span) for span in spans] == ["a second", "an hour", "in 10 min"]


def test_no_length_is_no_text():
    assert texts.lasted(None) == ""


def test_hidden_characters_are_shown_and_line_breaks_stay():
    assert texts.visible("a\u202eb\x00c\x1b[31m\n\td") == "a\\u202eb\\u0000c\\u001b[31m\n\td"


def test_an_error_is_told_without_the_place_that_the_page_names():
    assert texts.error_text("it took 300 s [flow a, run b, node c, attempt 3]") == "it took 300 s"
    assert texts.error_text("no [flow a, run b, node c[7], attempt 3]") == "no"
    assert texts.error_text("it was cut [flow a, run 7c") == "it was cut"
    assert texts.error_text("429 (after 1 day, 0:08:00)") == "429"
    assert texts.error_text("[flow] is a word, as in [run the tool]") == "[flow] is a word, as in [run the tool]"
    assert texts.error_text("a\u202eb [run r]") == "a\\u202eb"


def test_json_is_shown_with_line_breaks_and_cut():
    assert texts.pretty('{"a": [1]}') == '{\n  "a": [\n    1\n  ]\n}'
    assert texts.pretty(b'{"cut') == '{"cut'
    assert texts.pretty(None) == ""
    assert texts.pretty('"' + "x" * 50 + '"', 10) == '"xxxxxxxxx…'


def test_an_instant_is_an_element_that_a_script_writes_in_the_reader_s_zone():
    said = texts.when(AT)
    assert 'datetime="2026-01-31T08:05:09.000+00:00"' in said
    assert 'title="2026-01-31 08:05:09 UTC"' in said
    assert texts.when(None) == ""
    assert texts.when(AT, "left").endswith(">0 ms</time>")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], ""),
        (["a"], "a"),
        (["a", "b"], "a and b"),
        (["a", "b", "c"], "a, b and c"),
        (list("abcde"), "a, b and 3 more"),
    ],
)
def test_names_in_a_sentence(names, said):
    assert texts.listed(names) == said


def test_sizes():
    assert [texts.sized(size) for size in (1, 1000, 2048, 3 << 20, 5 << 30)] == [
        "1 byte",
        "1,000 bytes",
        "2.0 KB",
        "3.0 MB",
        "5.0 GB",
    ]


def test_filters_stand_in_the_address():
    filters = Filters(flow="shop", status="failed", tag="tenant=a&b", cursor="1-x")
    assert filters.address() == "flow=shop&status=failed&tag=tenant%3Da%26b"
    assert filters.address(status="", cursor="2-y") == "flow=shop&tag=tenant%3Da%26b&cursor=2-y"
    assert filters.is_any
    assert not Filters(cursor="1-x").is_any


def test_filters_become_a_query():
    found = Filters(status="open", since="2026-01-31T08:00", tag="a=1, b=2", text="boom").arguments()
    assert [str(status) for status in found["status"]] == ["pending", "running", "paused", "compensating"]
    assert found["since"] == datetime(2026, 1, 31, 8, tzinfo=UTC)
    assert found["tag"] == {"a": "1", "b": "2"}
    assert (found["flow"], found["text"]) == (None, "boom")


def test_a_filter_of_the_last_hour():
    found = read_instant("1h")
    assert found is not None
    assert timedelta(minutes=59) < datetime.now(UTC) - found < timedelta(minutes=61)


@pytest.mark.parametrize(
    ("filters", "problem"),
    [
        (Filters(status="lost"), "no status 'lost'"),
        (Filters(since="yesterday"), "'yesterday' is no instant"),
        (Filters(since="999999w"), "'999999w' is no instant"),
        (Filters(tag="tenant"), "name=value, not 'tenant'"),
    ],
)
def test_a_filter_that_cannot_be_understood_is_refused(filters, problem):
    with pytest.raises(BadFilterError, match=problem):
        filters.arguments()


def test_a_value_may_hold_an_equals_sign():
    assert read_tags("query=a=b") == {"query": "a=b"}


def test_what_is_vendored_has_licence_and_version():
    vendor = Path(orchestrator.web.__file__).parent / "static" / "vendor"
    for library in vendor.iterdir():
        names = {path.name for path in library.iterdir()}
        assert {"LICENSE", "VERSION"} <= names, library
