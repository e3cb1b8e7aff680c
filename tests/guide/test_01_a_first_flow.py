"""A flow is functions in an order; a run of it is carried out by Celery workers."""

from orchestrator import FlowBuilder, FlowState, Node, manual


def name(state: FlowState) -> str:
    return state.input(str)


def greet(name: str) -> str:
    return f"Hello, {name}"


flow = (
    FlowBuilder("greeting").takes(str).triggered_by(manual("guide")).then(Node("greet", greet, input_func=name)).build()
)


def test_a_run_gives_what_its_last_node_returned(orchestrator):
    """`start` stores the run and returns at once; `result` waits for a worker to carry it out.

    A node is a plain function with a name. What it is called with is read from the run's state by its input function.
    """
    run = orchestrator.start(flow, "Ada")
    assert run.result(str, timeout=30) == "Hello, Ada"
    assert run.status == "succeeded"
