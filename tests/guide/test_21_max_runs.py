"""Only so many runs of a flow go on at once, of all clients and workers."""

from pydantic import BaseModel

from orchestrator import FlowBuilder, manual, signal
from tests.harness import wait_until


class Change(BaseModel):
    customer: str


flow = (
    FlowBuilder("changes")
    .takes(Change)
    .with_max_runs(1, key="customer")
    .triggered_by(manual("guide"))
    .then(signal("done", str))
    .build()
)


def test_a_further_run_begins_when_another_one_has_ended(orchestrator):
    """Here one for each customer. A run that waits its turn is `pending`; runs begin in the order of the starts."""
    first, second = (orchestrator.start(flow, Change(customer="ann")) for _ in range(2))
    other = orchestrator.start(flow, Change(customer="bob"))
    wait_until(lambda: other.explain()[0].state == "waiting", "another customer waits for nobody")
    assert second.status == "pending"
    assert second.explain()
    first.signal("done", "first")
    assert first.result(str, timeout=30) == "first"
    for run in (second, other):
        run.signal("done", "later")
        assert run.result(str, timeout=30) == "later"
