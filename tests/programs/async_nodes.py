"""A user's module whose async nodes keep what they have made on their event loop, on a queue for each kind of pool."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

from celery import Celery, current_task

from orchestrator import FlowBuilder, Node, NodeContext, Orchestrator, RetryPolicy, manual
from tests.harness import Ledger

URL = os.environ["TEST_REDIS_URL"]
app = Celery("async_nodes", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
orchestrator = Orchestrator(app)
LEDGER = Ledger(URL)
POOLS = ("prefork", "threads", "gevent")
ONCE = RetryPolicy(maximum_attempts=1)
kept: dict[Any, Any] = {}


async def echo(port: int) -> str:
    """Send and receive over the one connection of this process."""
    if "streams" not in kept:
        kept["streams"] = await asyncio.open_connection("127.0.0.1", port)
    reader, writer = kept["streams"]
    writer.write(b"hello\n")
    line: bytes = await reader.readline()
    return line.decode().strip()


async def meet(ctx: NodeContext) -> list[Any]:
    """Return only when three are there at the same time, on this loop."""
    barrier = kept.setdefault(ctx.run_id, asyncio.Barrier(3))
    async with asyncio.timeout(20):
        await barrier.wait()
    loop = asyncio.get_running_loop()
    return [os.getpid(), id(loop)]


async def told() -> list[Any]:
    """What Celery says is running, after others have had their turn."""
    await asyncio.sleep(0.01)
    return [current_task.name, current_task.request.root_id]


async def leave(run_id: str) -> None:
    """Go, and leave a task and a generator behind."""

    async def last_for_ever() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            LEDGER.note("cancelled", run_id)

    async def numbers() -> Any:
        try:
            yield 1
        finally:
            LEDGER.note("finished", run_id)

    kept["task"], kept["numbers"] = asyncio.create_task(last_for_ever()), numbers()
    await anext(kept["numbers"])


def run_a_loop() -> list[Any]:
    """A function with a loop for itself."""
    return [asyncio.run(asyncio.sleep(0, 5)), threading.current_thread() is threading.main_thread()]


def use_the_current_loop() -> list[Any]:
    """A function that expects a current loop, as code from before `asyncio.run` does."""
    return [asyncio.get_event_loop().run_until_complete(asyncio.sleep(0, 6))]


def nodes(*functions: Any, wants: Any = None) -> list[Node[Any, Any]]:
    made = [Node(f"n{number}", function).with_retry(ONCE) for number, function in enumerate(functions)]
    return [node.with_input_func(wants) for node in made] if wants else made


def register(name: str, pool: str, *made: Node[Any, Any], fused: bool = False, fan: bool = False) -> None:
    builder = FlowBuilder(f"{name}-{pool}").triggered_by(manual("test")).on_queue(pool)
    if fused:
        builder.fused()
    if fan:
        builder.then_parallel("fan", *made, local=fused)
    else:
        for node in made:
            builder.then(node)
    builder.then(Node("last", lambda state: state, input_func=lambda s: {k: s.get(k) for k in s.keys()}))  # noqa: SIM118
    orchestrator.register(builder.build())


for pool in POOLS:
    for fused in (False, True):
        kind = "fused" if fused else "plain"
        register(f"echoes-{kind}", pool, *nodes(echo, echo, echo, wants=lambda state: state.input(int)), fused=fused)
        register(f"loops-{kind}", pool, *nodes(run_a_loop, use_the_current_loop), fused=fused)
    register("meets-local", pool, *nodes(meet, meet, meet), fused=True, fan=True)
    if pool != "gevent":  # of greenlets, which share a thread, only one may run a loop at a time
        register("loops-local", pool, *nodes(use_the_current_loop, run_a_loop), fused=True, fan=True)
    register("told", pool, *nodes(told, told, told), fan=True)
    register("meets-group", pool, *nodes(meet, meet, meet), fan=True)
    register("leaves", pool, *nodes(leave, wants=lambda state: state.run_id))
