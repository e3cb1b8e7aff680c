"""Command `workers`: the workers that have flows, which ones, and when each was last seen."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from orchestrator.cli.session import Session, command
from orchestrator.cli.text import at, clean, table

if TYPE_CHECKING:
    from orchestrator.store.worker_rows import WorkerRow

POLL_S = 0.25
NONE = 1


@command("workers", example="workers --json")
@click.option("--wait", "patience", type=float, default=5.0, show_default=True, help="Wait so many seconds for one.")
def workers(session: Session, patience: float) -> None:
    """List the workers: queues, flows and versions, last seen."""
    deadline = time.monotonic() + patience
    while not (found := session.orchestrator.workers()) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    header = ("WORKER", "QUEUES", "FLOWS", "BUSY", "SEEN")
    session.print([each.to_json() for each in found], lambda: table(header, [_row(each) for each in found]))
    if not found:
        click.echo(
            f"no worker answers within {patience:g} s; start one: celery -A {_app(session)} worker -Q QUEUE", err=True
        )
        raise click.exceptions.Exit(NONE)


def _app(session: Session) -> str:
    return clean(session.orchestrator.app.main or "proj")


def _row(worker: WorkerRow) -> tuple[str, ...]:
    flows = ", ".join(f"{flow} {worker.versions.get(flow, '')[:8]}".strip() for flow in sorted(worker.flows))
    return (
        clean(worker.name),
        clean(", ".join(worker.queues)),
        clean(flows),
        f"{worker.busy} of {worker.processes}",
        at(worker.last_seen),
    )
