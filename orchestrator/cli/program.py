"""Console script: the commands behind Celery's own options, so that `-A`, `-b` and the environment mean the same."""

from __future__ import annotations

from typing import Any

import click
from celery.bin.celery import celery

from orchestrator.cli import Commands
from orchestrator.cli.dev_state import use_running_dev
from orchestrator.cli.problems import wrong_app

LEFT_OUT = {"version"}
COMPLETE = "ORCHESTRATOR_COMPLETE"


def run() -> None:
    """Run `orchestrator ...` and end the process with its exit code."""
    program.main(prog_name="orchestrator", auto_envvar_prefix="CELERY", complete_var=f"_{COMPLETE}")


def _begin(**options: Any) -> None:
    context = click.get_current_context()
    if context.params.get("app") is None and context.invoked_subcommand not in {None, "dev", "check", "schema"}:
        # In the folder of an `orchestrator dev`, a second terminal needs to name neither app nor server.
        options["app"] = context.params["app"] = use_running_dev()
    if context.invoked_subcommand == "check":
        options["app"] = None  # it imports the app itself, to show what is wrong there
    assert celery.callback is not None  # noqa: S101 - a click group has one
    try:
        celery.callback(version=False, **options)
    except (click.UsageError, AttributeError) as error:  # Celery's own text names no next step
        if not isinstance(options.get("app"), str):
            raise
        raise wrong_app(options["app"], error.__context__ or error) from error


program = Commands(
    name="orchestrator",
    help="Start, watch and steer the runs of flows: as `celery -A proj flow`, with the same options in front.",
    params=[parameter for parameter in celery.params if parameter.name not in LEFT_OUT],
    callback=_begin,
    no_args_is_help=True,
)
