"""Command `start`: start a run from a terminal, and wait for it if asked to."""

from __future__ import annotations

import json
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.completion import FlowName
from orchestrator.cli.problems import Refusal
from orchestrator.cli.session import Pair, Session, command
from orchestrator.cli.text import as_json_line, clean, state
from orchestrator.definition.state import RunStatus

if TYPE_CHECKING:
    from orchestrator.runs import FlowRun

NOBODY_S = 5.0
FAILED = 1


@command("start", example="""start order --input '{"item": "lamp"}' --tag shop=west --priority 3""")
@click.argument("flow", type=FlowName())
@click.option("--input", "given", help="The input as JSON, @FILE with it, or - to read it from the standard input.")
@click.option("--key", help="Idempotency key: the same one returns the first run.")
@click.option("--tag", "tags", multiple=True, type=Pair(), help="A tag, name=value; more than one may be given.")
@click.option("--priority", type=int, help="The broker's own number for its messages; with Redis 0 to 9, 0 first.")
@click.option("--delay", type=float, help="Let the run begin so many seconds from now.")
@click.option("--wait", "is_waiting", is_flag=True, help="Wait for the end; exit code 1 unless it succeeded.")
@click.option("--timeout", type=float, help="With --wait: at most so many seconds.")
def start(
    session: Session,
    flow: str,
    *,
    given: str | None,
    key: str | None,
    tags: tuple[tuple[str, str], ...],
    priority: int | None,
    delay: float | None,
    is_waiting: bool,
    timeout: float | None,
) -> None:
    """Start a run of a flow and print its id."""
    begins, given_input = _delay_of(delay), read_input(given)
    run = session.orchestrator.start(
        flow, given_input, idempotency_key=key, tags=dict(tags), delay=begins, priority=priority
    )
    if not is_waiting:
        session.print({"id": run.id, "flow": flow, "status": str(run.status)}, lambda: [run.id])
        return
    if not session.is_json:
        click.echo(run.id)
    status = wait(run, timeout)
    error = run.error
    result = _result(session, run) if status is RunStatus.SUCCEEDED else None
    found = {
        "id": run.id,
        "flow": flow,
        "status": str(status),
        "result": result,
        "error": str(error) if error else None,
    }
    lines = [state(str(status)), *([clean(error)] if error else []), *([clean(as_json_line(result))] if result else [])]
    session.print(found, lambda: lines)
    if status is not RunStatus.SUCCEEDED:
        raise click.exceptions.Exit(FAILED)


def _delay_of(seconds: float | None) -> timedelta | None:
    try:
        return None if seconds is None else timedelta(seconds=seconds)
    except (ValueError, OverflowError) as error:  # not finite, or beyond every date
        raise Refusal(f"--delay is {seconds}: give a number of seconds, such as 90") from error


def _result(session: Session, run: FlowRun) -> Any:
    plan = run.show().plan
    return session.orchestrator.redaction.output(plan.result_key if plan else "", run.result())


def read_input(given: str | None, where: str = "--input") -> Any:
    """Return the JSON of an option: text, `@file`, or `-` for the standard input.

    Raises:
        Refusal: It cannot be read, or is no JSON.
    """
    if given is None:
        return None
    option = where
    if given == "-":
        where, given = "the standard input", sys.stdin.read()
    elif given.startswith("@"):
        where = given[1:]
        try:
            given = Path(where).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Refusal(f"{clean(where)} cannot be read: {clean(error)}") from error
    try:
        return json.loads(given)
    except ValueError as error:
        raise Refusal(
            f"""{clean(where)} is no JSON: {error}. A text needs quotes of its own: {option} '"lamp"'"""
        ) from error


def wait(run: FlowRun, timeout: float | None) -> RunStatus:
    """Wait for the end of a run; after 5 s without an attempt, say on the standard error what it waits for."""
    began = time.monotonic()
    first = NOBODY_S if timeout is None else min(NOBODY_S, timeout)
    try:
        return run.wait(first)
    except TimeoutError:
        if timeout is not None and timeout <= first:
            raise
    waits = run.explain()
    if waits and all(each.attempt == 0 for each in waits):
        for each in waits:
            click.echo(f"no worker answers: {clean(each.node)} {clean(each.reason)}", err=True)
    return run.wait(None if timeout is None else max(timeout - (time.monotonic() - began), 0))
