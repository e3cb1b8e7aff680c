"""Session of a command: the orchestrator of the app that `-A` names, and the output in lines or as JSON."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import click

from orchestrator.cli.problems import Refusal
from orchestrator.cli.text import as_json, clean
from orchestrator.client import Orchestrator
from orchestrator.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orchestrator.runs import FlowRun

Parameters = ParamSpec("Parameters")
FULL_ID = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SPAN = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d|w)")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
NAMED = 5
PAGES = 20


@dataclass(frozen=True)
class Session:
    """What a command works with.

    Attributes:
        orchestrator: Of the app.
        is_json: Whether the output is JSON.
    """

    orchestrator: Orchestrator
    is_json: bool

    def print(self, data: Any, lines: Callable[[], Iterable[str] | None]) -> None:
        """Print data as JSON, or else the lines; what `lines` prints itself it leaves out."""
        if self.is_json:
            click.echo(as_json(data))
            return
        for line in lines() or ():
            click.echo(line)

    def run(self, name: str) -> FlowRun:
        """Return the run with an id, or the one whose id begins with a text.

        Raises:
            UnknownRun: There is none.
            Refusal: There are several.
        """
        if FULL_ID.fullmatch(name):
            return self.orchestrator.get(name)
        found: dict[str, FlowRun] = {}
        cursor = None
        for _ in range(PAGES):
            page = self.orchestrator.runs(text=name, children=True, cursor=cursor)
            found |= {run.id: run for run in page if run.id.startswith(name)}
            cursor = page.cursor
            if cursor is None:
                break
        if len(found) > 1:
            shown = ", ".join(sorted(found)[:NAMED])
            raise Refusal(f"{clean(name)} begins the ids of {len(found)} runs: {shown}; write more of it")
        return next(iter(found.values())) if found else self.orchestrator.get(name)


def command(name: str, *, example: str) -> Callable[[Callable[Concatenate[Session, Parameters], Any]], click.Command]:
    """Make a click command of a function that gets a session; its help ends with an example, which a test runs."""

    def decorate(function: Callable[Concatenate[Session, Parameters], Any]) -> click.Command:
        @functools.wraps(function)
        def run(*args: Any, as_json: bool, **options: Any) -> Any:
            return function(Session(orchestrator_of(click.get_current_context()), as_json), *args, **options)

        option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
        return click.command(name, epilog=f"Example: celery -A proj flow {example}")(option(run))

    return decorate


def orchestrator_of(context: click.Context) -> Orchestrator:
    """Return the orchestrator of the app that the command was given, with every flow that it finds registered.

    Raises:
        Refusal: The app has none.
    """
    app = context.obj.app
    app.loader.import_default_modules()
    engine: Engine | None = getattr(app, Engine.ATTRIBUTE, None)
    if engine is None:
        named = _given_app(context)
        wrong = f"the app of -A {clean(named)} has" if named else "no app was named with -A, and the default one has"
        raise Refusal(
            f"{wrong} no orchestrator. Name the module that calls Orchestrator(app): celery -A shop flow ..., or begin "
            "with `orchestrator dev`, which needs no app"
        )
    engine.discovery.catch_up()
    return Orchestrator(app, engine.store.address.url, engine.settings)


def _given_app(context: click.Context) -> str:
    given = context.find_root().params.get("app")
    return given if isinstance(given, str) else ""


class Instant(click.ParamType):  # type: ignore[type-arg] # generic since click 8.2
    """An instant: ISO 8601, or how long ago, such as 30m, 2h or 7d."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return an aware instant; one without a zone is in UTC."""
        if isinstance(value, datetime):
            return value
        try:
            if found := SPAN.fullmatch(value):
                return datetime.now(UTC) - timedelta(**{UNITS[found[2]]: float(found[1])})
            parsed = datetime.fromisoformat(value)
        except (ValueError, OverflowError):  # of weeks that go back before any date, too
            self.fail(f"{clean(value)!r} is no instant; write 2026-05-01T12:00 or 30m, 2h, 7d ago", param, ctx)
        return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


class Pair(click.ParamType):  # type: ignore[type-arg] # generic since click 8.2
    """A name and a value: name=value."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Return both."""
        if isinstance(value, tuple):
            return value
        name, equals, text = value.partition("=")
        if not equals or not name:
            self.fail(f"{clean(value)!r} is no pair; write name=value", param, ctx)
        return name, text
