"""Command `limits`: what limits runs, what waits for it, and other numbers until the code's change."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.session import SPAN, UNITS, Instant, Session, command
from orchestrator.cli.text import as_json, at, clean, span, table
from orchestrator.definition.wording import LONGEST

if TYPE_CHECKING:
    from orchestrator.store.limit_numbers import LimitRow


class Span(click.ParamType):  # type: ignore[type-arg] # as Instant
    """A duration, such as 500ms, 1s, 5m or 2h."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Return the duration."""
        if isinstance(value, timedelta):
            return value
        found, given = SPAN.fullmatch(value), None
        with suppress(OverflowError):  # beyond every timedelta
            if value.endswith("ms") and value[:-2].isdigit():
                given = timedelta(milliseconds=int(value[:-2]))
            elif found is not None:
                given = timedelta(**{UNITS[found[2]]: float(found[1])})
        if given is None or given > LONGEST:
            self.fail(f"{clean(value)!r} is no duration; write 500ms, 1s, 5m or 2h", param, ctx)
        return given


@click.group("limits", invoke_without_command=True, epilog="Example: celery -A proj flow limits")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def limits(context: click.Context, /, **options: Any) -> None:
    """List the limits and what waits; set, reset or freeze one."""
    if context.invoked_subcommand is None:
        context.invoke(list_limits, **options)


@command("list", example="limits list --json")
def list_limits(session: Session) -> None:
    """List the limits."""
    show(session)


@command("set", example="limits set order-api 5 --per 1s")
@click.argument("name")
@click.argument("number", type=click.FloatRange(min=0, min_open=True))
@click.option("--per", type=Span(), help="For a rate: so many in each of these.")
@click.option("--burst", type=click.IntRange(1), help="For a rate: so many at once.")
def set_limit(session: Session, name: str, number: float, per: timedelta | None, burst: int | None) -> None:
    """Give a limit other numbers, until the code's change."""
    session.orchestrator.set_limit(name, number, per=per, burst=burst)
    show(session, name)


@command("reset", example="limits reset order-api")
@click.argument("name")
@click.option("--key", help="Only end the freeze of this key of a limit with keys.")
def reset_limit(session: Session, name: str, key: str | None) -> None:
    """Give a limit the code's numbers again, and end its freeze."""
    session.orchestrator.reset_limit(name, key=key)
    show(session, name)


@command("freeze", example="limits freeze order-api --for 5m")
@click.argument("name")
@click.option("--until", type=Instant(), help="Until this instant.")
@click.option("--for", "duration", type=Span(), help="For so long.")
@click.option("--key", help="Only for this key of a limit with keys.")
def freeze_limit(
    session: Session, name: str, until: datetime | None, duration: timedelta | None, key: str | None
) -> None:
    """Let nothing through a limit until an instant; `reset` ends it."""
    if (until is None) == (duration is None):
        raise click.UsageError("give either --until or --for")
    session.orchestrator.freeze_limit(name, until or datetime.now(UTC) + (duration or timedelta(0)), key=key)
    show(session, name)


for each in (list_limits, set_limit, reset_limit, freeze_limit):
    limits.add_command(each)


def show(session: Session, name: str | None = None) -> None:
    """Print every limit, or one."""
    found = [row for row in session.orchestrator.limits() if name in {None, row.name, row.title}]
    if session.is_json:
        click.echo(as_json([row.to_json() for row in found]))
        return
    table(
        ("LIMIT", "KIND", "NUMBERS", "FREE", "WAITING", "LONGEST", "WHO", "FROZEN UNTIL"), [_row(row) for row in found]
    )


def _row(row: LimitRow) -> tuple[str, ...]:
    numbers = f"{row.n:g}" + (f" per {span(row.per)}" if row.per else "") + (" (set)" if row.is_set else "")
    use = "-" if row.tokens is None else f"{row.tokens} free"
    waits = span(datetime.now(UTC) - row.longest_wait) if row.longest_wait else "-"
    who = f"{clean(row.first_run)} {clean(row.first_node or '')}" if row.first_run else "-"
    return clean(row.name), clean(row.kind), numbers, use, str(row.waiting), waits, who, at(row.frozen_until)
