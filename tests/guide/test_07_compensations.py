"""A run that fails undoes what it has done, last first."""

from orchestrator import FlowBuilder, Node, Terminal, manual


def reserve() -> str:
    return "seat 12"


def free(seat: str) -> None:
    assert seat == "seat 12"


def charge() -> int:
    return 30


def refund(amount: int) -> None:
    assert amount == 30


def print_ticket() -> None:
    raise Terminal("the printer is on fire")


flow = (
    FlowBuilder("booking")
    .triggered_by(manual("guide"))
    .then(Node("reserve", reserve, on_error=Node("free", free)))
    .then(Node("charge", charge, on_error=Node("refund", refund)))
    .then(Node("print", print_ticket))
    .build()
)


def test_what_succeeded_is_undone_in_reverse(orchestrator):
    """A compensation is called with what its node returned. `Terminal` is an error that no retry would mend."""
    run = orchestrator.start(flow)
    assert run.wait(timeout=30) == "failed"
    assert (run.error.node_name, run.error.message) == ("print", "the printer is on fire")
    assert [event.node for event in run.history() if event.event == "succeeded"] == [
        *("reserve", "charge"),
        *("refund", "free"),
    ]
