"""Command `doctor`: what of this deployment will hurt, with the setting to change."""

from __future__ import annotations

import click

from orchestrator.cli.session import Session, command
from orchestrator.cli.text import clean

FOUND = 1


@command("doctor", example="doctor")
def doctor(session: Session) -> None:
    """Name what of the live deployment will hurt.

    Exit code 1 if anything is found.
    """
    found = session.orchestrator.doctor()
    session.print(
        [vars(each) for each in found],
        lambda: [f"{each.name}: {clean(each.what)} [{clean(each.setting)}]" for each in found] or ["nothing found"],
    )
    if found:
        raise click.exceptions.Exit(FOUND)
