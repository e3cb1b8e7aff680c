"""A run that has ended can be done again from a step on, by a new run."""

from orchestrator import FlowBuilder, Node, manual


def measure() -> int:
    return 41


def report(degrees: int) -> str:
    return f"{degrees} degrees"


flow = (
    FlowBuilder("weather")
    .triggered_by(manual("guide"))
    .then(Node("measure", measure))
    .then(Node("report", report).with_inputs(degrees="measure"))
    .build()
)


def test_a_fork_takes_over_what_was_done_before_its_step(orchestrator):
    """Here with a correction in place of one output; the first run stays as it is, and each knows the other."""
    run = orchestrator.start(flow)
    assert run.result(str, timeout=30) == "41 degrees"
    fork = run.fork(at="report", outputs={"measure": 14})
    assert fork.result(str, timeout=30) == "14 degrees"
    assert [event.node for event in fork.history() if event.event == "started"] == ["report"]
    assert (run.output("report"), run.forks()[0].id, fork.forked_from.id) == ("41 degrees", fork.id, run.id)
