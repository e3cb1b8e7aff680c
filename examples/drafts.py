"""Example `python -m examples.drafts`: a loop that improves a draft until it is good, with a budget, and a human gate.

Each turn is stored, so that a crash repeats one turn at most and none is paid twice. Nothing is published unseen.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pydantic import BaseModel

from orchestrator import FlowBuilder, Node, NodeContext, approval, manual, run_input

if TYPE_CHECKING:
    from orchestrator import FlowRun, Orchestrator

BUDGET = 5


class Draft(BaseModel):
    """What one turn gives to the next."""

    subject: str
    words: int = 0
    notes: list[str] = []


def improve(ctx: NodeContext, draft: Draft) -> Draft:
    """Call a model with the notes so far; `ctx.idempotency_key` is the same when a turn is repeated after a crash."""
    note = f"turn {ctx.iteration + 1}"  # here a rule stands for the model
    return Draft(subject=draft.subject, words=draft.words + 10 // len(draft.subject), notes=[*draft.notes, note])


def is_good(draft: Draft) -> bool:
    """Whether another turn is not needed."""
    return draft.words >= 6  # noqa: PLR2004


def publish(draft: Draft) -> str:
    """Publish what a person has seen."""
    return f"{draft.subject}: {draft.words} words after {len(draft.notes)} turns"


written = Node("write", improve).with_inputs(subject=run_input).with_repeat(until=is_good, max_iterations=BUDGET)
flow = (
    FlowBuilder("drafts")
    .takes(str)
    .triggered_by(manual("editor"))
    .then(written)
    .then(approval("seen"))
    .then(Node("publish", publish).with_inputs(draft=written))
    .build()
)


def show_what_waits(orchestrator: Orchestrator, run: FlowRun) -> None:
    """Show the editor what a run has written, and let her answer."""
    while run.id not in {row.run_id for row in orchestrator.waiting("drafts", kind="approval")}:
        time.sleep(0.05)
    print("to be seen:", run.output(written).notes)
    run.approve("seen", by="the editor")


def play(orchestrator: Orchestrator) -> None:
    """Write about something easy, and about something for which the budget is too small."""
    easy = orchestrator.start(flow, "fog")
    show_what_waits(orchestrator, easy)
    print(easy.result(str, timeout=60))
    hard = orchestrator.start(flow, "philosophy")
    print(hard.wait(timeout=60), "-", hard.error.message.partition(" [")[0] if hard.error else "")


if __name__ == "__main__":
    from examples.worker import running_worker

    with running_worker() as client:
        play(client)
