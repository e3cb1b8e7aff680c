"""A run can wait for a value that somebody sends it."""

from datetime import timedelta

from orchestrator import FlowBuilder, Node, manual, signal


def print_receipt(amount: int) -> str:
    return f"paid {amount}"


paid = signal("paid", int).with_timeout(timedelta(days=7))
flow = (
    FlowBuilder("paid")
    .triggered_by(manual("guide"))
    .then(paid)
    .then(Node("receipt", print_receipt).with_inputs(amount=paid))
    .build()
)


def test_a_signal_waits_for_its_gate_or_the_gate_for_its_signal(orchestrator):
    """A signal may come before anything waits for it, and a key counts once: a webhook may be delivered twice.

    While the gate waits it holds no worker. Whoever sends needs the run, or the idempotency key of its start.
    """
    orchestrator.start(flow, idempotency_key="order-42")
    run = orchestrator.find("paid", idempotency_key="order-42")
    for _ in range(2):
        run.signal("paid", 30, key="transfer 17")
    assert run.result(str, timeout=30) == "paid 30"
