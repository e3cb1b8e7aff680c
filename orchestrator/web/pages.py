"""Pages of the tab that are read: each asks one query in a thread and renders it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import tornado.web
from tornado.httputil import url_concat

from orchestrator.client import Orchestrator
from orchestrator.redaction import HIDDEN
from orchestrator.web import fleet_pages, run_page, texts
from orchestrator.web.children import Opened, read_opened
from orchestrator.web.handler import FlowsHandler, PageProblem
from orchestrator.web.listing import FIELDS, GROUPS, SPANS, BadFilterError, Filters, read_instant, read_listing
from orchestrator.web.marks import words_of
from orchestrator.web.schedule_page import read_schedules

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.web.shapes import Box

FRESH_S = 10
"""An open page is read anew this often although its run stands still, for queues and wait queues move without it."""
INPUT = "-input"


def filters_of(handler: FlowsHandler) -> Filters:
    """Return the filters of a page's address."""
    return Filters(**{name: handler.argument(name) for name in FIELDS})


class RunsPage(FlowsHandler):
    """The runs: counts by status, filters, one page of fifty."""

    tab = "runs"
    fresh_s = 4

    @tornado.web.authenticated
    async def get(self) -> None:
        """Show the runs that pass the filters of the address."""
        if self.is_fresh():
            return
        filters = filters_of(self)
        try:
            listing = await self.ask(read_listing, filters)
        except BadFilterError as error:
            raise PageProblem(400, f"{error}.") from error
        self.show_live(
            "flows_runs.html",
            "flows_runs_live.html",
            listing.version,
            listing=listing,
            filters=filters,
            groups=GROUPS,
            spans=SPANS,
            since=read_instant(filters.since),
            until=read_instant(filters.until),
            flows=[row.flow for row in listing.by_flow],
        )


class RunPage(FlowsHandler):
    """One run."""

    tab = "runs"

    @tornado.web.authenticated
    async def get(self, run_id: str) -> None:
        """Show a run; of an open page that has the present version, nothing is read."""
        known = self.argument("live")
        moment = f"~{int(time.time() / FRESH_S)}"
        if known.endswith(moment):
            version = await self.ask(run_page.version_of, run_id)
            if version + moment == known:
                self.set_status(204)
                return
        unfold = self.argument("all") == "1"
        page = await self.ask(
            run_page.read_run,
            run_id,
            run_page.Look(
                selected=self.argument("node"),
                attempt=self.argument("attempt"),
                items=self.argument("items"),
                opened=self.opened(run_id),
                link=self.link(run_id),
                unfold=unfold,
            ),
        )
        ended = page.view.run.finished is not None
        self.show_live(
            "flows_run.html",
            "flows_run_live.html",
            page.version + ("" if ended else moment),
            page=page,
            view=page.view,
            run=page.view.run,
            unfold=unfold,
            there=self.address(run_id),
            describe=run_page.describe_event,
            failure_text=run_page.failure_text,
            words_of=words_of,
            most_items=run_page.FAILED_ITEMS,
            most_attempts=run_page.ATTEMPTS,
            actor=self.actor,
        )

    def address(self, run_id: str) -> Callable[..., str]:
        """Return a function that gives the address of this page with other arguments, looked at as it is now."""
        here, kept = self.reverse_url("flow-run", run_id), dict(self.kept("all", "open"))

        def there(**given: object) -> str:
            values = {name: "" if value is None else str(value) for name, value in (given | kept | given).items()}
            return url_concat(here, [(name, value) for name, value in values.items() if value])

        return there

    def kept(self, *names: str) -> list[tuple[str, str]]:
        """Return what a link leaves as it is: how the page is looked at."""
        return [(name, self.argument(name)) for name in names if self.argument(name)]

    def link(self, run_id: str) -> Callable[[Box], str]:
        """Return where the boxes of the graph lead: to the page of their run with their node beside it."""
        more = self.kept("all", "open")

        def address(box: Box) -> str:
            here, own = self.reverse_url("flow-run", box.run_id or run_id), more if not box.run_id else []
            if box.is_fold:
                return url_concat(here, [*own, ("all", "1")])
            return url_concat(here, [("node", box.nodes[0]), *own]) if box.nodes else ""

        return address

    def opened(self, run_id: str) -> Opened:
        """Return which children are open in the graph and in the tree."""
        more = self.kept("all", "node")

        def address(ids: tuple[str, ...]) -> str:
            opens = [("open", ".".join(ids))] if ids else []
            return url_concat(self.reverse_url("flow-run", run_id), [*more, *opens])

        return Opened(read_opened(self.argument("open")), address, lambda other: self.reverse_url("flow-run", other))


