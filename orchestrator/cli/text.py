"""Lines for a terminal or a pipe: names and values of users cannot move its cursor, break a line or colour it."""

from __future__ import annotations

import json
import sys
import unicodedata
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LONGEST = 200
MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86400
COLOURS = {
    "succeeded": "green",
    "compensated": "cyan",
    "running": "blue",
    "ready": "blue",
    "pending": "bright_black",
    "parked": "yellow",
    "paused": "yellow",
    "compensating": "yellow",
    "cancelled": "yellow",
    "failed": "red",
    "unknown": "red",
    "compensation_failed": "red",
}


def clean(value: object, *, lines: bool = False) -> str:
    r"""Return text with every character that a terminal obeys written as an escape, `\x1b`.

    Args:
        value: Anything; its `str`.
        lines: Whether line breaks stay.
    """
    return "".join(
        each if (lines and each == "\n") or not unicodedata.category(each).startswith("C") else _escape(each)
        for each in str(value)
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def cut(value: object, length: int = LONGEST) -> str:
    """Return clean text of one line, shortened with its end left out."""
    text = clean(value)
    return text if len(text) <= length else f"{text[: length - 1]}…"


def state(name: str) -> str:
    """Return a status or state in its colour; click drops it where the output is no terminal."""
    return click.style(name, fg=COLOURS.get(name))


def at(instant: datetime | None) -> str:
    """Return an instant in UTC to the second; `-` for none."""
    return "-" if instant is None else instant.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def span(duration: timedelta | None) -> str:
    """Return a duration in the two units that matter; `-` for none."""
    if duration is None:
        return "-"
    seconds = duration.total_seconds()
    if seconds < MINUTE_S:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    if whole < HOUR_S:
        return f"{whole // MINUTE_S}m {whole % MINUTE_S}s"
    if whole < DAY_S:
        return f"{whole // HOUR_S}h {whole % HOUR_S // MINUTE_S}m"
    return f"{whole // DAY_S}d {whole % DAY_S // HOUR_S}h"


def as_json(data: Any) -> str:
    """Return JSON for people and programs."""
    return json.dumps(data, indent=2, ensure_ascii=False, default=_plain)


def as_json_line(data: Any) -> str:
    """Return JSON on one line."""
    return json.dumps(data, ensure_ascii=False, default=_plain)


def _plain(value: object) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value)


def is_terminal() -> bool:
    """Return whether the output is one, rather than a pipe or a file."""
    return sys.stdout.isatty()


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows: in columns below a header on a terminal, tab-separated and nothing else into a pipe.

    Cells must be clean.
    """
    found = [list(row) for row in rows]
    if not is_terminal():
        for row in found:
            click.echo("\t".join(row))
        return
    if _rich_table(header, found):
        return
    widths = [max(len(click.unstyle(row[column])) for row in [header, *found]) for column in range(len(header))]
    for row in [[click.style(name, bold=True) for name in header], *found]:
        cells = [cell + " " * (width - len(click.unstyle(cell))) for cell, width in zip(row, widths, strict=True)]
        click.echo("  ".join(cells).rstrip())


def _rich_table(header: Sequence[str], rows: list[list[str]]) -> bool:
    try:
        from rich.console import Console  # noqa: PLC0415 - an extra, used only where a table is drawn
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415
    except ImportError:
        return False
    drawn = Table(*header, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        drawn.add_row(*(Text.from_ansi(cell) for cell in row))
    Console(soft_wrap=False).print(drawn)
    return True
