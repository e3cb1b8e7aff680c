"""Nodes of a parallel step run at the same time, and the step behind waits for all of them."""

from orchestrator import FlowBuilder, FlowState, Node, manual


def ask_rail() -> int:
    return 40


def ask_road() -> int:
    return 30


def offers(state: FlowState) -> list[int]:
    return [state.get("rail", int), state.get("road", int)]


def choose(prices: list[int]) -> int:
    return min(prices)


flow = (
    FlowBuilder("offers")
    .triggered_by(manual("guide"))
    .then_parallel("ask", Node("rail", ask_rail), Node("road", ask_road))
    .then(Node("cheapest", choose, input_func=offers))
    .build()
)


def test_the_step_behind_begins_when_every_member_has_ended(orchestrator):
    """Members are tasks of their own, for whichever workers are free; they do not see each other's outputs."""
    run = orchestrator.start(flow)
    assert run.result(int, timeout=30) == 30
    order = [event.node for event in run.history() if event.event == "succeeded"]
    assert sorted(order[:2]) == ["rail", "road"]
    assert order[2] == "cheapest"
