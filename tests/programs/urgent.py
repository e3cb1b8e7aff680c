"""A user's module whose worker notes with which priority the message of every task came."""

from __future__ import annotations

import os
import signal
from datetime import timedelta

from celery import Celery
from celery.signals import task_prerun

from orchestrator import FlowBuilder, FlowState, Node, Orchestrator, RetryPolicy, Terminal, manual, sleep
from tests.harness import Ledger, wait_until

URL = os.environ["TEST_REDIS_URL"]
app = Celery("urgent", broker=URL, backend=URL)
app.conf.update(task_default_queue="urgent", worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True)
orchestrator = Orchestrator(app)
LEDGER = Ledger(URL)
ONCE = RetryPolicy(maximum_attempts=1)
TWICE = RetryPolicy(maximum_attempts=2, initial_interval=timedelta(milliseconds=300))


@task_prerun.connect
def note_priority(sender, task, args, **_):
    if args:
        LEDGER.note(f"{args[0]} {task.request.delivery_info['priority']}", task.name)


def begin() -> list[int]:
    return [1, 2]


def settle() -> int:
    return 1


def settled(number: int) -> int:
    return number


def twice() -> int:
    if LEDGER.count("twice") % 2:
        raise ValueError("once more")
    return 1


def die() -> int:
    if LEDGER.count("die") % 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return 1


def fail() -> None:
    if LEDGER.client.get("fails"):
        raise Terminal("too late")


def undo() -> None:
    pass


def hold(name: str) -> None:
    LEDGER.note("holds", name)
    wait_until(lambda: LEDGER.client.get("go"), "let go")


def mark(name: str) -> None:
    LEDGER.note("mark", name)


def numbers(state: FlowState) -> list[int]:
    return state.get("begin", list[int])


def given(state: FlowState) -> str:
    return state.input(str)


def flow(name: str) -> FlowBuilder:
    return FlowBuilder(name).triggered_by(manual("test"))


child = (
    flow("urgent-child")
    .then(Node("settle", settle).on_error(Node("undo-settle", undo)))
    .then(Node("mend", settle))
    .build()
)
everything = (
    flow("urgent-all")
    .then(Node("begin", begin).on_error(Node("undo-begin", undo)))
    .then(Node("next", settle))
    .then_parallel("both", Node("left", settle), Node("right", settle).on_error(Node("undo-right", undo)))
    .then_map("each", Node("item", settled), over=numbers)
    .then(sleep("nap", timedelta(milliseconds=300)))
    .then(Node("twice", twice).with_retry(TWICE))
    .then(Node("die", die).with_retry(TWICE))
    .then_parallel("waits", Node("below", child), Node("beside", settle))
    .then(Node("fail", fail).with_retry(ONCE))
    .build()
)
for each in (
    everything,
    flow("urgent-hold").takes(str).then(Node("hold", hold).with_input_func(given)).build(),
    flow("urgent-mark").takes(str).then(Node("mark", mark).with_input_func(given)).build(),
    flow("urgent-fused")
    .takes(str)
    .then(Node("mark", mark).with_input_func(given))
    .then(Node("then", settle))
    .fused()
    .build(),
    flow("urgent-away").on_queue("urgent-away").then(Node("settle", settle)).build(),
):
    orchestrator.register(each)
