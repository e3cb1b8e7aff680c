"""Flows with nodes that start other flows, and what is wrong with them."""

from typing import Any

from orchestrator.definition.children import RemoteFlow
from orchestrator.definition.node import Node
from orchestrator.definition.policies import RetryPolicy
from tests.faulty import SECOND, Faulty, Order, node


def ship(name: Any = "shipping", **types: Any) -> Any:
    """A node that starts a flow."""
    return Node("ship", RemoteFlow(name, **types))


def of_its_nodes(what: str) -> str:
    return f"a node that starts a flow has no {what}: give it to the nodes of that flow"


CHILDREN: tuple[Faulty, ...] = (
    Faulty(
        "child-name",
        lambda b: b.then(ship("Shipping Ltd")),
        "bad-child",
        "node ship",
        "the flow that it starts is called 'Shipping Ltd', which is not valid; use ...",
    ),
    Faulty(
        "child-retry",
        lambda b: b.then(ship().with_retry(RetryPolicy(on_exhausted="pause"))),
        "bad-child",
        "node ship",
        "the retry policy of a node that starts a flow has no non_retryable and no on_exhausted: give them to the "
        "nodes of that flow",
    ),
    Faulty(
        "child-retry-of-some",
        lambda b: b.then(ship().with_retry(RetryPolicy(non_retryable=(ValueError,)))),
        "bad-child",
        "node ship",
        "the retry policy of a node that starts a flow has no non_retryable and no on_exhausted: give them to the "
        "nodes of that flow",
    ),
    Faulty(
        "child-limit",
        lambda b: b.then(ship().with_rate_limit(1, SECOND)),
        "bad-child",
        "node ship",
        of_its_nodes("limit"),
    ),
    Faulty(
        "child-queue",
        lambda b: b.then(ship().with_queue("other")),
        "bad-child",
        "node ship",
        of_its_nodes("queue"),
    ),
    Faulty(
        "child-repeat",
        lambda b: b.then(ship(takes=Order, returns=int).with_input(Order(id=1)).with_repeat(until=bool)),
        "input-mismatch",
        "node ship",
        "it repeats with its own output, int, but takes tests.faulty.Order, which does not fit",
    ),
    Faulty(
        "child-timeout",
        lambda b: b.then(ship().with_timeout(5)),
        "bad-child",
        "node ship",
        "its timeout is 5; use a timedelta, such as timedelta(seconds=30)",
    ),
    Faulty(
        "child-local",
        lambda b: b.fused().then_parallel("both", ship(), node(), local=True),
        "bad-child",
        "step both",
        "a flow has runs of its own, in processes of its own; leave local=True out of this step",
    ),
    Faulty(
        "child-undo",
        lambda b: b.then(node().on_error(ship())),
        "bad-child",
        "node ship",
        "a compensation cannot start a flow; call what undoes the node",
    ),
    Faulty(
        "child-input",
        lambda b: b.takes(int).then(ship(takes=Order)),
        "input-mismatch",
        "node ship",
        "it is given the run's input, int, but flow shipping takes tests.faulty.Order; give it an input, "
        "with_inputs(...) or with_input_func(...)",
    ),
    Faulty(
        "child-constant",
        lambda b: b.then(ship(takes=Order).with_input("none")),
        "input-mismatch",
        "node ship",
        "its input does not fit its function: ...",
    ),
)
