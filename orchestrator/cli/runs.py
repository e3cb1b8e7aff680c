"""Command `runs`: list runs, newest first, by a filter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orchestrator.cli.filters import Filter, run_filters
from orchestrator.cli.session import Session, command
from orchestrator.cli.text import as_json, at, clean, cut, span, state, table

if TYPE_CHECKING:
    from orchestrator.store.queries import RunRow


@command("runs", example="runs --status failed --since 2h")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="At most so many.")
@click.option("--cursor", help="Go on where a page ended, as it said.")
@click.option("--children", is_flag=True, help="Also runs that nodes of others have started.")
@run_filters
def runs(session: Session, limit: int, cursor: str | None, children: bool, chosen: Filter) -> None:  # noqa: FBT001 - click's
    """List runs, newest first."""
    page = session.orchestrator.runs(**chosen.arguments(), children=children, limit=limit, cursor=cursor)
    if session.is_json:
        back = page.searched_back_to
        found = {
            "runs": [row.to_json() for row in page.rows],
            "cursor": page.cursor,
            "searched_back_to": back.isoformat() if back else None,
        }
        click.echo(as_json(found))
        return
    table(("RUN", "FLOW", "STATUS", "STARTED", "TOOK", "WAITS FOR / ERROR"), [_row(row) for row in page.rows])
    if page.searched_back_to is not None:
        click.echo(f"searched back to {at(page.searched_back_to)}; go on with --cursor {page.cursor}", err=True)
    elif page.cursor is not None:
        click.echo(f"more with --cursor {page.cursor}", err=True)


def _row(row: RunRow) -> tuple[str, ...]:
    note = cut(row.error, 80) if row.error else cut(row.waits_for, 80)
    return row.id, clean(row.flow), state(str(row.status)), at(row.created), span(row.duration), note
