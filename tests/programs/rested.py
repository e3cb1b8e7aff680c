"""Program of a fleet that mostly has nothing to do, and of runs that wait."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

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
    sleep,
)

URL = os.environ["TEST_REDIS_URL"]
AGAIN_S = 0.5
app = Celery("rested", broker=URL, backend=URL)
app.conf.task_default_queue = "rested-own"
orchestrator = Orchestrator(app)


def now() -> int:
    """Return at once."""
    return 1


def again(ctx: NodeContext) -> int:
    """Fail once."""
    if ctx.attempt == 1:
        raise ValueError("once more")
    return ctx.attempt


def later() -> int:
    """Wait for an hour."""
    raise RetryLater(after=timedelta(hours=1))


def two(_state: FlowState) -> list[int]:
    return [0, 1]


def later_undone(item: int) -> int:
    return item


def undo(_item: int) -> None:
    """Nobody takes its messages."""


def refuse() -> None:
    raise Terminal("refused")


ONE_AN_HOUR = SharedRateLimiter("rested", 1, per=timedelta(hours=1))
RETRY = RetryPolicy(maximum_attempts=2, initial_interval=timedelta(seconds=AGAIN_S), jitter=False)
FLOWS: tuple[tuple[str, Node[Any, Any], str], ...] = (
    ("rested-now", Node("now", now), "rested"),
    ("rested-again", Node("again", again, retry=RETRY), "rested"),
    ("rested-later", Node("later", later, retry=RetryPolicy(maximum_attempts=2)), "rested"),
    ("rested-in-line", Node("one", now).with_shared_rate_limit(ONE_AN_HOUR), "rested"),
    ("rested-elsewhere", Node("now", now), "rested-lost"),
    ("rested-asleep", sleep("asleep", timedelta(days=30)), "rested"),
)
orchestrator.register(
    FlowBuilder("rested-undone")
    .triggered_by(manual("test"))
    .on_queue("rested")
    .then_map("all", Node("item", later_undone).on_error(Node("undo", undo).with_queue("rested-undo")), two)
    .then(Node("refuse", refuse))
    .build()
)
for name, node, queue in FLOWS:
    orchestrator.register(FlowBuilder(name).triggered_by(manual("test")).on_queue(queue).then(node).build())
