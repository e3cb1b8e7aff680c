"""A run can wait for people who agree."""

from orchestrator import Approval, FlowBuilder, FlowState, Node, approval, manual
from tests.harness import wait_until


def voters(state: FlowState) -> list[str]:
    return [vote.by for vote in state.get("agreed", Approval).votes]


def pay(agreed_by: list[str]) -> str:
    return f"paid, as {' and '.join(agreed_by)} agreed"


flow = (
    FlowBuilder("expenses")
    .triggered_by(manual("guide"))
    .then(approval("agreed", quorum=2, approvers=["ann", "bob", "cid"]))
    .then(Node("pay", pay, input_func=voters))
    .build()
)


def ask_for_approval(orchestrator):
    run = orchestrator.start(flow)
    wait_until(lambda: run.id in {row.run_id for row in orchestrator.waiting("expenses")}, "it waits for people")
    return run


def test_as_many_people_agree_as_are_asked_for(orchestrator):
    """`waiting` lists what waits for somebody, of all runs; each person has one vote."""
    run = ask_for_approval(orchestrator)
    run.approve("agreed", by="ann", reason="I was there")
    run.approve("agreed", by="bob")
    assert run.result(str, timeout=30) == "paid, as ann and bob agreed"


def test_the_first_rejection_is_final(orchestrator):
    """The node fails, and what came before it would be compensated."""
    run = ask_for_approval(orchestrator)
    run.reject("agreed", by="cid", reason="too dear")
    assert run.wait(timeout=30) == "failed"
    assert (run.error.type, run.error.message) == ("orchestrator.errors.Rejected", "cid rejected it: too dear")
