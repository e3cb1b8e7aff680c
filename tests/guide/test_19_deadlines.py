"""A node can have a deadline, however many attempts it makes until then."""

from datetime import timedelta

from orchestrator import FlowBuilder, Node, RetryPolicy, manual

SELDOM = RetryPolicy(initial_interval=timedelta(minutes=1), maximum_attempts=1000)


def call_a_broken_service() -> None:
    raise ConnectionError("no answer")


flow = (
    FlowBuilder("deadline")
    .triggered_by(manual("guide"))
    .then(Node("call", call_a_broken_service, retry=SELDOM).with_deadline(timedelta(seconds=30)))
    .build()
)


def test_no_attempt_follows_behind_the_deadline(orchestrator):
    """`with_timeout` limits one attempt, `with_deadline` all of them with the time between, from when it is ready."""
    run = orchestrator.start(flow)
    assert run.wait(timeout=30) == "failed"
    assert (run.error.type, run.error.attempt) == ("builtins.ConnectionError", 1)
