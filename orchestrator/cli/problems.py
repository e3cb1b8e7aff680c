"""Errors of the library as a command shows them: one sentence that says what to do next, and exit code 2."""

from __future__ import annotations

import difflib
from typing import NoReturn

import click

from orchestrator.cli.text import clean
from orchestrator.errors import OrchestratorError, StoreUnavailable

WRONG_USE = 2


class Refusal(click.ClickException):
    """A command that could not do what it was asked for."""

    exit_code = WRONG_USE


def shown(error: Exception) -> click.ClickException | None:
    """Return an error as the command line shows it; None for a fault of the program itself."""
    if isinstance(error, StoreUnavailable):
        return Refusal(
            f"{clean(str(error))}. Start the server, or name another: -A takes the app whose settings have it; "
            "`orchestrator dev` brings a server along"
        )
    if isinstance(error, OrchestratorError | ValueError | TimeoutError):
        return Refusal(clean(str(error), lines=True))
    return None


def refuse_command(ctx: click.Context, name: str, known: list[str]) -> NoReturn:
    """Refuse a command that there is not, with the nearest ones."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"See {ctx.command_path} --help."
    raise click.UsageError(f"there is no command {clean(name)!r}. {hint}", ctx)
