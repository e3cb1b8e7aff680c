"""A user's module whose nodes are limited by a key of their input."""

from __future__ import annotations

import os
from datetime import timedelta

from celery import Celery

from orchestrator import (
    FlowBuilder,
    FlowState,
    Node,
    NodeContext,
    Orchestrator,
    RetryLater,
    RetryPolicy,
    SharedRateLimiter,
    Terminal,
    manual,
)
from tests.harness import Ledger

URL = os.environ["TEST_REDIS_URL"]
QUEUE = "keyed"
app = Celery("keyed", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
orchestrator = Orchestrator(app)
LEDGER = Ledger(URL)
SECOND = timedelta(seconds=1)
ONCE = RetryPolicy(maximum_attempts=1)


def first_word(text: str) -> str:
    """The key of "<key> <number>"."""
    return text.split(maxsplit=1)[0]


tenants = SharedRateLimiter("keyed-tenants", 5, per=SECOND, burst=1, key=first_word)
patients = SharedRateLimiter("keyed-patients", 100, per=SECOND, key=first_word)
whole = SharedRateLimiter("keyed-whole", 1000, per=SECOND)


def note(ctx: NodeContext, text: str) -> str:
    """Note its start under its key."""
    LEDGER.note("start", f"{ctx.run_id} {first_word(text)}")
    return text


def refuse_red_once(text: str) -> str:
    """The other side refuses one key the first time that it is asked."""
    if first_word(text) == "red" and LEDGER.count("red") == 1:
        LEDGER.note("refused", "red")
        raise RetryLater("429", after=SECOND, freeze=True)
    LEDGER.note("accepted", first_word(text))
    return text


def pair(tenant: str, number: int = 0) -> str:
    """Take several parameters."""
    return f"{tenant}{number}"


def flow(name: str) -> FlowBuilder:
    return FlowBuilder(name).triggered_by(manual("test")).on_queue(QUEUE)


def listed(state: FlowState) -> list[str]:
    """The run's input, as the items of a map."""
    return state.input(list[str])


def item(state: FlowState) -> str:
    """The run's input, as the input of a node."""
    return state.input(str)


by_item = (
    flow("keyed-items")
    .takes(list[str])
    .then_map(
        "all",
        Node("noted", note).with_shared_rate_limit(tenants).with_shared_rate_limit(whole),
        over=listed,
        batch_size=3,
    )
    .build()
)
refused = (
    flow("keyed-refused")
    .takes(str)
    .then(Node("asked", refuse_red_once).with_input_func(item).with_shared_rate_limit(patients).with_retry(ONCE))
    .build()
)
by_state = (
    flow("keyed-state")
    .takes(str)
    .then(Node("plain", lambda: 1).with_rate_limit(1, per=SECOND * 60, key=lambda state: state.input(str)))
    .build()
)
by_fields = (
    flow("keyed-fields")
    .then(Node("pair", pair, {"tenant": "a"}).with_rate_limit(5, per=SECOND, key=lambda given: given["tenant"]))
    .build()
)
calls = SharedRateLimiter("keyed-calls", 10, per=SECOND, burst=1)


def call_often(ctx: NodeContext, count: int) -> int:
    """Make so many calls."""
    for _ in range(count):
        ctx.limit("keyed-calls")
        LEDGER.note("call", "api")
    return count


def call_by_key(ctx: NodeContext, text: str) -> list[str]:
    """Ask in every wrong and right way."""
    told = []
    for name, key in (("nothing", None), ("keyed-calls", "x"), ("keyed-tenants", None)):
        try:
            ctx.limit(name, key)
        except Terminal as error:
            told.append(str(error))
    ctx.limit("keyed-tenants", "red")
    ctx.limit("keyed-patients")
    return told


def call_too_long(ctx: NodeContext) -> None:
    """Wait for longer than it may take."""
    ctx.limit("keyed-slow")
    LEDGER.note("first", "slow")
    ctx.limit("keyed-slow")


calling = (
    flow("keyed-calling")
    .takes(int)
    .then_parallel(
        "both",
        *[Node(f"call-{n}", call_often).with_input_func(lambda state: state.input(int)) for n in range(2)],
    )
    .then(Node("own", lambda: 1).with_shared_rate_limit(calls))
    .build()
)
asking = (
    flow("keyed-asking")
    .then(Node("ask", call_by_key, "blue 1").with_shared_rate_limit(patients))
    .then(Node("own", note, "blue 1").with_shared_rate_limit(calls).with_shared_rate_limit(tenants))
    .returns("ask")
    .build()
)
slow = SharedRateLimiter("keyed-slow", 1, per=SECOND * 600)
too_long = (
    flow("keyed-too-long")
    .then(Node("wait", call_too_long).with_timeout(SECOND).with_retry(ONCE))
    .then(Node("own", lambda: 1).with_shared_rate_limit(slow))
    .build()
)
bad = [
    flow(f"keyed-{name}").then(Node("never", note, "x").with_rate_limit(5, per=SECOND, key=key)).build()  # type: ignore[arg-type]
    for name, key in (
        ("raises", lambda text: 1 / 0),
        ("number", lambda text: 7),
        ("long", lambda text: "x" * 1001),
    )
]


def cancels(run_id: str) -> str:
    """Cancel the run between the claim and the admission of its node."""
    orchestrator.get(run_id).cancel("while it asked for its key")
    return "any"


cancelling = (
    flow("keyed-cancels")
    .then(Node("before", lambda: 1).on_error(Node("undo", lambda: LEDGER.note("undo", "before"))))
    .then(Node("asked", note).with_input_func(lambda state: state.run_id).with_rate_limit(5, per=SECOND, key=cancels))
    .build()
)
for each in (by_item, refused, by_state, by_fields, calling, asking, too_long, cancelling, *bad):
    orchestrator.register(each)
