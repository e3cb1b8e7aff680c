"""Options that choose runs: ids, or a filter over all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.completion import FlowName
from orchestrator.cli.session import Instant, Pair, Session
from orchestrator.definition.state import RunStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from orchestrator.client import Orchestrator
    from orchestrator.runs import FlowRun

AT_ONCE = 500


@dataclass(frozen=True)
class Filter:
    """Which runs are meant; what is not given does not matter.

    Attributes:
        flow: Name of their flow.
        status: Any of these statuses.
        since: Started at or after.
        until: Started before.
        tag: All of these tags.
        parent: Children of this run.
        text: Part of the id, the idempotency key or the error.
    """

    flow: str | None
    status: tuple[str, ...]
    since: datetime | None
    until: datetime | None
    tag: dict[str, str]
    parent: str | None
    text: str | None

    def __bool__(self) -> bool:
        """Whether anything was given."""
        return any(value for value in vars(self).values())

    def with_default(self, statuses: tuple[str, ...]) -> Filter:
        """Return the filter with these statuses if it names none; nothing given stays nothing."""
        return replace(self, status=statuses) if self and not self.status else self

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `Orchestrator.runs`."""
        return {name: value for name, value in vars(self).items() if value}

    def every(self, orchestrator: Orchestrator) -> Iterator[FlowRun]:
        """Yield every run that is meant, newest first, page by page."""
        cursor = None
        while True:
            page = orchestrator.runs(**self.arguments(), limit=AT_ONCE, cursor=cursor)
            yield from page
            cursor = page.cursor
            if cursor is None:
                return


def run_filters(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a filter to a command, which gets a `Filter` as `chosen`."""

    def run(session: Session, *args: Any, **options: Any) -> Any:
        given = {name: options.pop(name) for name in Filter.__dataclass_fields__}
        given["tag"] = dict(given["tag"])
        if given["parent"] is not None:
            given["parent"] = session.run(given["parent"]).id
        return function(session, *args, chosen=Filter(**given), **options)

    run.__doc__, run.__name__ = function.__doc__, function.__name__
    # Options of the command itself were added to the function before.
    run.__click_params__ = list(getattr(function, "__click_params__", ()))  # type: ignore[attr-defined] # click's own
    for option in reversed(OPTIONS):
        run = option(run)
    return run


OPTIONS = (
    click.option("--flow", type=FlowName(), help="Runs of this flow."),
    click.option(
        "--status", multiple=True, type=click.Choice([str(each) for each in RunStatus]), help="With this status."
    ),
    click.option("--since", type=Instant(), help="Started at or after an instant, or 30m, 2h, 7d ago."),
    click.option("--until", type=Instant(), help="Started before an instant."),
    click.option("--tag", multiple=True, type=Pair(), help="With this tag, name=value."),
    click.option("--parent", metavar="RUN", help="Children of this run."),
    click.option("--text", help="Whose id, idempotency key or error has this in it."),
)
