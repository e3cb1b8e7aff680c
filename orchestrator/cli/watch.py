"""Command `watch`: follow a run until it ends, repainted in place on a terminal, line by line into a pipe."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import click

from orchestrator.cli.inspection import event_json, event_line
from orchestrator.cli.session import Session, command
from orchestrator.cli.show import children_of, run_lines, workers_of
from orchestrator.cli.text import as_json_line, is_terminal, state
from orchestrator.definition.state import RunStatus

if TYPE_CHECKING:
    from orchestrator.runs import FlowRun
    from orchestrator.store.history import Event

LOOK_EVERY_S = 0.5
FAILED = 1
UP, CLEAR_BELOW, TO_LINE_END = "\x1b[{}F", "\x1b[J", "\x1b[K"


@command("watch", example="watch 3f2a")
@click.argument("run_id", metavar="RUN")
def watch(session: Session, run_id: str) -> None:
    """Follow a run until it ends; exit code 1 unless it succeeded.

    With --json, or into a pipe, each event of its history is a line.
    """
    run = session.run(run_id)
    status = _repaint(run) if is_terminal() and not session.is_json else _follow(run, is_json=session.is_json)
    if status is not RunStatus.SUCCEEDED:
        raise click.exceptions.Exit(FAILED)


def _follow(run: FlowRun, *, is_json: bool) -> RunStatus:
    seen: list[Event] = []
    while True:
        status = run.status  # before the history, which then holds all that led to it
        events = run.history()
        new = _behind(seen, events)
        if seen and len(new) == len(events):
            click.echo("events were dropped unseen: more came at once than Settings.history_limit keeps", err=True)
        for event in new:
            click.echo(as_json_line(event_json(event)) if is_json else event_line(event))
        seen = events
        if status.is_final:
            if not is_json:
                click.echo(state(str(status)))
            return status
        time.sleep(LOOK_EVERY_S)


def _behind(seen: list[Event], events: list[Event]) -> list[Event]:
    """Return what came behind the events that were seen; a long history loses its oldest entries meanwhile."""
    for dropped in range(len(seen)):
        if events[: len(seen) - dropped] == seen[dropped:]:
            return events[len(seen) - dropped :]
    return events


def _repaint(run: FlowRun) -> RunStatus:
    painted = 0
    while True:
        view = run.show()
        width, height = _size()
        lines = list(run_lines(view, workers_of(run, view), children_of(run, view)))[: height - 1]
        back = UP.format(painted) if painted else ""
        # Cut before it is written: a line that wraps would move everything below it.
        text = "".join(f"{_fitting(line, width)}{TO_LINE_END}\n" for line in lines)
        click.echo(back + text + CLEAR_BELOW, nl=False)
        painted = len(lines)
        if view.run.status.is_final:
            return view.run.status
        time.sleep(LOOK_EVERY_S)


def _size() -> tuple[int, int]:
    try:
        size = os.get_terminal_size()
    except OSError:
        return 80, 24
    return max(size.columns, 20), max(size.lines, 5)


def _fitting(line: str, width: int) -> str:
    return line if len(click.unstyle(line)) < width else click.unstyle(line)[: width - 1]
