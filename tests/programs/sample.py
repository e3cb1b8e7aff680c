"""A user's module with one flow for each thing that a test asks of real workers."""

from __future__ import annotations

import asyncio
import os
import time
import warnings
from datetime import timedelta

from celery import Celery
from pydantic import BaseModel

from orchestrator import (
    FlowBuilder,
    FlowDefinitionWarning,
    Node,
    NodeContext,
    Orchestrator,
    RetryLater,
    RetryPolicy,
    SharedRateLimiter,
    Terminal,
    manual,
    signal,
)
from tests.harness import Ledger

URL = os.environ["TEST_REDIS_URL"]
app = Celery("sample", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
orchestrator = Orchestrator(app)
LEDGER = Ledger(URL)


class Count(BaseModel):
    """A number that travels."""

    value: int


def numbered(name: str):
    """A node function that writes its name to the ledger and returns it."""

    def act() -> str:
        LEDGER.note("start", name)
        return name

    return act


def flow(name: str) -> FlowBuilder:
    return FlowBuilder(name).triggered_by(manual("test"))


ONCE = RetryPolicy(maximum_attempts=1)
SOON = RetryPolicy(initial_interval=timedelta(milliseconds=100), maximum_attempts=3, jitter=False)


# --- a line, long enough for two segments ----------------------------------------------------------
builder = flow("line").takes(Count)
builder.then(Node("step-0", lambda given: given.value + 1).with_input_func(lambda state: state.input(Count)))
for position in range(1, 30):

    def _previous(state, before=f"step-{position - 1}"):
        return state.get(before, int)

    builder.then(Node(f"step-{position}", lambda value: value + 1).with_input_func(_previous))
line = builder.build()

# --- parallel after parallel, then a join ----------------------------------------------------------
two_fans = (
    flow("two-fans")
    .then_parallel("first-fan", *[Node(f"first-{n}", numbered(f"first-{n}")) for n in range(4)])
    .then_parallel("second-fan", *[Node(f"second-{n}", numbered(f"second-{n}")) for n in range(4)])
    .then(Node("joined", lambda given: given).with_input_func(lambda state: sorted(state.keys())))
    .build()
)

# --- a wide fan-out, sent as single messages -------------------------------------------------------
with warnings.catch_warnings(category=FlowDefinitionWarning, action="ignore"):  # 60 at once is what is tested
    wide = (
        flow("wide")
        .then_parallel("wide-fan", *[Node(f"wide-{n}", lambda: 1) for n in range(60)])
        .then(
            Node("sum-up", lambda values: sum(values, start=0)).with_input_func(
                lambda state: [state.get(f"wide-{n}", int) for n in range(60)]
            )
        )
        .build()
    )


# --- retries ---------------------------------------------------------------------------------------
def fails_twice(ctx: NodeContext) -> list[int]:
    """Succeeds in its third attempt."""
    LEDGER.note("start", "fails-twice")
    if ctx.attempt < 3:
        raise ConnectionError("not yet")
    return [ctx.attempt]


def fails_always() -> None:
    """Never succeeds."""
    LEDGER.note("start", "fails-always")
    raise ConnectionError("never")


def asks_for_later(ctx: NodeContext) -> int:
    """Asks for its second attempt itself."""
    LEDGER.note("start", "asks-for-later")
    if ctx.attempt == 1:
        raise RetryLater("busy", after=timedelta(milliseconds=300))
    return ctx.attempt


def gives_up() -> None:
    """Ends at once although attempts are left."""
    LEDGER.note("start", "gives-up")
    raise Terminal("no use")


retries = flow("retries").then(Node("fails-twice", fails_twice).with_retry(SOON)).build()
exhausted = flow("exhausted").then(Node("fails-always", fails_always).with_retry(SOON)).build()
later = flow("later").then(Node("asks-for-later", asks_for_later)).build()
terminal = flow("terminal").then(Node("gives-up", gives_up)).build()

# --- a slow run, to be cancelled -------------------------------------------------------------------


def is_patient(ctx: NodeContext) -> str:
    """Goes on until the run is cancelled, at most 30 s."""
    LEDGER.note("start", "patient")
    deadline = time.monotonic() + 30
    while not ctx.is_cancelled() and time.monotonic() < deadline:
        time.sleep(0.05)
    LEDGER.note("end", "patient")
    return "stopped"


def undo(name: str) -> Node[str, None]:
    """A compensation that writes the output it undoes to the ledger."""

    def undone(output: str) -> None:
        LEDGER.note("undo", f"{name}({output})")

    return Node(f"undo-{name}", undone)


cancelled = (
    flow("to-cancel")
    .then(Node("reserve", lambda: "room-1").on_error(undo("reserve")))
    .then(Node("patient", is_patient).on_error(undo("patient")))
    .then(Node("never", numbered("never")))
    .build()
)

out_of_time = (
    flow("out-of-time")
    .with_timeout(timedelta(seconds=1))
    .then(Node("early", lambda: "done").on_error(undo("early")))
    .then(Node("patient-again", is_patient))
    .then(Node("never-again", numbered("never-again")))
    .build()
)


# --- a compensation that fails, and a run that can be mended ---------------------------------------
def undo_stubbornly(output: str) -> None:
    """Fails until the ledger says that the other side is back."""
    LEDGER.note("undo", f"stubborn({output})")
    if not LEDGER.client.get("other-side-is-back"):
        raise ConnectionError("the other side is away")


def needs_help() -> str:
    """Fails until the ledger says that it is mended."""
    LEDGER.note("start", "needs-help")
    if not LEDGER.client.get("mended"):
        raise Terminal("not mended")
    return "helped"


rollback = (
    flow("rollback")
    .then(Node("first-order", lambda: "a").on_error(undo("first-order")))
    .then(Node("second-order", lambda: "b").on_error(Node("undo-second-order", undo_stubbornly).with_retry(ONCE)))
    .then(Node("third-order", lambda: "c").on_error(undo("third-order")))
    .then(Node("needs-help", needs_help))
    .then(Node("after-help", lambda given: given).with_input_func(lambda state: state.get("needs-help", str)))
    .build()
)


def needs_help_at_last() -> str:
    """Fail once the others have begun, so that they are stored although the run is ending."""
    while not {"good-half", "undone-half"} <= set(LEDGER.names("start")):
        time.sleep(0.02)
    return needs_help()


forward = (
    flow("forward")
    .then(Node("kept", numbered("kept")))
    .then_parallel(
        "halves",
        Node("good-half", numbered("good-half")),
        Node("undone-half", numbered("undone-half")).on_error(undo("undone-half")),
        Node("bad-half", needs_help_at_last),
    )
    .then(Node("whole", lambda given: given).with_input_func(lambda state: sorted(state.keys())))
    .build()
)


# --- what a node hands to the outside world as its key ---------------------------------------------
def key_told(ctx: NodeContext) -> str:
    """Write the key; fail at the first attempt."""
    LEDGER.note("key", ctx.idempotency_key)
    if ctx.attempt == 1:
        raise ConnectionError("not yet")
    return ctx.idempotency_key


keyed = (
    flow("keyed")
    .then(Node("key-told", key_told).with_retry(SOON).on_error(undo("key-told")))
    .then(Node("help-needed", needs_help))
    .build()
)

# --- limits ----------------------------------------------------------------------------------------
narrow = SharedRateLimiter("narrow", 5, per=timedelta(seconds=1), burst=1)
limited = (
    flow("limited")
    .then_parallel(
        "limited-calls", *[Node(f"limited-{n}", numbered("limited")).with_shared_rate_limit(narrow) for n in range(10)]
    )
    .build()
)


# --- a Celery task of the user's own, as it is and as a node ---------------------------------------
@app.task(name="shop.add")
def add(left: int, right: int) -> int:
    """A task that was there before any flow."""
    return left + right


uses_task = flow("uses-task").then(Node("add", add, {"left": 2, "right": 3})).build()


async def sleeps_async(ctx: NodeContext) -> str:
    """An asyncio node."""
    await asyncio.sleep(0.01)
    return ctx.idempotency_key


asynchronous = flow("asynchronous").then(Node("sleeps", sleeps_async)).build()

# --- at most one run of a tenant, which waits for a word -------------------------------------------
one_at_a_time = (
    flow("one-at-a-time")
    .takes(dict[str, str])
    .with_max_runs(1, key="tenant")
    .then(signal("go", str))
    .then(Node("acts", numbered("acts")))
    .build()
)


# --- a deadline, in the middle of an attempt ------------------------------------------------------------
def is_late() -> None:
    """Take far longer than the node's deadline, which is shorter than its timeout."""
    LEDGER.note("start", "is-late")
    time.sleep(60)


overdue = flow("overdue").then(Node("is-late", is_late).with_deadline(timedelta(seconds=1))).build()


# --- an attempt that reports for longer than its heartbeat timeout, and then no more ------------------
def beats(ctx: NodeContext) -> object:
    """Return what the attempt before this one has reported last."""
    if ctx.last_heartbeat is not None:
        return ctx.last_heartbeat
    for number in range(8):
        ctx.heartbeat({"done": number})
        time.sleep(0.25)
    time.sleep(60)
    return None


beating = flow("beating").then(Node("beats", beats, retry=SOON).with_heartbeat_timeout(timedelta(seconds=1))).build()

FLOWS = (
    line, two_fans, wide, retries, exhausted, later, terminal, cancelled, out_of_time, rollback, forward, limited,
    uses_task, asynchronous, keyed, one_at_a_time, overdue, beating,
)  # fmt: skip
for each in FLOWS:
    orchestrator.register(each)
