"""A run that has succeeded can be taken back."""

from orchestrator import FlowBuilder, Node, manual


def book() -> str:
    return "seat 12"


def give_back(seat: str) -> None:
    assert seat == "seat 12"


flow = (
    FlowBuilder("taken-back")
    .triggered_by(manual("guide"))
    .then(Node("book", book).on_error(Node("give-back", give_back)))
    .build()
)


def test_the_compensations_of_a_run_that_succeeded_are_called_on_request(orchestrator):
    """Last completed first, as if the run had failed; it ends `cancelled`, and `resume` would do it again."""
    run = orchestrator.start(flow)
    assert run.result(str, timeout=30) == "seat 12"
    run.undo("the customer stays at home")
    assert run.wait(timeout=30) == "cancelled"
    assert (run.error.message, run.history()[-2].node) == ("the customer stays at home", "give-back")
