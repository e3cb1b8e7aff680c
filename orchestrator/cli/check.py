"""Command `check`: find, without a server, what of an app's flows would not run."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import click
from celery.app.utils import find_app

from orchestrator.cli.live import GOES_ON, Group, judge_live
from orchestrator.cli.problems import broken_import, broken_place
from orchestrator.cli.session import orchestrator_of
from orchestrator.cli.text import as_json, clean
from orchestrator.engine import engine_of
from orchestrator.errors import FlowDefinitionError, FlowDefinitionWarning, OrchestratorError, Problem
from orchestrator.maintenance.preflight import app_problems
from orchestrator.messaging.start_checks import refused_content, undeclared_queues

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.client import Orchestrator

FOUND = 1


@click.command("check", epilog="Example: orchestrator -A proj check")
@click.option(
    "--against", type=click.Choice(["live"]), help="Judge the unfinished runs by this code; needs the server."
)
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
@click.pass_context
def check(context: click.Context, *, against: str | None, is_json: bool) -> None:
    """Import the app, build every flow, print what is wrong.

    Exit code 1 if anything is. Needs no server.

    As `orchestrator -A proj check` it also shows what keeps the app from being imported.
    """
    found = list(findings(context))
    if against and not found:
        _show_live(judge_live(orchestrator_of(context)), is_json=is_json)
        return
    if is_json:
        rows = [{"where": each.where, "code": each.code, "message": each.message} for each in found]
        click.echo(as_json(rows))
    else:
        for each in found:
            click.echo(f"{clean(each.where)}: {clean(each.message)} [{each.code}]")
        if not found:
            click.echo("nothing found")
    if found:
        raise click.exceptions.Exit(FOUND)


def _show_live(groups: list[Group], *, is_json: bool) -> None:
    """Print a verdict over unfinished runs; exit code 1 if any does not go on."""
    if is_json:
        click.echo(as_json([vars(each) | {"runs": list(each.runs)} for each in groups]))
    else:
        for each in groups:
            count = f"{len(each.runs)} run{'s' if len(each.runs) != 1 else ''}"
            reason = f" ({clean(each.reason)})" if each.reason else ""
            click.echo(f"flow {clean(each.flow)}: {count} {each.verdict}{reason}")
            if each.verdict != GOES_ON:
                click.echo("  " + "\n  ".join(each.runs))
        if not groups:
            click.echo("no run is unfinished")
    if any(each.verdict != GOES_ON for each in groups):
        raise click.exceptions.Exit(FOUND)


def findings(context: click.Context) -> Iterator[Problem]:
    """Yield what is wrong with the app of a command."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", FlowDefinitionWarning)
        try:
            orchestrator = _load(context)
        except FlowDefinitionError as error:
            yield from error.problems
            return
        except OrchestratorError as error:
            yield Problem(_named(context), "refused", str(error))
            return
        except click.ClickException:
            raise
        except Exception as error:
            place = broken_place(error)
            if place is None and not isinstance(error, ImportError | AttributeError):
                raise  # a fault of this program, or of Celery
            if place is None:
                raise click.UsageError(f"-A {clean(_named(context))} {clean(broken_import(error))}") from error
            yield Problem(place, "import", broken_import(error))
            return
    soft = [each for each in warned if issubclass(each.category, FlowDefinitionWarning)]
    yield from (Problem(_named(context), "warning", str(each.message)) for each in soft)
    yield from _of_app(orchestrator)


def _load(context: click.Context) -> Orchestrator:
    name = context.find_root().params.get("app")
    if context.obj is None or isinstance(name, str):
        if not isinstance(name, str):
            raise click.UsageError("name the app: orchestrator -A proj check")
        context.obj = _App(find_app(name))
    return orchestrator_of(context)


class _App:
    """Stands where Celery's command has its own context."""

    def __init__(self, app: object) -> None:
        self.app = app


def _named(context: click.Context) -> str:
    name = context.find_root().params.get("app")
    return name if isinstance(name, str) else "app"


def _of_app(orchestrator: Orchestrator) -> Iterator[Problem]:
    engine = engine_of(orchestrator.app)
    name = str(orchestrator.app.main)
    if not engine.registry.flows:
        yield Problem(name, "no-flow", "no flow is registered; call orchestrator.register(flow), or autodiscover")
    for flow, entry in engine.registry.flows.items():
        for sentence in (
            *undeclared_queues(engine.app, entry.plan).values(),
            *refused_content(engine.app, engine.settings),
        ):
            yield Problem(flow, "would-hang", sentence)
    yield from (Problem(name, each.name, each.what) for each in app_problems(engine.app, engine.registry))
