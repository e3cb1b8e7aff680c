"""Outputs are stored, and typed when a later node reads them."""

from pydantic import BaseModel

from orchestrator import FlowBuilder, FlowState, Node, manual


class Order(BaseModel):
    item: str
    count: int


class Bill(BaseModel):
    total: int


def ordered(state: FlowState) -> Order:
    return state.input(Order)


def write_bill(order: Order) -> Bill:
    return Bill(total=20 * order.count)


bill = Node("bill", write_bill, input_func=ordered)


def bill_and_order(state: FlowState) -> dict[str, object]:
    return {"bill": state.get(bill), "order": state.input(Order)}


def write_letter(bill: Bill, order: Order) -> str:
    return f"{order.count} x {order.item}: {bill.total}"


letter = Node("letter", write_letter, input_func=bill_and_order)
flow = FlowBuilder("billing").takes(Order).triggered_by(manual("guide")).then(bill).then(letter).build()


def test_a_node_reads_what_nodes_before_it_returned(orchestrator):
    """Outputs are stored as JSON and come back as what the functions' annotations say.

    A function of several parameters takes a mapping; each value is checked against the annotation of its parameter.
    """
    run = orchestrator.start(flow, Order(item="cup", count=3))
    assert run.result(str, timeout=30) == "3 x cup: 60"
    assert run.output("bill", Bill) == Bill(total=60)
