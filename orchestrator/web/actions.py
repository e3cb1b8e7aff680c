"""Actions of the tab: every post is checked, asks back before it ends several runs, and leads on to a page."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import tornado.web

from orchestrator.client import Orchestrator
from orchestrator.definition.state import RunStatus
from orchestrator.errors import OrchestratorError, RunError, StoreError
from orchestrator.web import texts
from orchestrator.web.handler import FlowsHandler, PageProblem
from orchestrator.web.listing import FIELDS, BadFilterError, Filters, read_instant, read_tags
from orchestrator.web.pages import FlowPage
from orchestrator.web.schedule_page import plan_backfill

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator import RunRow

MOST_RUNS = 5000
AT_ONCE = 500
OPERATIONS = {
    "cancel": ("Cancel", "cancelled"),
    "pause": ("Pause", "paused"),
    "resume": ("Resume", "resumed"),
    "undo": ("Undo", "undone"),
}


class Act(FlowsHandler):
    """Cancel, pause, resume or undo runs: one, a selection, or all that pass a filter."""

    tab = "runs"

    @tornado.web.authenticated
    async def post(self) -> None:
        """Do it, or show first how many runs it would be."""
        self.refuse_unless_allowed()
        operation = self.get_body_argument("op", "")
        if operation not in OPERATIONS:
            raise PageProblem(400, f"There is no action {operation!r}.")
        ids = self.get_body_arguments("run")
        if self.get_body_argument("confirm", "") == "yes":
            reason = self.get_body_argument("reason", "")
            await self.act(operation, ids, reason)
            return
        filters = Filters(**{name: self.get_body_argument(name, "") for name in FIELDS if name != "cursor"})
        rows = await self.ask(find_runs, operation, ids, filters)
        back = f"{self.reverse_url('flows')}?{filters.address()}"
        title, _ = OPERATIONS[operation]
        self.show("flows_confirm.html", operation=operation, title=title, rows=rows, back=back, most=MOST_RUNS)

    async def act(self, operation: str, ids: Sequence[str], reason: str) -> None:
        """Act on runs, and go back to the one, or to their list with what became of them."""
        by = self.actor
        said = reason.strip() or f"{OPERATIONS[operation][1]} in Flower"
        said += f" (by {by})" if by else ""
        done, refused = await self.ask(act_on, operation, ids, said)
        if len(ids) == 1 and not refused:
            self.redirect(self.reverse_url("flow-run", ids[0]), status=303)
        elif len(ids) == 1:
            raise PageProblem(409, refused[0])
        else:
            self.show("flows_acted.html", done=done, refused=refused, word=OPERATIONS[operation][1], ids=ids)


def find_runs(orchestrator: Orchestrator, operation: str, ids: Sequence[str], filters: Filters) -> list[RunRow]:
    """Return the runs that an action would change: the given ones, or all of a filter; at most 5,000.

    Raises:
        PageProblem: A filter cannot be understood.
    """
    wanted = WANTED[operation]
    if ids:
        rows = [orchestrator.get(run_id).show().run for run_id in ids[:AT_ONCE]]
        return [row for row in rows if wanted(row)]
    found: list[RunRow] = []
    try:
        arguments = filters.arguments()
        while len(found) < MOST_RUNS:
            page = orchestrator.runs(limit=AT_ONCE, **arguments)
            found += [
                row
                for row in page.rows
                if wanted(row) and (operation == "undo" or row.status is not RunStatus.SUCCEEDED)
            ]
            if page.cursor is None:
                break
            arguments["cursor"] = page.cursor
    except (BadFilterError, ValueError) as error:
        raise PageProblem(400, f"{error}.") from error
    return found[:MOST_RUNS]


WANTED: dict[str, Callable[[RunRow], bool]] = {
    "cancel": lambda row: not row.status.is_final,
    "pause": lambda row: row.status in {RunStatus.PENDING, RunStatus.RUNNING},
    "resume": lambda row: row.status.is_final or row.status is RunStatus.PAUSED,
    "undo": lambda row: row.status is RunStatus.SUCCEEDED and row.parent is None,
}
"""The runs that an action would change."""


def act_on(orchestrator: Orchestrator, operation: str, ids: Sequence[str], reason: str) -> tuple[list[str], list[str]]:
    """Act on runs one after the other; returns the ids that were changed, and what was refused."""
    done, refused = [], []
    for run_id in ids[:MOST_RUNS]:
        try:
            run = orchestrator.get(run_id)
            if operation == "cancel":
                run.cancel(reason)
            elif operation == "pause":
                run.pause(reason)
            elif operation == "undo":
                run.undo(reason)
            else:
                run.resume()
            done.append(run_id)
        except StoreError:
            raise
        except RunError as error:
            refused.append(texts.visible(f"{error}"))
    return done, refused


class Start(FlowPage):
    """Start a run of a flow."""

    @tornado.web.authenticated
    async def get(self, name: str) -> None:
        """Lead to the page of the flow, where runs are started; a page that says what was refused stays current."""
        if not self.argument("live"):
            self.redirect(self.reverse_url("flows-flow", name))
        elif not self.is_fresh():
            await self.show_flow(name)

    @tornado.web.authenticated
    async def post(self, name: str) -> None:
        """Start a run and go to it, or say what its input lacks and keep what was typed."""
        self.refuse_unless_allowed()
        fields = ("input", "key", "tags", "delay", "priority")
        given = {field: self.get_body_argument(field, "", strip=False) for field in fields}
        problem, run_id = await self.ask(start_run, name, **given)
        if not problem:
            self.redirect(self.reverse_url("flow-run", run_id), status=303)
            return
        self.set_status(422)
        await self.show_flow(name, given=given.pop("input"), problem=problem, **given)


def start_run(
    orchestrator: Orchestrator, name: str, *, input: str, key: str, tags: str, delay: str, priority: str
) -> tuple[str, str]:
    """Start a run from texts; returns what is wrong with them, or the id of the run."""
    try:
        value = json.loads(input) if input.strip() else None
    except ValueError as error:
        return f"The input is no JSON: {error}.", ""
    given: dict[str, Any] = {"idempotency_key": key.strip() or None}
    try:
        given["delay"] = timedelta(seconds=float(delay)) if delay.strip() else None
    except (ValueError, OverflowError):  # no number, or one that is not finite or beyond every date
        return texts.visible(f"Begin in {delay!r}: give a number of seconds, such as 90, or nothing."), ""
    try:
        given["priority"] = int(priority) if priority.strip() else None
    except ValueError:
        return texts.visible(f"The priority is {priority!r}: give a whole number, such as 0, or nothing."), ""
    try:
        run = orchestrator.start(name, value, tags=read_tags(tags) or None, **given)
    except StoreError:
        raise
    except (OrchestratorError, BadFilterError) as error:
        return texts.visible(error), ""
    return "", run.id


class ChangeLimit(FlowsHandler):
    """Set, reset, freeze or let go a limit."""

    @tornado.web.authenticated
    async def post(self) -> None:
        """Change the numbers of a limit for the whole fleet."""
        self.refuse_unless_allowed()
        values = {
            field: self.get_body_argument(field, "") for field in ("name", "op", "n", "per", "burst", "until", "key")
        }
        said = await self.ask(change_limit, **values)
        self.redirect(f"{self.reverse_url('flows-limits')}?{urlencode({'said': said})}", status=303)


def change_limit(
    orchestrator: Orchestrator, *, name: str, op: str, n: str, per: str, burst: str, until: str, key: str
) -> str:
    """Change a limit; returns what was done, or why it was not."""
    try:
        if op == "reset":
            orchestrator.reset_limit(name)
            return f"{name} has the numbers of its code again."
        if op == "freeze":
            orchestrator.freeze_limit(name, datetime.now(UTC) + timedelta(minutes=float(until)), key=key or None)
            which = f"The key {key} of {name}" if key else name
            return f"{which} is frozen for {texts.lasted(float(until) * 60)}."
        if op == "unfreeze":
            if not key:
                return "Not changed: give the key whose freeze is to end."
            orchestrator.reset_limit(name, key=key)
            return f"The key {key} of {name} is not frozen any more."
        span = timedelta(seconds=float(per)) if per else None
        orchestrator.set_limit(name, float(n), per=span, burst=int(burst) if burst else None)
    except (ValueError, OverflowError) as error:
        return f"Not changed: {error}."
    return f"{name} is set."


class ChangeSchedule(FlowsHandler):
    """Pause, unpause or trigger a schedule."""

    tab = "schedules"

    @tornado.web.authenticated
    async def post(self) -> None:
        """Change a schedule, or start a run of it now and go to that."""
        self.refuse_unless_allowed()
        values = {name: self.get_body_argument(name, "") for name in ("name", "op", "note")}
        said, run_id = await self.ask(change_schedule, by=self.actor, **values)
        back = f"{self.reverse_url('flows-schedules')}?{urlencode({'said': said})}"
        self.redirect(self.reverse_url("flow-run", run_id) if run_id else back, status=303)


def change_schedule(orchestrator: Orchestrator, *, name: str, op: str, note: str, by: str) -> tuple[str, str]:
    """Change a schedule; returns what was done or why it was not, and the id of a run that was started."""
    try:
        if op == "pause":
            orchestrator.pause_schedule(name, note + (f" (by {by})" if by else ""))
            return "The schedule is paused.", ""
        if op == "unpause":
            orchestrator.unpause_schedule(name)
            return "The schedule goes on.", ""
        if op == "trigger":
            return "", orchestrator.trigger_schedule(name).id
    except StoreError:
        raise
    except (OrchestratorError, ValueError) as error:
        return f"Not changed: {error}", ""
    return "Not changed: there is no such action.", ""


class Backfill(FlowsHandler):
    """Start the runs of past instants of a schedule."""

    tab = "schedules"

    @tornado.web.authenticated
    async def post(self) -> None:
        """Show how many runs it would be; start them when that was confirmed."""
        self.refuse_unless_allowed()
        name = self.get_body_argument("name", "")
        is_sure = self.get_body_argument("confirm", "") == "yes"
        try:
            since, until = (read_instant(self.get_body_argument(field, "")) for field in ("since", "until"))
            if since is None or until is None:
                raise PageProblem(400, "A backfill needs both ends of its range.")
            if not is_sure:
                planned = await self.ask(plan_backfill, name, since, until)
                self.show("flows_backfill.html", planned=planned, since=since, until=until)
                return
            filled = await self.ask(Orchestrator.backfill, name, since, until)
            begun = sum(each.is_new for each in filled)
            said = f"{texts.counted(begun, 'run')} started; {len(filled) - begun:,} of the range had one."
        except ValueError as error:
            said = f"Nothing was started: {error}."
        self.redirect(f"{self.reverse_url('flows-schedules')}?{urlencode({'said': said})}", status=303)
