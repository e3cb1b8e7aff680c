"""A run can wait for somebody: paused from outside, or by a node that is out of attempts."""

from pathlib import Path

from orchestrator import FlowBuilder, FlowState, Node, RetryPolicy, manual
from tests.harness import wait_until

ASK_SOMEBODY = RetryPolicy(maximum_attempts=1, on_exhausted="pause")


def path(state: FlowState) -> str:
    return state.input(str)


def read_order(path: str) -> str:
    return Path(path).read_text()


flow = (
    FlowBuilder("paused-import")
    .takes(str)
    .triggered_by(manual("guide"))
    .then(Node("order", read_order, input_func=path, retry=ASK_SOMEBODY).on_error(Node("forget", lambda: None)))
    .build()
)


def test_a_node_out_of_attempts_waits_for_resume(orchestrator, tmp_path):
    """Nothing is undone meanwhile; `explain` says what it waits for, and `resume` gives it fresh attempts.

    `run.pause(reason)` stops a whole run in the same way: what runs is finished, and nothing new starts.
    """
    order = tmp_path / "order"
    run = orchestrator.start(flow, str(order))
    wait_until(lambda: run.status == "paused", "its only attempt has failed")
    assert "waits for resume()" in run.explain()[0].reason

    run.pause("the clerk is asked")
    order.write_text("one lamp")
    run.resume()
    assert run.result(str, timeout=30) == "one lamp"
