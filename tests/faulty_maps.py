"""Maps that are wrong, one fault each."""

from typing import Any

from orchestrator.definition.state import FlowState
from tests.faulty import Faulty, always, give, node, reading, take

WHOLE = "use a whole number of at least 1"


def over(_state: FlowState) -> list[int]:
    return [1]


def mapped(row: str, code: str, message: str, *, where: str = "step all", item: Any = None, **options: Any) -> Faulty:
    """A flow of one map with a fault."""
    called = node("a", take) if item is None else item
    name = "A b" if where == "step 'A b'" else "all"
    given = {"over": over} | options
    return Faulty(row, lambda flow: flow.then_map(name, called, **given), code, where, message)


async def over_async(_state: FlowState) -> list[int]:
    return [1]


MAPS = (
    mapped("map-batch-zero", "bad-batch", f"batch_size=0; {WHOLE}", batch_size=0),
    mapped("map-batch-text", "bad-batch", f"batch_size='7'; {WHOLE}", batch_size="7"),
    mapped("map-batch-true", "bad-batch", f"batch_size=True; {WHOLE}", batch_size=True),
    mapped("map-narrow", "bad-limit", f"max_concurrency=0; {WHOLE}, or leave it out", max_concurrency=0),
    mapped(
        "map-on-failure", "bad-require", 'on_failure=\'skip\' is not known; use "fail" or "continue"', on_failure="skip"
    ),
    mapped(
        "map-require-fail",
        "bad-require",
        'require goes with on_failure="continue" only: with "fail" every node has to succeed',
        require=1,
    ),
    mapped(
        "map-require-zero",
        "bad-require",
        "require=0 of items; use 1 to 100000, or leave it out to require none",
        on_failure="continue",
        require=0,
    ),
    mapped(
        "map-over-number",
        "bad-function",
        "its function over 5 is not a function; use a function or lambda of one argument",
        over=5,
    ),
    mapped(
        "map-over-async",
        "bad-function",
        "its function over over_async is async, which only a node's own function may be; write it with def",
        over=over_async,
    ),
    mapped(
        "map-over-nothing",
        "bad-function",
        "its function over give cannot be called with one argument; give it exactly one parameter",
        over=give,
    ),
    mapped(
        "map-over-unknown-key",
        "unknown-key",
        "its function over reads the output nobody, which no node writes; known: a",
        over=lambda state: state.get("nobody", list[int]),
    ),
    mapped(
        "map-over-itself",
        "not-yet-written",
        "its function over reads the output a, which a writes only later; read it in a later step",
        over=lambda state: state.get("a", list[int]),
    ),
    mapped(
        "map-without-parameter",
        "input-mismatch",
        "it is called for each item of a map, but its function has no parameter for it; add one",
        where="node a",
        item=node("a", give),
    ),
    mapped(
        "map-with-input",
        "input-mismatch",
        "it is called with each item of a map; remove its own input",
        where="node a",
        item=node("a", take, 7),
    ),
    mapped(
        "map-with-input-function",
        "input-mismatch",
        "it is called with each item of a map; remove its own input",
        where="node a",
        item=reading("a", lambda state: state.input(int)),
    ),
    mapped(
        "map-bad-name",
        "bad-name",
        "the name 'A b' is not valid; ...",
        where="step 'A b'",
    ),
    mapped("map-of-no-node", "not-a-node", "5 is not a Node; wrap a function, Node(name, function)", item=5),
    Faulty(
        "map-twice",
        lambda flow: flow.then_map("all", node("a", take), over=over).then_map("all", node("b", take), over=over),
        "duplicate-node",
        "step all",
        "another map has this name; rename one of them",
    ),
    Faulty(
        "map-on-one-branch",
        lambda flow: (
            flow.when(always, name="w")
            .then_map("all", node("a", take), over=over)
            .end_when()
            .then(reading("b", lambda state: sum(state.get("a", list[int]))))
        ),
        "maybe-missing",
        "node b",
        "its input function reads the output a, which a may not have written; check has() or use get_or()",
    ),
)
