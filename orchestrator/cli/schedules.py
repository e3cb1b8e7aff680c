"""Command `schedules`: list, pause and unpause, trigger, backfill, and the next instants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.actions import confirm
from orchestrator.cli.completion import FlowName
from orchestrator.cli.session import Instant, Session, command
from orchestrator.cli.text import as_json, at, clean, table

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.schedule_control import ScheduleRow

NAME = click.argument("name", metavar="FLOW|SCHEDULE", type=FlowName())


@click.group("schedules", invoke_without_command=True, epilog="Example: celery -A proj flow schedules")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def schedules(context: click.Context, /, **options: Any) -> None:
    """List the schedules; pause, trigger or backfill one."""
    if context.invoked_subcommand is None:
        context.invoke(list_schedules, **options)


@command("list", example="schedules list --json")
def list_schedules(session: Session) -> None:
    """List the schedules of this app's flows."""
    _show(session, session.orchestrator.schedules())


@command("pause", example="schedules pause nightly --note 'until the move is done'")
@NAME
@click.option("--note", default="", help="Why.")
def pause(session: Session, name: str, note: str) -> None:
    """Let a schedule start nothing until it is unpaused."""
    session.orchestrator.pause_schedule(name, note)
    _show(session, _named(session, name))


@command("unpause", example="schedules unpause nightly")
@NAME
def unpause(session: Session, name: str) -> None:
    """Let a schedule go on; what it missed follows its catch_up."""
    session.orchestrator.unpause_schedule(name)
    _show(session, _named(session, name))


@command("trigger", example="schedules trigger nightly")
@NAME
def trigger(session: Session, name: str) -> None:
    """Start a run now, as the schedule would, and print its id."""
    run = session.orchestrator.trigger_schedule(name)
    session.print({"id": run.id}, lambda: [run.id])


@command("next", example="schedules next nightly --count 3")
@NAME
@click.option("--count", type=click.IntRange(1, 1000), default=5, show_default=True, help="So many.")
def following(session: Session, name: str, count: int) -> None:
    """Print the next instants of a schedule, in UTC."""
    found = session.orchestrator.next_ticks(name, count)
    session.print([each.isoformat() for each in found], lambda: [at(each) for each in found])


@command("backfill", example="schedules backfill nightly --since 2026-05-01 --until 2026-05-04 --yes")
@NAME
@click.option("--since", type=Instant(), required=True, help="From this instant on.")
@click.option("--until", type=Instant(), required=True, help="Up to this one, which is not in it.")
@click.option("--dry-run", is_flag=True, help="Only print the instants.")
@click.option("--yes", is_flag=True, help="Do not ask; needed where nobody can be asked.")
def backfill(session: Session, name: str, since: datetime, until: datetime, *, dry_run: bool, yes: bool) -> None:
    """Start a run for each instant of a range that has none.

    The runs get the ids that the ticks would give them, so that a repeat starts nothing twice.
    """
    found = session.orchestrator.ticks(name, since, until)
    if dry_run:
        session.print([each.isoformat() for each in found], lambda: [at(each) for each in found])
        return
    confirm("backfill", len(found), is_sure=yes)
    filled = session.orchestrator.backfill(name, since, until)
    session.print(
        [{"instant": each.instant.isoformat(), "run": each.run_id, "is_new": each.is_new} for each in filled],
        lambda: [f"{at(each.instant)}  {each.run_id}  {'started' if each.is_new else 'was there'}" for each in filled],
    )


for each in (list_schedules, pause, unpause, trigger, following, backfill):
    schedules.add_command(each)


def _named(session: Session, name: str) -> tuple[ScheduleRow, ...]:
    found = session.orchestrator.schedules()
    return tuple(each for each in found if each.flow == name or each.id.startswith(name))


def _show(session: Session, rows: tuple[ScheduleRow, ...]) -> None:
    if session.is_json:
        click.echo(as_json([row.to_json() for row in rows]))
        return
    header = ("SCHEDULE", "CRON", "ZONE", "OVERLAP", "LAST", "NEXT")
    table(header, [_row(row) for row in rows])


def _row(row: ScheduleRow) -> tuple[str, ...]:
    following = f"paused{': ' if row.note else ''}{clean(row.note)}" if row.is_paused else at(row.next)
    return clean(row.id), clean(row.cron), clean(row.timezone), row.overlap, at(row.last), following
