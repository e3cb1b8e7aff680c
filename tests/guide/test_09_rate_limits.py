"""A rate limit holds over all workers, and a node that waits for it holds none of them."""

from datetime import timedelta
from itertools import pairwise

from orchestrator import FlowBuilder, Node, SharedRateLimiter, manual

TEN_A_SECOND = SharedRateLimiter("guide-api", 10, per=timedelta(seconds=1), burst=1)


def call_the_api() -> str:
    return "answered"


calls = [Node(f"call-{number}", call_the_api, shared_rate_limit=TEN_A_SECOND) for number in range(5)]
flow = FlowBuilder("calls").triggered_by(manual("guide")).then_parallel("all", *calls).build()


def test_starts_are_as_far_apart_as_the_limit_says(orchestrator):
    """Equal names share one bucket, in every flow and on every machine. With a burst of 1 calls are evenly spaced."""
    run = orchestrator.start(flow)
    assert run.wait(timeout=30) == "succeeded"
    starts = sorted(event.at for event in run.history() if event.event == "started")
    assert len(starts) == 5
    assert all(later - earlier >= timedelta(milliseconds=98) for earlier, later in pairwise(starts))
