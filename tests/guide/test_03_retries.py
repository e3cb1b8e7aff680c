"""A failed attempt is made again, as the node's retry policy says."""

from datetime import timedelta

from orchestrator import FlowBuilder, Node, NodeContext, RetryPolicy, manual

SOON = RetryPolicy(initial_interval=timedelta(milliseconds=100), maximum_attempts=3)


def call_a_shaky_service(ctx: NodeContext) -> str:
    if ctx.attempt < 3:
        raise ConnectionError("no answer")
    return f"answered at attempt {ctx.attempt}"


flow = FlowBuilder("shaky").triggered_by(manual("guide")).then(Node("call", call_a_shaky_service, retry=SOON)).build()


def test_an_attempt_that_fails_is_made_again(orchestrator):
    """The second attempt comes after the policy's interval, and no worker is held meanwhile: waiting is a row in Redis.

    A node of which the last attempt failed ends the run. The run's history tells of each attempt.
    """
    run = orchestrator.start(flow)
    assert run.result(str, timeout=30) == "answered at attempt 3"
    events = [event.event for event in run.history() if event.node == "call"]
    assert events == ["started", "retrying", "started", "retrying", "started", "succeeded"]
