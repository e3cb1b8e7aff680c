"""Commands that act on runs, such as `cancel`, `resume` and `fork`: on those named, or on all that a filter finds."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.filters import Filter, run_filters
from orchestrator.cli.problems import Refusal
from orchestrator.cli.session import Pair, Session, command
from orchestrator.cli.start import read_input
from orchestrator.cli.text import as_json, clean
from orchestrator.definition.state import RunStatus
from orchestrator.errors import RunError, UnknownRun

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.runs import FlowRun

NOT_DONE = 1
OPEN = tuple(str(each) for each in RunStatus if not each.is_final)
ENDED = tuple(str(each) for each in RunStatus if each.is_final)
RESUMABLE = (str(RunStatus.PAUSED), *(each for each in ENDED if each != RunStatus.SUCCEEDED))
GOING_ON = (str(RunStatus.PENDING), str(RunStatus.RUNNING))
YES = click.option("--yes", is_flag=True, help="Do not ask; needed where nobody can be asked.")
RUNS = click.argument("run_ids", metavar="[RUN]...", nargs=-1)


@command("cancel", example="cancel 3f2a --reason 'ordered twice'")
@RUNS
@click.option("--reason", default="", help="Why; it becomes the run's error.")
@YES
@run_filters
def cancel(session: Session, run_ids: tuple[str, ...], reason: str, chosen: Filter, **options: Any) -> None:
    """Stop runs, and compensate what has succeeded."""

    def stop(run: FlowRun) -> None:
        if (status := run.status).is_final:
            raise RunError(f"it has ended {status} before", run_id=run.id)
        run.cancel(reason)

    _act(session, "cancel", run_ids, chosen.with_default(OPEN), stop, **options)


@command("pause", example="pause 3f2a --reason 'the bank is closed'")
@RUNS
@click.option("--reason", default="", help="Why; explain says it.")
@YES
@run_filters
def pause(session: Session, run_ids: tuple[str, ...], reason: str, chosen: Filter, **options: Any) -> None:
    """Hold runs: nothing of them starts until they are resumed."""
    _act(session, "pause", run_ids, chosen.with_default(GOING_ON), lambda run: run.pause(reason), **options)


@command("resume", example="resume --flow order --status failed --since 2h --yes")
@RUNS
@YES
@run_filters
def resume(session: Session, run_ids: tuple[str, ...], chosen: Filter, **options: Any) -> None:
    """Continue runs that are paused, failed or were cancelled."""
    _act(session, "resume", run_ids, chosen.with_default(RESUMABLE), lambda run: run.resume(), **options)


@command("fork", example="""fork 3f2a --at pack --input '{"item": "lamp"}'""")
@RUNS
@click.option("--at", required=True, help="The node or step to begin at; what was done before is taken over.")
@click.option("--input", "given", help="Another input as JSON, @FILE with it, or - to read it from the standard input.")
@click.option("--output", "outputs", multiple=True, type=Pair(), help="An output before the step: key=JSON.")
@YES
@run_filters
def fork(
    session: Session,
    run_ids: tuple[str, ...],
    *,
    at: str,
    given: str | None,
    outputs: tuple[tuple[str, str], ...],
    chosen: Filter,
    **options: Any,
) -> None:
    """Do ended runs again from a step on, in new runs."""
    changed: dict[str, Any] = {} if given is None else {"input": read_input(given)}
    values = {key: read_input(text, f"--output {key}") for key, text in outputs}
    _act(
        session,
        "fork",
        run_ids,
        chosen.with_default(ENDED),
        lambda run: run.fork(at, outputs=values, **changed).id,
        **options,
    )


@command("undo", example="undo 3f2a --reason 'the customer changed her mind'")
@RUNS
@click.option("--reason", default="", help="Why; it becomes the run's error.")
@YES
@run_filters
def undo(session: Session, run_ids: tuple[str, ...], reason: str, chosen: Filter, **options: Any) -> None:
    """Undo runs that succeeded: what they did is compensated."""
    succeeded = (str(RunStatus.SUCCEEDED),)
    _act(session, "undo", run_ids, chosen.with_default(succeeded), lambda run: run.undo(reason), **options)


@command("delete", example="delete --status succeeded --until 7d --yes")
@RUNS
@YES
@run_filters
def delete(session: Session, run_ids: tuple[str, ...], chosen: Filter, **options: Any) -> None:
    """Delete the records of ended runs before their retention."""
    _act(session, "delete", run_ids, chosen.with_default(ENDED), lambda run: run.delete(), **options)


def _act(
    session: Session, verb: str, run_ids: tuple[str, ...], chosen: Filter, act: Callable[[FlowRun], Any], *, yes: bool
) -> None:
    """Do something to every run that is meant; exit code 1 if it could not be done to one.

    What `act` answers is the id of the run that it made, if it made one.
    """
    if bool(run_ids) == bool(chosen):
        raise click.UsageError(f"name the runs to {verb}, or give a filter such as --flow or --status; not both")
    found = [session.run(name) for name in run_ids] or list(chosen.every(session.orchestrator))
    if chosen:
        confirm(verb, len(found), is_sure=yes)
    results = []
    for run in found:
        try:
            made = act(run)
        except (RunError, UnknownRun) as error:
            results.append({"id": run.id, "is_done": False, "message": clean(str(error)), "made": None})
        else:
            results.append({"id": run.id, "is_done": True, "message": "", "made": made})
    undone = [each for each in results if not each["is_done"]]
    if session.is_json:
        click.echo(as_json({"action": verb, "count": len(found), "runs": results}))
    else:
        for each in results:
            click.echo(
                f"{each['id']}  " + (f"{verb}: {each['made'] or 'done'}" if each["is_done"] else f"{each['message']}")
            )
    if undone:
        raise click.exceptions.Exit(NOT_DONE)


def confirm(verb: str, count: int, *, is_sure: bool) -> None:
    """Say how many runs are meant, and ask unless the operator is sure.

    Raises:
        Refusal: There is nobody to ask.
    """
    runs = f"{count} run{'s' if count != 1 else ''}"
    click.echo(f"{runs} to {verb}", err=True)
    if is_sure or not count:
        return
    if not sys.stdin.isatty():
        raise Refusal(f"nothing was done: add --yes to {verb} {runs}")
    if not click.confirm(f"{verb.capitalize()} {runs}?", err=True):
        raise Refusal("nothing was done")
