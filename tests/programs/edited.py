"""A user's flows before and after a deployment: each kind of edit of a node, at each kind of place in a flow."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from celery import Celery

from orchestrator import Flow, FlowBuilder, FlowState, Node, NodeContext, Orchestrator, RetryPolicy, Terminal, manual
from tests.harness import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable

URL = os.environ["TEST_REDIS_URL"]
QUEUE = "edited"
LEDGER = Ledger(URL)
EDITS = ("body", "renamed", "removed", "output", "input", "read", "computed-read")
PLACES = ("chain", "parallel", "branch", "map", "compensation", "fused", "local")
ONCE = RetryPolicy(maximum_attempts=1)
NEW_KEY = "extra"


class Version(NamedTuple):
    """One version of the flows: its app, client and plans."""

    name: str
    app: Celery
    orchestrator: Orchestrator


def make(name: str) -> Version:
    """Make the version "old" or "new"."""
    app = Celery(f"edited-{name}", broker=URL, backend=URL)
    app.conf.broker_connection_retry_on_startup = True
    app.conf.task_default_queue = QUEUE
    orchestrator = Orchestrator(app)
    for place in PLACES:
        for edit in EDITS:
            orchestrator.register(_flow(name, place, edit))
    return Version(name, app, orchestrator)


def _noting(version: str, fn: Callable[[Any], Any]) -> Callable[..., Any]:
    def act(ctx: NodeContext, given: int) -> int:
        LEDGER.note(version, f"{ctx.run_id}/{ctx.node_name}")
        return int(fn(given))

    def tells(ctx: NodeContext, given: int) -> dict[str, int]:
        return {"value": act(ctx, given)}

    def takes_text(ctx: NodeContext, given: str) -> int:
        return act(ctx, int(given))

    made: dict[str, Callable[..., Any]] = {"output": tells, "input": takes_text}
    return made.get(fn.__name__, act)


def _edited(version: str, edit: str, place: str) -> Node[Any, Any] | None:
    """The node that the deployment changes; None where it removes it."""

    def increment(given: int) -> int:
        return given + 1

    if version == "new" and edit == "removed":
        return None
    increment.__name__ = edit if version == "new" else "old"
    name = "renamed" if version == "new" and edit == "renamed" else "edited"
    node = Node(name, _noting(version, increment), retry=ONCE, timeout=timedelta(seconds=30))
    return node if place == "map" else node.with_input_func(_input(version, edit))


def _input(version: str, edit: str) -> Callable[[FlowState], Any]:
    reads: dict[str, Callable[[FlowState], Any]] = {
        "input": lambda state: str(state.get("first", int)),
        "read": lambda state: state.get(NEW_KEY, int),
        "computed-read": lambda state: state.get(NEW_KEY.lower(), int),
    }
    unchanged: Callable[[FlowState], Any] = lambda state: state.get("first", int)  # noqa: E731
    return reads.get(edit, unchanged) if version == "new" else unchanged


def _last(version: str, edit: str, place: str) -> Node[Any, Any]:
    """Reads what the edited node wrote, as its version knows it."""
    key = {"renamed": "renamed", "removed": "first"}.get(edit, "edited") if version == "new" else "edited"
    has_value = version == "new" and edit == "output"

    def read(state: FlowState) -> Any:
        found = state.get_or(key, default=0) if place == "branch" else state.get(key)
        found = found[0] if place == "map" and isinstance(found, list) else found
        return found["value"] if has_value else found

    def last(ctx: NodeContext, given: int) -> int:
        LEDGER.note(version, f"{ctx.run_id}/last")
        if place == "compensation":
            raise Terminal("the run is to be undone")
        return given

    read_first: Callable[[FlowState], Any] = lambda state: state.get("first", int)  # noqa: E731
    return Node("last", last, retry=ONCE).with_input_func(read_first if place == "compensation" else read)


def _flow(version: str, place: str, edit: str) -> Flow:
    """The flow `<place>-<edit>` in a version."""
    builder = FlowBuilder(f"{place}-{edit}").triggered_by(manual("test"))
    if place in {"fused", "local"}:
        builder = builder.fused()
    node = _edited(version, edit, place)
    if version == "new" and "read" in edit:
        builder = builder.then(Node(NEW_KEY, lambda: 1))
    first: Node[Any, Any] = Node("first", lambda: 1)
    if place == "compensation":
        first = first if node is None else first.on_error(node)
        return builder.then(first).then(_last(version, edit, place)).build()
    builder = builder.then(first)
    if node is None:
        builder = builder.then(Node("other", lambda: 1))
    elif place in {"parallel", "local"}:
        builder = builder.then_parallel("both", node, Node("sibling", lambda: 1), local=place == "local")
    elif place == "branch":
        builder = builder.when(lambda state: state.get("first", int) == 1, "choice").then(node).end_when()
    elif place == "map":
        over = _input(version, edit)
        builder = builder.then_map("each", node, over=lambda state: [over(state)] * 3)
    else:
        builder = builder.then(node)
    return builder.then(_last(version, edit, place)).build()
