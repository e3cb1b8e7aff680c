"""A map calls one node for each item of a list that is known only when the run is there."""

from orchestrator import FlowBuilder, FlowState, Node, manual


def words(state: FlowState) -> list[str]:
    return state.input(str).split()


def measure(word: str) -> int:
    return len(word)


def lengths(state: FlowState) -> list[int]:
    return state.get("measure", list[int])


def find_longest(lengths: list[int]) -> int:
    return max(lengths)


flow = (
    FlowBuilder("lengths")
    .takes(str)
    .triggered_by(manual("guide"))
    .then_map("each-word", Node("measure", measure), over=words)
    .then(Node("longest", find_longest, input_func=lengths))
    .build()
)


def test_each_item_is_a_call_of_its_own(orchestrator):
    """Items run side by side and are retried one by one; their outputs are a list in the order of the items."""
    run = orchestrator.start(flow, "a flow of many words")
    assert run.result(int, timeout=30) == 5
    assert run.output("measure", list[int]) == [1, 4, 2, 4, 5]
