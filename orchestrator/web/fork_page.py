"""Page that forks a run: a form with the step, and the input and the outputs that are to be others."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tornado.web

from orchestrator.errors import OrchestratorError, StoreError, UnknownRun
from orchestrator.web import texts
from orchestrator.web.handler import FlowsHandler, PageProblem
from orchestrator.web.run_page import naming_damage

if TYPE_CHECKING:
    from orchestrator import Orchestrator, RunRow

UNFIT = 422
REFUSED = 409
GIVEN = 120
"""Characters of the run's input that the form shows."""


@dataclass(frozen=True)
class ForkPage:
    """What the form shows.

    Attributes:
        run: The run.
        steps: Where it can be forked, in the order of the flow.
        given: Its input, cut; empty for none.
    """

    run: RunRow
    steps: tuple[str, ...]
    given: str


@naming_damage
def read_fork(orchestrator: Orchestrator, run_id: str) -> ForkPage:
    """Return the form of a run.

    Raises:
        UnknownRun: There is none.
        PageProblem: It cannot be forked.
        StoreError: Redis.
    """
    view = orchestrator.get(run_id).show()
    if view.run.parent:
        raise PageProblem(REFUSED, "A run that another one has started is forked with the run at the top of its tree.")
    if view.run.finished is None:
        raise PageProblem(REFUSED, "Only a run that has ended can be forked: wait for it, or cancel it.")
    others = ("compensation", "expand")
    steps = tuple(row.name for row in view.nodes if row.kind not in others and "[" not in row.name)
    return ForkPage(view.run, steps, " ".join(texts.visible(view.input or "").split())[:GIVEN])


class Fork(FlowsHandler):
    """Fork a run at a step."""

    tab = "runs"

    @tornado.web.authenticated
    async def get(self, run_id: str) -> None:
        """Show the form, with the step that the address names."""
        self.refuse_unless_allowed()
        await self.show_form(run_id, at=self.argument("at").partition("[")[0])

    @tornado.web.authenticated
    async def post(self, run_id: str) -> None:
        """Fork the run and go to the new one, or say why not and keep what was typed."""
        self.refuse_unless_allowed()
        typed = {name: self.get_body_argument(name, "", strip=False) for name in ("at", "input", "outputs")}
        problem, made = await self.ask(fork_run, run_id, **typed)
        if not problem:
            self.redirect(self.reverse_url("flow-run", made), status=303)
            return
        self.set_status(UNFIT)
        await self.show_form(run_id, at=typed["at"], given=typed["input"], outputs=typed["outputs"], problem=problem)

    async def show_form(self, run_id: str, **typed: str) -> None:
        """Show the form with what was typed."""
        page = await self.ask(read_fork, run_id)
        self.show("flows_fork.html", page=page, **({"given": "", "outputs": "", "problem": ""} | typed))


def fork_run(orchestrator: Orchestrator, run_id: str, *, at: str, input: str, outputs: str) -> tuple[str, str]:
    """Fork a run from texts; returns why it was not, or the id of the new run."""
    more: dict[str, Any] = {}
    for name, text in (("input", input), ("outputs", outputs)):
        try:
            if text.strip():
                more[name] = json.loads(text)
        except (ValueError, RecursionError) as error:
            return f"{name}: it is no JSON: {texts.visible(error)}.", ""
    if not isinstance(more.get("outputs", {}), dict):
        return 'outputs: it is no JSON object, such as {"price": 12}.', ""
    try:
        return "", orchestrator.get(run_id).fork(at, **more).id
    except (StoreError, UnknownRun):
        raise
    except OrchestratorError as error:
        return texts.error_text(str(error)), ""
