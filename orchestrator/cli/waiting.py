"""Commands `waiting`, `signal`, `approve` and `reject`: what runs wait for from outside, and the answers to it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.completion import FlowName
from orchestrator.cli.session import Session, command
from orchestrator.cli.text import as_json, at, clean, table
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
    try:
        given = json.loads(value)
    except ValueError:
        raise click.BadParameter(f"{clean(value)!r} is not JSON", param_hint="VALUE") from None
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


def _show_done(session: Session, verb: str, run_id: str) -> None:
    if session.is_json:
        click.echo(as_json({"action": verb, "count": 1, "runs": [{"id": run_id, "is_done": True, "message": ""}]}))
    else:
        click.echo(f"{run_id}  {verb}: done")


def _row(row: WaitingRow) -> tuple[Any, ...]:
    votes = f"{len(row.votes)} of {row.quorum}" if row.quorum else "-"
    return row.run_id, clean(row.flow), clean(row.name), row.kind, at(row.since), at(row.until), votes
