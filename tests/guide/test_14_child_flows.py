"""A flow can be a node of another one: its run is a child, and its result the node's output."""

from orchestrator import FlowBuilder, Node, manual


def pack(item: str) -> str:
    return f"box of {item}"


def address(box: str) -> str:
    return f"{box}, to the customer"


shipping = (
    FlowBuilder("child-shipping")
    .takes(str)
    .triggered_by(manual("other flows"))
    .then(Node("pack", pack).with_input_func(lambda state: state.input(str)))
    .then(Node("address", address).with_inputs(box="pack"))
    .build()
)


def tell(label: str) -> str:
    return f"sent: {label}"


ship = Node("ship", shipping)
flow = (
    FlowBuilder("order-with-child")
    .takes(str)
    .triggered_by(manual("guide"))
    .then(ship)
    .then(Node("tell", tell).with_input_func(lambda state: state.get(ship)))
    .build()
)


def test_the_result_of_a_flow_is_the_output_of_its_node(orchestrator):
    """The child is a run of its own; lists of runs show the one at the top."""
    run = orchestrator.start(flow, "cup")
    assert run.result(str, timeout=30) == "sent: box of cup, to the customer"
    (child,) = run.children()
    assert (child.flow_name, child.status, child.parent.id) == ("child-shipping", "succeeded", run.id)
    assert child.id not in [each.id for each in orchestrator.runs()]
