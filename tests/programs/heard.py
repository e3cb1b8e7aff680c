"""A user's module whose handlers of Celery's task signals note what they hear, and one of which always raises."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from celery import Celery, current_task, signals

from orchestrator import (
    FlowBuilder,
    Node,
    NodeContext,
    Orchestrator,
    Page,
    RetryPolicy,
    hooks,
    manual,
    paginate,
    signal,
)
from orchestrator.definition.gates import approval
from tests.harness import Ledger

URL = os.environ["TEST_REDIS_URL"]
app = Celery("heard", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
orchestrator = Orchestrator(app)
LEDGER = Ledger(URL)
SOON = RetryPolicy(initial_interval=timedelta(milliseconds=50), maximum_attempts=2, jitter=False)
ONCE = RetryPolicy(maximum_attempts=1)


def note(kind: str, sender: Any, task_id: str | None = None, **more: Any) -> None:
    """One line of the ledger: signal, task, id, the run and attempt of its request, whose request it is, a header."""
    request = more["request"] if kind == "retry" else sender.request
    own = current_task and current_task.name == sender.name
    header = (request.headers or {}).get("tenant")
    parts = [sender.name, task_id or request.id, request.root_id, own and request.id == (task_id or request.id), header]
    LEDGER.note(kind, "|".join(map(str, parts)))


def hears(kind: str) -> Any:
    return lambda sender=None, **more: note(kind, sender, **more)


HANDLERS = {kind: hears(kind) for kind in ("prerun", "postrun", "success", "failure", "retry")}


def travels(headers: dict[str, Any], **_: Any) -> None:
    """Send the tenant along, as applications do."""
    headers["tenant"] = "acme"


def breaks(**_: Any) -> None:
    raise RuntimeError("a handler that raises")


HOOKS = [each for each in vars(hooks).values() if isinstance(each, hooks.Hook)]


def hears_hook(name: str) -> Any:
    """A receiver of a hook: one line of the ledger."""
    return lambda run_id, node_name="", state="", status="", **_: LEDGER.note(
        "hook", f"{run_id}|{name}|{node_name}|{state}{status}"
    )


def breaks_hook(**_: Any) -> None:
    raise RuntimeError("a receiver that raises")


if "TEST_HEARS" in os.environ:  # in the worker; the process of the tests has other programs, too
    signals.before_task_publish.connect(travels)
    signals.task_prerun.connect(breaks)
    for kind, handler in HANDLERS.items():
        getattr(signals, f"task_{kind}").connect(handler)
    for hook in HOOKS:
        hook.connect(breaks_hook)
        hook.connect(hears_hook(hook.name))


def works(_ctx: NodeContext) -> str:
    """Which request the function sees."""
    return f"{current_task.name} {current_task.request.id}"


def stumbles(ctx: NodeContext) -> int:
    if ctx.attempt == 1:
        raise ConnectionError("not yet")
    return ctx.attempt


def refuses() -> None:
    raise ValueError("no way")


def pages(cursor: str | None) -> Page[int]:
    number = int(cursor or 0)
    return Page(items=[number], next_cursor=str(number + 1), has_more=number < 2)


def flow(name: str) -> FlowBuilder:
    return FlowBuilder(name).triggered_by(manual("test")).on_queue("heard")


undo = Node("undo", lambda: None)
for built in (
    flow("heard-line").fused().then(Node("a", works)).then(Node("b", works)).then(Node("c", works)).build(),
    flow("heard-single").then(Node("a", works)).then(Node("b", stumbles).with_retry(SOON)).build(),
    flow("heard-retry").fused().then(Node("a", works)).then(Node("b", stumbles).with_retry(SOON)).build(),
    flow("heard-fails").fused().then(Node("a", works).on_error(undo)).then(Node("b", refuses).with_retry(ONCE)).build(),
    flow("heard-local")
    .fused()
    .then(Node("a", works))
    .then_parallel("both", Node("l", works), Node("r", works), local=True)
    .then(Node("b", works))
    .build(),
    flow("heard-map")
    .then_map("all", Node("item", lambda item: item), over=lambda _state: [0, 1, 2], batch_size=3)
    .build(),
    flow("heard-pages").then(paginate("page", pages)).build(),
    flow("heard-gates").then(signal("paid", int)).then(approval("ok").with_timeout(timedelta(milliseconds=1))).build(),
    flow("heard-tolerated")
    .then_parallel("both", Node("l", works), Node("r", refuses).with_retry(ONCE), on_failure="continue")
    .build(),
):
    orchestrator.register(built)
