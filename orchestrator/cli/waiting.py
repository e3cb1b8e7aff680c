"""Commands `waiting`, `signal`, `approve`, `reject`, `complete`: what runs wait for from outside, and the answers."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.completion import FlowName
from orchestrator.cli.session import Session, command
from orchestrator.cli.text import as_json, at, clean, table
from orchestrator.store.callbacks import Callback
from orchestrator.store.waiting_rows import KINDS

if TYPE_CHECKING:
    from orchestrator.store.waiting_rows import WaitingRow

RUN = click.argument("run_id", metavar="RUN")
BY = click.option("--by", required=True, help="Who votes.")
REASON = click.option("--reason", default="", help="Why.")


@command("waiting", example="waiting --kind approval")
@click.option("--flow", type=FlowName(), help="Only runs of this flow.")
@click.option("--kind", type=click.Choice(KINDS), help="Only what waits for this.")
def waiting(session: Session, flow: str | None, kind: str | None) -> None:
    """List what waits for people and other systems, the oldest first."""
    rows = session.orchestrator.waiting(flow, kind)
    if session.is_json:
        click.echo(as_json([row.to_json() for row in rows]))
        return
    table(("RUN", "FLOW", "NAME", "KIND", "SINCE", "UNTIL", "VOTES"), [_row(row) for row in rows])


@command("signal", example="signal 3f2a paid '{\"amount\": 7}' --key evt-17")
@RUN
@click.argument("name")
@click.argument("value", default="null")
@click.option("--key", help="Sent again with the same key it does nothing.")
def signal(session: Session, run_id: str, name: str, value: str, key: str | None) -> None:
    """Send a signal to a run; VALUE is JSON."""
    given = _read_value(value)
    run = session.run(run_id)
    run.signal(name, given, key=key)
    _show_done(session, "signal", run.id)


@command("approve", example="approve 3f2a manager-ok --by ann --reason fits")
@RUN
@click.argument("name")
@BY
@REASON
def approve(session: Session, run_id: str, name: str, by: str, reason: str) -> None:
    """Vote for an approval of a run."""
    run = session.run(run_id)
    run.approve(name, by=by, reason=reason)
    _show_done(session, "approve", run.id)


@command("reject", example="reject 3f2a manager-ok --by bob --reason 'too dear'")
@RUN
@click.argument("name")
@BY
@REASON
def reject(session: Session, run_id: str, name: str, by: str, reason: str) -> None:
    """Reject an approval of a run, which then fails."""
    run = session.run(run_id)
    run.reject(name, by=by, reason=reason)
    _show_done(session, "reject", run.id)


@command("complete", example="complete - '{\"amount\": 7}' < callback.txt")
@click.argument("callback")
@click.argument("value", required=False)
@click.option("--fail", "message", help="Let the node fail with this message instead.")
def complete(session: Session, callback: str, value: str | None, message: str | None) -> None:
    """Complete the node that gave a callback away; VALUE is JSON.

    CALLBACK is its text, or - to read it from the standard input: other users of this machine see the words of a
    command.
    """
    if value is not None and message is not None:
        raise click.UsageError("give a VALUE or --fail, not both")
    given = _read_value(value or "null")
    text = (sys.stdin.read() if callback == "-" else callback).strip()
    if message is None:
        session.orchestrator.complete(text, given)
    else:
        session.orchestrator.fail(text, message)
    _show_done(session, "complete", Callback.of(text).run_id)


def _read_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise click.BadParameter(f"{clean(text)!r} is not JSON", param_hint="VALUE") from None


def _show_done(session: Session, verb: str, run_id: str) -> None:
    if session.is_json:
        run = {"id": run_id, "is_done": True, "message": "", "made": None}
        click.echo(as_json({"action": verb, "count": 1, "runs": [run]}))
    else:
        click.echo(f"{run_id}  {verb}: done")


def _row(row: WaitingRow) -> tuple[Any, ...]:
    votes = f"{len(row.votes)} of {row.quorum}" if row.quorum else "-"
    return row.run_id, clean(row.flow), clean(row.name), row.kind, at(row.since), at(row.until), votes
