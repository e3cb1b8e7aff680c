"""A user's module whose Redis refuses: a node that is held until its result is to be stored, and a quick one."""

from __future__ import annotations

import os
import time
from pathlib import Path

import billiard
from celery import Celery

from orchestrator import Flow, FlowBuilder, FlowState, Node, NodeContext, Orchestrator, RetryPolicy, manual
from tests.harness import Ledger

URL = os.environ["TEST_REDIS_URL"]
LEDGER = Ledger(os.environ["TEST_LEDGER_URL"])
GATES = Path(os.environ["TEST_GATES"])
app = Celery("refused", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
if method := os.environ.get("TEST_START_METHOD"):
    app.conf.worker_pool_start_method = "spawn" if method == "spawn" else "fork"
    if method == "forkserver":
        billiard.set_start_method("forkserver", force=True)
orchestrator = Orchestrator(app)
ONCE = RetryPolicy(maximum_attempts=1)
POOLS = ("prefork", "threads", "gevent", "solo", "spawn", "forkserver", "recycled")


@app.task(name="refused.own")
def own(n: int) -> int:
    """A task of the app's own."""
    return n


def hold(ctx: NodeContext) -> int:
    """Go on until there is a file named after the run."""
    LEDGER.note("start", ctx.run_id)
    while not (GATES / ctx.run_id).exists():
        time.sleep(0.02)
    LEDGER.note("end", ctx.run_id)
    return 1


def plus(n: int) -> int:
    return n + 1


def held(state: FlowState) -> int:
    return state.get("hold", int)


def plans(pool: str) -> list[Flow]:
    """The flows of one pool: for the worker that is busy, and for the idle one."""
    last = Node("last", plus).with_input_func(lambda state: state.get("left", int)).with_retry(ONCE)
    both = (Node(name, plus).with_input_func(held).with_retry(ONCE) for name in ("left", "right"))
    busy = FlowBuilder(f"held-{pool}").triggered_by(manual("test")).on_queue(f"busy-{pool}")
    idle = FlowBuilder(f"quick-{pool}").triggered_by(manual("test")).on_queue(f"idle-{pool}")
    return [
        busy.then(Node("hold", hold).with_retry(ONCE)).then_parallel("both", *both).then(last).build(),
        idle.then(Node("one", lambda: 1)).build(),
    ]


for each in POOLS:
    for flow in plans(each):
        orchestrator.register(flow)
