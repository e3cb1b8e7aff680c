"""Lines that nodes wrote by `ctx.logger`, kept with their run: a text of JSON lines, the newest 200 or 64 KB."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

FIELD = b":log"
"""The lines among a run's failures; no node can have this name."""
LINES = 200
BYTES = 64 * 1024
LONGEST = 1000
"""Characters of one line."""


@dataclass(frozen=True)
class LogLine:
    """One line that a node wrote by `ctx.logger`.

    Attributes:
        at: When, on the worker's clock; aware.
        node: The node.
        attempt: Number of the attempt.
        level: Name of the level, such as "INFO".
        text: What was written, at most 1,000 characters of it.
    """

    at: datetime
    node: str
    attempt: int
    level: str
    text: str


def dump_lines(lines: Sequence[LogLine]) -> str:
    """Return the newest lines as they are stored; never more than a run keeps."""
    return "".join(
        json.dumps([round(line.at.timestamp() * 1000), line.node, line.attempt, line.level, line.text[:LONGEST]]) + "\n"
        for line in lines[-LINES:]
    )


def read_lines(text: bytes | None) -> tuple[LogLine, ...]:
    """Return stored lines, oldest first."""
    rows = [json.loads(row) for row in (text or b"").splitlines()]
    return tuple(LogLine(datetime.fromtimestamp(at / 1000, UTC), *rest) for at, *rest in rows)
