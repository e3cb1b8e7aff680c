"""Commands `history`, `explain` and `output`: what became of one run."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.session import Session, command
from orchestrator.cli.text import as_json_line, at, clean, cut, span, state

if TYPE_CHECKING:
    from orchestrator.store.history import Event


@command("history", example="history 3f2a")
@click.argument("run_id", metavar="RUN")
def history(session: Session, run_id: str) -> None:
    """Print what happened to a run, oldest first."""
    events = session.run(run_id).history()
    session.print(
        [event_json(each) for each in events],
        lambda: [event_line(each) for each in events],
    )


def event_json(event: Event) -> dict[str, Any]:
    """Return one entry of a history as JSON values."""
    return {**vars(event), "at": event.at.isoformat()}


def event_line(event: Event) -> str:
    """Return one entry of a history as a line."""
    instant = event.at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"
    attempt = f"attempt {event.attempt}" if event.attempt else ""
    detail = event.detail
    if event.event in {"retrying", "throttled"} and detail.isdecimal():
        detail = f"again in {span(timedelta(milliseconds=int(detail)))}"
    parts = [instant, clean(event.event), clean(event.node), attempt, cut(detail), cut(event.error)]
    return "  ".join(part for part in parts if part)


@command("explain", example="explain 3f2a")
@click.argument("run_id", metavar="RUN")
def explain(session: Session, run_id: str) -> None:
    """Say what each node that has not ended waits for."""
    run = session.run(run_id)
    waits = run.explain()
    session.print(
        [{"node": w.node, "state": w.state, "reason": w.reason, "until": w.until, "attempt": w.attempt} for w in waits],
        lambda: (
            [
                f"{clean(w.node)}  {state(w.state)}  {clean(w.reason)}" + (f"  until {at(w.until)}" if w.until else "")
                for w in waits
            ]
            or [f"nothing: the run has ended {run.status}"]
        ),
    )


@command("output", example="output 3f2a price")
@click.argument("run_id", metavar="RUN")
@click.argument("key")
def output(session: Session, run_id: str, key: str) -> None:
    """Print one stored output as JSON."""
    value = session.orchestrator.redaction.output(key, session.run(run_id).output(key))
    session.print({"key": key, "value": value}, lambda: [clean(as_json_line(value))])
