"""Command line: `celery -A proj flow ...`, and the same commands as `orchestrator -A proj ...`.

Celery loads this module at every start of its command. So it imports nothing that Celery's command has not: the module
of a command is imported when it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

COMMANDS = {
    "list": "orchestrator.cli.flows:list_flows",
    "show": "orchestrator.cli.show:show",
    "graph": "orchestrator.cli.flows:graph",
    "start": "orchestrator.cli.start:start",
    "runs": "orchestrator.cli.runs:runs",
    "watch": "orchestrator.cli.watch:watch",
    "history": "orchestrator.cli.inspection:history",
    "explain": "orchestrator.cli.inspection:explain",
    "output": "orchestrator.cli.inspection:output",
    "cancel": "orchestrator.cli.actions:cancel",
    "pause": "orchestrator.cli.actions:pause",
    "resume": "orchestrator.cli.actions:resume",
    "fork": "orchestrator.cli.actions:fork",
    "undo": "orchestrator.cli.actions:undo",
    "delete": "orchestrator.cli.actions:delete",
    "waiting": "orchestrator.cli.waiting:waiting",
    "signal": "orchestrator.cli.waiting:signal",
    "approve": "orchestrator.cli.waiting:approve",
    "reject": "orchestrator.cli.waiting:reject",
    "complete": "orchestrator.cli.waiting:complete",
    "workers": "orchestrator.cli.workers:workers",
    "limits": "orchestrator.cli.limits:limits",
    "schedules": "orchestrator.cli.schedules:schedules",
    "doctor": "orchestrator.cli.doctor:doctor",
    "check": "orchestrator.cli.check:check",
    "metrics": "orchestrator.cli.metrics:metrics",
    "schema": "orchestrator.cli.schemas:schema",
    "dev": "orchestrator.cli.dev:dev",
}
"""Where each command is, in the order of the help."""


class Commands(click.Group):
    """The commands, each imported when it is used, and their errors as an operator reads them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help."""
        return [*COMMANDS, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name in COMMANDS:
            command: click.Command = _load(COMMANDS[cmd_name])
            return command
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; a name that is none gets the nearest."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            _load("orchestrator.cli.problems:refuse_command")(ctx, args[0], list(COMMANDS))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; an error of the library ends it with a sentence and exit code 2."""
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.ClickException, click.Abort):
            raise
        except Exception as error:
            shown = _load("orchestrator.cli.problems:shown")(error)
            if shown is None:
                raise
            raise shown from error


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


flow = Commands(name="flow", help="Start, watch and steer the runs of flows.", no_args_is_help=True)
"""What Celery adds to its command."""


def main() -> None:
    """Run the console script `orchestrator`."""
    _load("orchestrator.cli.program:run")()
