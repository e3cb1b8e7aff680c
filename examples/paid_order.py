"""Example `python -m examples.paid_order`: an order waits for money and for a manager, and another flow ships it.

The second order is refused at the door: what its shipping has done is taken back too, last first.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

from pydantic import BaseModel

from orchestrator import FlowBuilder, Node, Terminal, approval, manual, run_input, signal

if TYPE_CHECKING:
    from orchestrator import FlowRun, Orchestrator


class Payment(BaseModel):
    """What the bank tells."""

    amount: int


def reserve(item: str) -> str:
    """Take the item from the shelf."""
    return item


def put_back(item: str) -> None:
    """Undo `reserve`."""
    print(f"{item} is put back")


def pack(item: str) -> str:
    """Pack it."""
    return f"parcel with a {item}"


def unpack(parcel: str) -> None:
    """Undo `pack`."""
    print(f"{parcel} is unpacked")


def hand_over(parcel: str) -> str:
    """Give it to the carrier."""
    return f"label of a {parcel}"


def call_back(label: str) -> None:
    """Undo `hand_over`."""
    print(f"{label} is called back")


def deliver(label: str, payment: Payment) -> str:
    """Bring it to the customer, who may not want it any more."""
    if "piano" in label:
        raise Terminal("it does not fit through the door")
    return f"delivered, {payment.amount} paid"


packed = Node("pack", pack).with_inputs(item=run_input).on_error(Node("unpack", unpack))
handed_over = Node("hand-over", hand_over).with_inputs(parcel=packed).on_error(Node("call-back", call_back))
shipping = FlowBuilder("shipping").takes(str).triggered_by(manual("orders")).then(packed).then(handed_over).build()

paid = signal("paid", Payment).with_timeout(timedelta(days=7))
agreed = approval("agreed", approvers=["ann", "bob"]).with_timeout(timedelta(days=2))
ship = Node("ship", shipping).with_inputs(input="reserve")
flow = (
    FlowBuilder("paid-order")
    .takes(str)
    .triggered_by(manual("web shop"))
    .then(Node("reserve", reserve).with_inputs(item=run_input).on_error(Node("put-back", put_back)))
    .then_parallel("before-it-leaves", paid, agreed)
    .then(ship)
    .then(Node("deliver", deliver).with_inputs(label=ship, payment=paid))
    .build()
)


def order(orchestrator: Orchestrator, item: str) -> FlowRun:
    """Start a run, and do what the bank and the manager do."""
    run = orchestrator.start(flow, item)
    run.signal("paid", Payment(amount=30), key="transfer 17")  # a second delivery of the webhook would do nothing
    while run.id not in {row.run_id for row in orchestrator.waiting("paid-order", kind="approval")}:
        time.sleep(0.05)
    run.approve("agreed", by="ann", reason="known customer")
    return run


def play(orchestrator: Orchestrator) -> None:
    """Order a lamp and a piano."""
    print("lamp:", order(orchestrator, "lamp").result(str, timeout=60))
    run = order(orchestrator, "piano")
    print("piano:", run.wait(timeout=60), "-", run.error.message if run.error else "")
    (child,) = run.children()
    undone = [event.node for each in (child, run) for event in each.history() if event.event == "succeeded"]
    print("its shipping:", child.status, "- undone:", *undone[2:4], *undone[-1:])


if __name__ == "__main__":
    from examples.worker import running_worker

    with running_worker() as client:
        play(client)
