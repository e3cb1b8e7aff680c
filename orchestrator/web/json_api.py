"""Queries of the pages as JSON, with the rights of the pages."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import tornado.web

from orchestrator.client import Orchestrator
from orchestrator.web import fleet_pages
from orchestrator.web.handler import FlowsHandler, PageProblem
from orchestrator.web.listing import PAGE, BadFilterError
from orchestrator.web.pages import filters_of
from orchestrator.web.run_page import naming_damage
from orchestrator.web.schedule_page import read_schedules

if TYPE_CHECKING:
    from orchestrator import RunView

READERS: dict[str, Any] = {
    "counts": Orchestrator.counts,
    "findings": fleet_pages.read_findings,
    "flows": fleet_pages.read_flows,
    "limits": Orchestrator.limits,
    "schedules": read_schedules,
    "waiting": Orchestrator.waiting,
    "workers": Orchestrator.workers,
}


class Runs(FlowsHandler):
    """Runs by the filters of the page of runs."""

    @tornado.web.authenticated
    async def get(self) -> None:
        """Send a page of runs; `cursor` of the answer is where the next one begins."""
        filters = filters_of(self)
        try:
            page = await self.ask(partial(Orchestrator.runs, limit=PAGE, **filters.arguments()))
        except (BadFilterError, ValueError) as error:
            raise PageProblem(400, f"{error}.") from error
        self.finish(page.to_json())


class Run(FlowsHandler):
    """One run."""

    @tornado.web.authenticated
    async def get(self, run_id: str) -> None:
        """Send a run with its nodes."""
        view = await self.ask(show, run_id)
        self.finish(view.to_json())


@naming_damage
def show(orchestrator: Orchestrator, run_id: str) -> RunView:
    """Return a run; raises as `Orchestrator.get`, and DamagedRunError."""
    return orchestrator.get(run_id).show()


class Flow(FlowsHandler):
    """One flow."""

    @tornado.web.authenticated
    async def get(self, name: str) -> None:
        """Send a flow with its steps, schedules and the statistics of its nodes."""
        page = await self.ask(fleet_pages.read_flow, name)
        self.finish(page.to_json())


class Listing(FlowsHandler):
    """The other pages."""

    @tornado.web.authenticated
    async def get(self, what: str) -> None:
        """Send the rows of a page: counts, findings, flows, limits, schedules, what waits, or workers."""
        reader = READERS.get(what)
        if reader is None:
            raise PageProblem(404, f"There is no list of {what}.")
        rows: Any = await self.ask(reader)
        self.finish({what: [row.to_json() for row in rows]})
