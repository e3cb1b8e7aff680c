"""A node can have its work done elsewhere, and be completed by whoever has its callback."""

from pathlib import Path

import pytest

from orchestrator import FlowBuilder, FlowState, Node, NodeContext, StaleCallback, manual
from tests.harness import wait_until


def letter_box(state: FlowState) -> str:
    return state.input(str)


def order_film(ctx: NodeContext, box: str) -> str:
    """Give the callback away, here by a file, and wait."""
    Path(box).write_text(ctx.callback)
    film: str = ctx.defer()
    return film


flow = (
    FlowBuilder("film")
    .takes(str)
    .triggered_by(manual("guide"))
    .then(Node("render", order_film, input_func=letter_box))
    .build()
)


def test_a_node_is_completed_from_outside_once(orchestrator, tmp_path):
    """Nothing of the node runs meanwhile. The callback says everything: whoever has it needs no run and no flow."""
    box = tmp_path / "letter"
    run = orchestrator.start(flow, str(box))
    wait_until(lambda: [row.run_id for row in orchestrator.waiting("film")] == [run.id], "it waits")
    orchestrator.complete(box.read_text(), "film.mp4")
    assert run.result(str, timeout=30) == "film.mp4"
    with pytest.raises(StaleCallback):
        orchestrator.complete(box.read_text(), "again.mp4")
