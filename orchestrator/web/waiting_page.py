"""Page of what runs wait for from people and other systems, oldest first, and the answers given there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tornado.web

from orchestrator.errors import OrchestratorError, StoreError, UnknownRun
from orchestrator.store.waiting_rows import KINDS, count_waiting
from orchestrator.web import fleet_pages, texts
from orchestrator.web.handler import FlowsHandler, PageProblem

if TYPE_CHECKING:
    from orchestrator import Orchestrator
    from orchestrator.store.waiting_rows import WaitingRow

SHOWN = 200
REFUSED = 409


@dataclass(frozen=True)
class Waiting:
    """What the page shows.

    Attributes:
        rows: The nodes that wait longest.
        count: How many wait in all.
    """

    rows: list[WaitingRow]
    count: int


def read_waiting(orchestrator: Orchestrator) -> Waiting:
    """Return the nodes that wait longest for somebody outside, and how many there are."""
    rows = orchestrator.waiting(limit=SHOWN)
    store = orchestrator._engine.store  # noqa: SLF001 - a door reads the store directly
    return Waiting(rows, max(len(rows), sum(count_waiting(store, kind) for kind in KINDS)))


class WaitingPage(FlowsHandler):
    """What waits for somebody."""

    tab = "waiting"
    fresh_s = 4

    @tornado.web.authenticated
    async def get(self) -> None:
        """Show what waits, with the form that answers it."""
        if self.is_fresh():
            return
        page = await self.ask(read_waiting)
        version = fleet_pages.digest((page.rows, page.count))
        self.show_live("flows_waiting.html", "flows_waiting_live.html", version, page=page, actor=self.actor)


class Answer(FlowsHandler):
    """Approve, reject, or send a signal."""

    tab = "waiting"

    @tornado.web.authenticated
    async def post(self) -> None:
        """Answer a node, and go to its run."""
        self.refuse_unless_allowed()
        values = {name: self.get_body_argument(name, "") for name in ("op", "run", "name", "by", "reason", "value")}
        if self.actor:
            values["by"] = self.actor
        else:  # Flower asks nobody who they are
            values["reason"] = f"{values['reason']} (name not verified)".strip()
        await self.ask(give_answer, **values)
        self.redirect(self.reverse_url("flow-run", values["run"]), status=303)


def give_answer(orchestrator: Orchestrator, *, op: str, run: str, name: str, by: str, reason: str, value: str) -> None:
    """Answer what a run waits for.

    Raises:
        PageProblem: It is refused; the text says why.
    """
    found = orchestrator.get(run)
    try:
        if op == "signal":
            found.signal(name, _value_of(value))
        elif op in {"approve", "reject"} and not by.strip():
            raise PageProblem(400, "Say who you are: a vote has a name.")
        elif op == "approve":
            found.approve(name, by=by.strip(), reason=reason)
        elif op == "reject":
            found.reject(name, by=by.strip(), reason=reason)
        else:
            raise PageProblem(400, f"There is no answer {op!r}.")
    except (StoreError, UnknownRun):
        raise
    except OrchestratorError as error:
        raise PageProblem(REFUSED, f"Not done: {texts.error_text(str(error))}.") from error


def _value_of(text: str) -> Any:
    try:
        return json.loads(text) if text.strip() else None
    except ValueError as error:
        raise PageProblem(400, f"The value is no JSON: {error}.") from error
