"""Errors as a command shows them: one sentence that says what to do next, and exit code 2."""

from __future__ import annotations

import difflib
import sysconfig
import traceback
from typing import NoReturn

import click

from orchestrator.cli.text import clean
from orchestrator.errors import PLUMBING, OrchestratorError, StoreUnavailable

WRONG_USE = 2
WHAT_TO_NAME = "Name the module that calls Orchestrator(app), or use `orchestrator dev`, which needs no app"


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


def broken_place(error: BaseException) -> str | None:
    """Return "file:line" of what keeps a module of the user from being imported; None if none was reached."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{error.filename}:{error.lineno or 1}"
    libraries = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})
    found = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if package not in PLUMBING and not file.startswith(("<", *libraries)):
            found = f"{file}:{line}"
    return found


def broken_import(error: BaseException) -> str:
    """Return type and message of an error that keeps a module from being imported."""
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"cannot be imported: {type(error).__name__}: {message}"


def wrong_app(name: str, error: BaseException) -> click.ClickException:
    """Return why no app could be had from `-A`, and what to do."""
    if isinstance(error, OrchestratorError) and (known := shown(error)) is not None:
        return known
    place = broken_place(error)
    what = f"{place} {broken_import(error)}" if place else f"it {broken_import(error)}"
    return Refusal(f"-A {clean(name)}: {clean(what)}. {WHAT_TO_NAME}")


def refuse_command(ctx: click.Context, name: str, known: list[str]) -> NoReturn:
    """Refuse a command that there is not, with the nearest ones."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"See {ctx.command_path} --help."
    raise click.UsageError(f"there is no command {clean(name)!r}. {hint}", ctx)
