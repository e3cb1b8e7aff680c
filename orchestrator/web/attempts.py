"""Attempts of a node: when each ran, in which process, how it ended, and what it logged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.web.marks import TONES, WORDS
from orchestrator.web.texts import error_text, short_type
from orchestrator.web.timeline import ENDS, LOST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from orchestrator import Event, NodeFailure, NodeRow
    from orchestrator.store.log_lines import LogLine

SAID = {
    "retrying": "failed, another follows",
    "throttled": "told to come back later",
    "paused": "failed, and the node waits for resume",
} | LOST


@dataclass(frozen=True)
class Attempt:
    """One attempt of a node, as the history tells it.

    Attributes:
        number: Its number.
        began: When.
        ended: When, or None while it runs.
        tone: Of how it ended.
        said: How it ended, in words.
        error: What it failed with, cut; empty for one that did not, or that an older version recorded.
        holder: The process that ran it; empty where that is not known any more.
    """

    number: int
    began: datetime
    ended: datetime | None
    tone: str
    said: str
    error: str = ""
    holder: str = ""


@dataclass(frozen=True)
class Chosen:
    """The attempt that a reader has chosen.

    Attributes:
        attempt: The attempt.
        failure: What it failed with, whole; None for any but the last one that failed.
        worker: The worker that ran it, in words.
        lines: What it logged.
    """

    attempt: Attempt
    failure: NodeFailure | None
    worker: str
    lines: list[LogLine]


def read_attempts(row: NodeRow, events: Sequence[Event]) -> list[Attempt]:
    """Return the attempts of a node, newest first, as far as its history reaches back."""
    attempts: list[Attempt] = []
    begun: Event | None = None
    for event in events:
        if event.event == "started":
            begun = event
        elif begun is not None and (event.event in ENDS or event.event in SAID):
            tone = ENDS.get(event.event, "wait" if event.event == "throttled" else "bad")
            kind, _, message = event.error.partition(": ")
            error = f"{short_type(kind)}: {error_text(message)}" if kind else ""
            said = SAID.get(event.event, event.event)
            attempts.append(Attempt(begun.attempt, begun.at, event.at, tone, said, error, event.holder))
            begun = None
    if begun is not None:
        ended = None if row.state == "running" else row.ended
        tone, said = TONES.get(row.state, "run"), WORDS.get(row.state, row.state)
        attempts.append(Attempt(begun.attempt, begun.at, ended, tone, said, "", row.holder or ""))
    return attempts[::-1]


def choose_attempt(
    row: NodeRow, attempts: Sequence[Attempt], number: str, log: Sequence[LogLine], names: Mapping[str, str]
) -> Chosen | None:
    """Return the attempt of a number, if there is one.

    Args:
        row: The node.
        attempts: Its attempts.
        number: As it stands in the address.
        log: The lines of the run.
        names: Names of the workers by the id that holders begin with.
    """
    found = next((each for each in attempts if str(each.number) == number), None)
    if found is None:
        return None
    failure = row.failure if row.failure is not None and row.failure.attempt == found.number else None
    lines = [line for line in log if line.node == row.name and line.attempt == found.number]
    return Chosen(found, failure, worker_of(found.holder, names), lines)


def worker_of(holder: str, names: Mapping[str, str]) -> str:
    """Return a process as a reader knows it: the worker's name and the process's number; empty for none."""
    worker, _, process = holder.partition("/")
    if not worker:
        return ""
    return f"{names.get(worker, 'a worker that is gone')}, process {process}"
