"""A predicate of the run's state decides which nodes run."""

from orchestrator import FlowBuilder, FlowState, Node, manual


def is_large(state: FlowState) -> bool:
    return state.input(int) > 100


def ask_a_person() -> str:
    return "asked a person"


def accept() -> str:
    return "accepted"


flow = (
    FlowBuilder("approval")
    .takes(int)
    .triggered_by(manual("guide"))
    .when(is_large)
    .then(Node("ask", ask_a_person, output_key="answer"))
    .otherwise(Node("accept", accept, output_key="answer"))
    .returns("answer")
    .build()
)


def test_a_run_takes_one_of_the_branches(orchestrator):
    """The decision is stored: after a crash the run goes on where it was, and nobody decides again.

    Nodes of different branches may write one output key, as only one of them runs.
    """
    small, large = orchestrator.start(flow, 5), orchestrator.start(flow, 500)
    assert small.result(str, timeout=30) == "accepted"
    assert large.result(str, timeout=30) == "asked a person"
    assert "ask" not in {event.node for event in small.history()}