class Output(FlowsHandler):
    """One stored output as a file, without the fields that `Settings.redact` names."""

    @tornado.web.authenticated
    async def get(self, run_id: str, key: str) -> None:
        """Send the whole JSON of an output, or of the run's input."""
        content = await self.ask(read_output, run_id, key)
        if content is None:
            raise PageProblem(404, f"Run {run_id} has stored no output {key}.")
        self.set_header("Content-Type", "application/json; charset=utf-8")
        name = "".join(letter for letter in key if letter.isalnum() or letter in "-_") or "output"
        self.set_header("Content-Disposition", f'attachment; filename="{run_id[:8]}-{name.strip("-")}.json"')
        self.finish(content)


def read_output(orchestrator: Orchestrator, run_id: str, key: str) -> str | None:
    """Return the JSON of an output, `-input` being the run's input; None if there is none."""
    store = orchestrator._engine.store  # noqa: SLF001 - a door reads the store directly
    orchestrator.get(run_id)
    if key == INPUT:
        found = store.input(run_id)
    elif orchestrator.redaction.hides(key):
        return f'"{HIDDEN}"'
    else:
        found = store.outputs(run_id, [key]).get(key)
    return None if found is None else orchestrator.redaction.text(found)


class FlowsPage(FlowsHandler):
    """The flows, with how their runs end."""

    tab = "flows"
    fresh_s = FRESH_S

    @tornado.web.authenticated
    async def get(self) -> None:
        """Show every flow that is registered in Flower's app or announced by a worker."""
        if self.is_fresh():
            return
        rows = await self.ask(fleet_pages.read_flows)
        seen = [(row.counts, row.next, row.p50, [(each.id, each.status) for each in row.last]) for row in rows]
        self.show_live("flows_flows.html", "flows_flows_live.html", fleet_pages.digest(seen), rows=rows)


class FlowPage(FlowsHandler):
    """One flow: its graph, schedules, figures and the box that starts a run."""

    tab = "flows"
    fresh_s = FRESH_S

    @tornado.web.authenticated
    async def get(self, name: str) -> None:
        """Show a flow; of an open page all but the box, in which somebody may be typing."""
        if not self.is_fresh():
            await self.show_flow(name)

    async def show_flow(self, name: str, **given: Any) -> None:
        """Show a flow, after a start that was refused with what was given and why."""
        page = await self.ask(fleet_pages.read_flow, name)
        values = dict.fromkeys(("given", "key", "tags", "delay", "priority", "problem"), "") | given
        runs = f"{self.reverse_url('flows')}?{urlencode({'flow': name, 'children': '1'})}"
        self.show_live(
            "flows_flow.html", "flows_flow_live.html", page.version, page=page, name=name, runs_address=runs, **values
        )


class LimitsPage(FlowsHandler):
    """The limits of the fleet."""

    tab = "limits"

    @tornado.web.authenticated
    async def get(self) -> None:
        """Show every limit with its fill and queue."""
        rows = await self.ask(Orchestrator.limits)
        said = texts.visible(self.argument("said"))
        self.show_live("flows_limits.html", "flows_limits_live.html", fleet_pages.digest(rows), rows=rows, said=said)


class SchedulesPage(FlowsHandler):
    """The schedules."""

    tab = "schedules"
    fresh_s = FRESH_S

    @tornado.web.authenticated
    async def get(self) -> None:
        """Show every schedule of the flows that are registered in Flower's app."""
        if self.is_fresh():
            return
        rows = await self.ask(read_schedules)
        said = texts.visible(self.argument("said"))
        version = fleet_pages.digest(rows)
        self.show_live("flows_schedules.html", "flows_schedules_live.html", version, rows=rows, said=said)


class WorkersPage(FlowsHandler):
    """The workers, and above them what is wrong with the fleet."""

    tab = "workers"
    fresh_s = FRESH_S

    @tornado.web.authenticated
    async def get(self) -> None:
        """Show every live worker that takes flows."""
        if self.is_fresh():
            return
        page = await self.ask(fleet_pages.read_workers)
        version = fleet_pages.digest((page.rows, page.findings, page.unserved))
        self.show_live("flows_workers.html", "flows_workers_live.html", version, page=page)
