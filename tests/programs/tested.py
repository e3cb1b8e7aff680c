"""A user's test suite: Celery's own worker for tests, in a thread of this process, once and once more."""

from __future__ import annotations

import json
import os
import sys
import threading
import time

from celery import Celery
from celery.contrib.testing.worker import start_worker
from kombu.transport.redis import Channel

from orchestrator import FlowBuilder, Node, Orchestrator, manual
from orchestrator.execution import event_loop

URL = os.environ["TEST_REDIS_URL"]
LONG_S = 2.0
app = Celery("tested", broker=URL, backend=URL)
orchestrator = Orchestrator(app)
begun = threading.Event()


def hold() -> None:
    """Go on for longer than the grace of a shutdown."""
    begun.set()
    time.sleep(LONG_S)


async def answer() -> int:
    return 1


a, b, c = Node("a", lambda: 1), Node("b", lambda: 2), Node("c", answer)
orchestrator.register(
    FlowBuilder("fan").triggered_by(manual("test")).then_parallel("both", a, b, local=True).then(c).fused().build()
)
orchestrator.register(FlowBuilder("held").triggered_by(manual("test")).then(Node("hold", hold)).build())
STOCK = Channel.QoS


def report() -> None:
    """Print what of the engine is left in this process and its store."""
    left = {
        "threads": sorted(thread.name for thread in threading.enumerate() if "orchestrator" in thread.name),
        "loops": len(event_loop._loops),
        "workers": orchestrator._engine.store.workers(),
        "patched": Channel.QoS is not STOCK,
        "variables": [name for name in ("ORCHESTRATOR_WORKER_ID", "ORCHESTRATOR_POOL_MEMORY") if name in os.environ],
    }
    sys.stdout.write(f"{json.dumps(left)}\n")


for pool in ("solo", "threads", "solo"):
    with start_worker(app, pool=pool, perform_ping_check=False, shutdown_timeout=20):
        orchestrator.start("fan").result(int, timeout=30)
        assert orchestrator._engine.store.workers()
        begun.clear()
        held = orchestrator.start("held")
        assert begun.wait(30)
    report()
    held.cancel()
sys.stdout.write("lives on\n")
