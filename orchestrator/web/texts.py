"""Texts of the pages: lengths of time, instants, numbers and what users wrote, as a person reads them."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta

MINUTE, HOUR, DAY = 60, 3600, 86400
CUT = 4000
SPANS = (
    (MINUTE, 1, "s", 1, ""),
    (HOUR, MINUTE, "min", 1, "s"),
    (DAY, HOUR, "h", MINUTE, "min"),
    (1000 * DAY, DAY, "d", HOUR, "h"),
)
"""Below which length, in which units: the larger one and what is left in the smaller one."""
# Controls, and marks that turn the direction of a line: they would hide or reorder what stands around them.
HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
# The end of a message that says where it happened, also one that was cut within it.
PLACE = re.compile(r" \[(?:flow|run|node) [^\s,\]]*(?:\[\d+\])?(?:\]?$|, .*$)")
DELAY = re.compile(r" \(after (?:\d+ days?, )?\d+:\d\d:\d\d(?:\.\d+)?\)")
"""What `RetryLater` adds to its message; pages have the instant itself."""


def visible(text: object) -> str:
    """Return a text in which every control character is shown as an escape; line breaks and tabs stay."""
    return HIDDEN.sub(lambda found: f"\\u{ord(found.group()):04x}", str(text))


def error_text(message: str) -> str:
    """Return the message of an error without what a page has elsewhere: its run and node, and a delay."""
    return visible(DELAY.sub("", PLACE.sub("", message)))


def lasted(span: timedelta | float | None) -> str:
    """Return a length of time in at most two units; "" for None."""
    if span is None:
        return ""
    seconds = max(0.0, span.total_seconds() if isinstance(span, timedelta) else span)
    if seconds < 10:  # noqa: PLR2004 - digits behind the point while they can be read
        tenths = f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2f} s"
        return f"{round(seconds * 1000)} ms" if seconds < 0.0995 else tenths  # noqa: PLR2004 - as it rounds
    whole = round(seconds)
    for limit, large, name, small, rest_name in SPANS:
        if whole < limit:
            rest = whole % large // small if rest_name else 0
            return f"{whole // large} {name}" + (f" {rest} {rest_name}" if rest else "")
    return f"{whole // DAY} d"


def every(span: timedelta) -> str:
    """Return the span of a rate as it stands behind a number: "a second", "an hour", "in 10 min"."""
    named: dict[float, str] = {1: "a second", MINUTE: "a minute", HOUR: "an hour", DAY: "a day"}
    return named.get(span.total_seconds()) or f"in {lasted(span)}"


def clock(at: datetime | None) -> str:
    """Return an instant in UTC, as it stands in a page before the reader's zone is known; "" for None."""
    return "" if at is None else at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def stamp(at: datetime | None) -> str:
    """Return an instant for a program; "" for None."""
    return "" if at is None else at.astimezone(UTC).isoformat(timespec="milliseconds")


def field(at: datetime | None) -> str:
    """Return an instant as a field of a form takes it, in UTC; "" for None."""
    return "" if at is None else at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")


def short_type(name: str) -> str:
    """Return the class of an error without its module."""
    return visible(name.rpartition(".")[2])


def sized(count: int) -> str:
    """Return a number of bytes."""
    for limit, unit in ((1024, "bytes"), (1024**2, "KB"), (1024**3, "MB")):
        if count < limit:
            return counted(count, "byte") if unit == "bytes" else f"{count * 1024 / limit:.1f} {unit}"
    return f"{count / 1024**3:.1f} GB"


def pretty(text: str | bytes | None, limit: int = CUT) -> str:
    """Return JSON with line breaks, cut; a text that is none, or was cut before, as it is."""
    if text is None:
        return ""
    raw = text.decode(errors="replace") if isinstance(text, bytes) else text
    if len(raw) <= 4 * limit:
        with suppress(ValueError):
            raw = json.dumps(json.loads(raw), indent=2, ensure_ascii=False)
    shown = visible(raw)
    return shown if len(shown) <= limit else shown[:limit] + "…"


def listed(names: list[str], most: int = 3) -> str:
    """Return names as a sentence has them, the last ones counted."""
    if len(names) > most:
        return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1] if names else ""]))


def counted(count: int, one: str, many: str = "") -> str:
    """Return a number with its noun."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def when(at: datetime | None, kind: str = "clock") -> str:
    """Return an instant as an element that the page's script writes in the reader's zone, with UTC on hover.

    Args:
        at: The instant; None gives an empty text.
        kind: "clock", "minute" (without seconds), "ago", or one that runs: "since" (how long ago it was) and "left"
            (how long until it is).
    """
    if at is None:
        return ""
    now = datetime.now(UTC)
    text = {"since": lasted(now - at), "left": lasted(at - now), "ago": f"{lasted(now - at)} ago"}.get(kind, clock(at))
    return f'<time datetime="{stamp(at)}" data-kind="{kind}" title="{clock(at)}">{text}</time>'


def status_word(status: str) -> str:
    """Return a run's status as a reader says it."""
    return {"pending": "queued", "compensating": "being undone", "compensation_failed": "undo failed"}.get(
        str(status), str(status)
    )
