"""Attempts of a node: when each ran, in which process, how it ended, and what it logged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orchestrator.web.marks import TONES, WORDS
from orchestrator.web.texts import error_text, short_type
from orchestrator.web.timeline import ENDS, LOST, PARTS

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
        began: When; None where that is not known.
        ended: When, or None while it runs.
        tone: Of how it ended.
        said: How it ended, in words.
        error: What it failed with, cut; empty for one that did not, or that an older version recorded.
        holder: The process that ran it; empty where that is not known any more.
        iteration: Of a node that repeats: which one, from 0; else None.
        key: What the address calls it: attempts of other iterations, or before a resume, have the same number.
    """

    number: int
    began: datetime | None
    ended: datetime | None
    tone: str
    said: str
    error: str = ""
    holder: str = ""
    iteration: int | None = None
    key: str = ""


@dataclass(frozen=True)
class Chosen:
    """The attempt that a reader has chosen.

    Attributes:
        attempt: The attempt.
        failure: What it failed with, whole; None for any but the last one that failed.
        worker: The worker that ran it, in words.
        lines: What it logged.
        output: Of a stored iteration: its output as JSON, cut; None without one.
    """

    attempt: Attempt
    failure: NodeFailure | None
    worker: str
    lines: list[LogLine]
    output: str | None = None


def read_attempts(row: NodeRow, events: Sequence[Event], *, repeats: bool = False) -> list[Attempt]:
    """Return the attempts of a node, newest first, as far as its history reaches back.

    Args:
        row: The node.
        events: Those of it, oldest first.
        repeats: Whether it repeats, and its attempts belong to iterations.
    """
    attempts: list[Attempt] = []
    begun: Event | None = None  # of an attempt that is not over
    is_new = False  # whether it has done nothing yet: behind a part the same attempt may go on with the next one
    iteration = 0
    for event in events:
        if event.event == "started":
            begun, is_new = event, True
        elif event.event in ENDS or event.event in SAID or event.event in PARTS:
            iteration = int(event.detail or 0) if event.event == "iteration" else iteration
            if is_new or event.event != "succeeded":
                ended = _ended(event, begun, row)
                attempts.append(replace(ended, iteration=iteration) if repeats else ended)
            begun, is_new = (event if event.event in PARTS else None), False
            iteration += event.event == "iteration"
    if begun is not None and (row.state == "running" or begun.event == "started"):
        ended_at = None if row.state == "running" else row.ended
        tone, said = TONES.get(row.state, "run"), WORDS.get(row.state, row.state)
        holder, part = row.holder or "", iteration if repeats else None
        attempts.append(Attempt(begun.attempt, begun.at, ended_at, tone, said, "", holder, part))
    return _with_keys(attempts[::-1])


def _ended(event: Event, begun: Event | None, row: NodeRow) -> Attempt:
    """Return the attempt that an event ends; of items of a map the history has no beginnings."""
    began = begun.at if begun is not None else row.started if event.attempt == row.attempt else None
    is_part = event.event in PARTS
    tone = "ok" if is_part else ENDS.get(event.event, "wait" if event.event == "throttled" else "bad")
    kind, _, message = event.error.partition(": ")
    error = f"{short_type(kind)}: {error_text(message)}" if kind else ""
    said = f"{event.event} stored" if is_part else SAID.get(event.event, event.event)
    return Attempt(event.attempt, began, event.at, tone, said, error, event.holder)


def _with_keys(attempts: list[Attempt]) -> list[Attempt]:
    """Give each attempt, newest first, what the address calls it."""
    seen: set[str] = set()
    named: list[Attempt] = []
    for each in attempts:
        key = str(each.number) if each.iteration is None else f"{each.iteration}.{each.number}"
        if key in seen:  # before a resume its attempts were counted anew
            key += f"-{len(named)}" if each.ended is None else f"-{each.ended.timestamp():.3f}"
        seen.add(key)
        named.append(replace(each, key=key))
    return named


def choose_attempt(
    row: NodeRow, attempts: Sequence[Attempt], key: str, log: Sequence[LogLine], names: Mapping[str, str]
) -> Chosen | None:
    """Return the attempt that an address names, if there is one.

    Args:
        row: The node.
        attempts: Its attempts.
        key: As it stands in the address.
        log: The lines of the run.
        names: Names of the workers by the id that holders begin with.
    """
    found = next((each for each in attempts if each.key == key), None)
    if found is None:
        return None
    is_newest = found is next(each for each in attempts if each.number == found.number)
    failure = row.failure if row.failure is not None and row.failure.attempt == found.number and is_newest else None
    lines = [line for line in log if line.node == row.name and line.attempt == found.number]
    if len([each for each in attempts if each.number == found.number]) > 1:  # a line says only the number
        lines = [
            line
            for line in lines
            if (found.began is None or found.began <= line.at) and (found.ended is None or line.at <= found.ended)
        ]
    return Chosen(found, failure, worker_of(found.holder, names), lines)


def worker_of(holder: str, names: Mapping[str, str]) -> str:
    """Return a process as a reader knows it: the worker's name and the process's number; empty for none."""
    worker, _, process = holder.partition("/")
    if not worker:
        return ""
    return f"{names.get(worker, 'a worker that is gone')}, process {process}"
