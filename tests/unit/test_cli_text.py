"""Lines of the command line: tables with and without rich, and texts that a terminal cannot obey."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner

from orchestrator.cli import text
from orchestrator.cli.program import program

ROWS = [("order", text.state("failed")), ("a-longer-name", "ok")]


@pytest.mark.parametrize("has_rich", [True, False])
def test_a_terminal_gets_columns_below_a_header_with_and_without_rich(has_rich, capsys, monkeypatch):
    monkeypatch.setattr(text, "is_terminal", lambda: True)
    if not has_rich:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    text.table(("FLOW", "STATUS"), ROWS)
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split() == ["FLOW", "STATUS"]
    assert first.index("failed") == second.index("ok") == header.index("STATUS")


def test_a_pipe_gets_cells_with_tabs_between_and_no_header(capsys):
    text.table(("FLOW", "STATUS"), ROWS)
    assert capsys.readouterr().out.splitlines() == ["order\tfailed", "a-longer-name\tok"]


@pytest.mark.parametrize(
    ("given", "shown"),
    [("a\x1b[31mb", "a\\x1b[31mb"), ("a\nb\tc", "a\\nb\\tc"), ("\u202egpj", "\\u202egpj"), ("größe 木", "größe 木")],
)
def test_what_a_terminal_obeys_is_shown_as_an_escape(given, shown):
    assert text.clean(given) == shown


def test_a_long_text_is_cut_and_lines_may_stay():
    assert text.cut("x" * 300, 10) == "x" * 9 + "…"
    assert text.clean("a\nb\r", lines=True) == "a\nb\\r"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.26, "0.3s"), (59, "59.0s"), (61, "1m 1s"), (3 * 3600 + 65, "3h 1m"), (90_000, "1d 1h")],
)
def test_durations_have_the_two_units_that_matter(seconds, shown):
    assert text.span(timedelta(seconds=seconds)) == shown


def test_instants_are_in_utc():
    assert text.at(datetime(2026, 5, 1, 12, 30, tzinfo=UTC)) == "2026-05-01 12:30:00Z"
    assert (text.at(None), text.span(None)) == ("-", "-")


@pytest.mark.parametrize("group", [(), ("limits",), ("schedules",)])
def test_no_help_of_a_command_is_cut_at_80_columns(group):
    text = CliRunner().invoke(program, [*group, "--help"], terminal_width=80).stdout
    assert "..." not in text.partition("Commands:")[2]
