"""A user's module for every kind of pool: parallel steps, nodes that die or do not stop, and one that is held."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

import billiard
from celery import Celery
from celery.signals import worker_process_init
from celery.worker.control import inspect_command
from kombu.transport.redis import Channel

from orchestrator import FlowBuilder, FlowState, Node, NodeContext, Orchestrator, RetryPolicy, manual
from tests.harness import Ledger

URL = os.environ["TEST_REDIS_URL"]
STOCK_QOS = Channel.QoS
app = Celery("pooled", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
app.conf.task_default_queue = "own"
app.conf.worker_proc_alive_timeout = 60  # a busy machine takes longer than Celery's 4 s to begin a spawned process
if method := os.environ.get("TEST_START_METHOD"):
    app.conf.worker_pool_start_method = "spawn" if method == "spawn" else "fork"
    if method == "forkserver":
        billiard.set_start_method("forkserver", force=True)
if limit := os.environ.get("TEST_POOL_LIMIT"):
    app.conf.broker_pool_limit = int(limit)
orchestrator = Orchestrator(app)
LEDGER = Ledger(URL)
ONCE = RetryPolicy(maximum_attempts=1)
SOON = RetryPolicy(initial_interval=timedelta(milliseconds=50), maximum_attempts=3, jitter=False)


def flow(name: str) -> FlowBuilder:
    return FlowBuilder(name).triggered_by(manual("test")).on_queue("flows")


def number_of(state: FlowState) -> int:
    return state.input(int)


def plus(n: int) -> int:
    return n + 1


def die(ctx: NodeContext) -> int:
    """End the process in the first attempt."""
    if ctx.attempt == 1:
        os._exit(3)
    return ctx.attempt


def hang() -> None:
    """Go on past the timeout until it is raised in here."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        time.sleep(0.02)


def refuse_to_stop() -> None:
    """Go on whatever is raised in here."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with suppress(Exception):
            hang()


def hold(ctx: NodeContext) -> None:
    """Go on for longer than any test."""
    LEDGER.note("start", ctx.run_id)
    time.sleep(60)


async def answer(n: int) -> int:
    return n


def share(ctx: NodeContext) -> int:
    """Use a client that async nodes use too, and a loop beside theirs."""
    LEDGER.note("shared", ctx.run_id)
    return asyncio.run(answer(1))


async def share_async(ctx: NodeContext) -> bool:
    """Use a client that functions use too, and the engine's own, and look at the loop."""
    loop = asyncio.get_running_loop()
    for _ in range(3):
        LEDGER.note("shared", ctx.run_id)
        await asyncio.sleep(0.001)
    child = await orchestrator.start_async("line", 1)
    return asyncio.get_running_loop() is loop and bool(child.id)


def steps(name: str, *functions: Any) -> FlowBuilder:
    builder = flow(name).takes(int)
    for index, function in enumerate(functions):
        builder = builder.then(Node(f"n{index}", function).with_input_func(number_of))
    return builder


LIMIT = timedelta(seconds=1)
FLOWS = {
    "fan": flow("fan").takes(int).then_parallel(
        "both", *(Node(name, plus).with_input_func(number_of) for name in ("a", "b"))
    ).then(Node("z", plus).with_input_func(number_of)),
    "line": steps("line", plus, answer, plus),
    "shares": flow("shares")
    .then_parallel("all", *(Node(f"n{n}", share if n % 2 else share_async).with_retry(ONCE) for n in range(6)))
    .then(Node("last", share_async)),
    "fused": steps("fused", plus, plus, plus).fused(),
    "mapped": flow("mapped").takes(int).then_map("m", Node("each", plus), lambda _state: list(range(9)), batch_size=3),
    "dies": flow("dies").then(Node("die", die).with_retry(SOON)),
    "hangs": flow("hangs").then(Node("hang", hang).with_timeout(LIMIT).with_retry(ONCE)),
    "stubborn": flow("stubborn").then(Node("refuse", refuse_to_stop).with_timeout(LIMIT).with_retry(ONCE)),
    "held": flow("held").then(Node("hold", hold).with_retry(SOON)),
    "pids": flow("pids").then(Node("a", os.getpid)).then(Node("b", os.getpid)).then(Node("c", os.getpid)).fused(),
}  # fmt: skip
for each in FLOWS.values():
    orchestrator.register(each.build())
lacking = flow("lacking").then(Node("only", lambda: 1)).build()
if os.environ.get("TEST_START_METHOD") == "spawn" and "ORCHESTRATOR_POOL_MEMORY" not in os.environ:
    orchestrator.register(lacking)  # as what a program registers under its `if __name__ == "__main__"`


@app.task(name="pooled.own")
def own(n: int) -> int:
    """A task of the app's own."""
    return n


@worker_process_init.connect
def note_process(**_: object) -> None:
    """Note that a pool process began."""
    LEDGER.note("process", str(os.getpid()))


@inspect_command()
def engine_parts(_state: Any) -> dict[str, Any]:
    """Tell what of the engine is in a worker's main process."""
    return {
        "threads": sorted(thread.name for thread in threading.enumerate() if "orchestrator" in thread.name),
        "patched": Channel.QoS is not STOCK_QOS,
        "limits": sorted(app.conf.broker_transport_options),
        "retries": app.conf.broker_connection_max_retries,
    }
