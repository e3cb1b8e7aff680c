"""Fire what is due in a run under `task_always_eager`, where there is neither a worker nor a reconciler.

Celery runs tasks in the caller then, and so does this: retries, nodes that waited for a limiter, and the run's timeout
happen while a caller waits for the run.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING

from orchestrator.maintenance.reconciler import end_late_run
from orchestrator.store.scripts.results import MORE, Work

if TYPE_CHECKING:
    from orchestrator.definition.plan import Plan
    from orchestrator.engine import Engine

logger = logging.getLogger(__name__)
LONGEST_NAP_S = 0.1


def fire_due(engine: Engine, run_id: str) -> float:
    """Run the nodes of one run that wait and are due, in this thread; those of other runs are left to their waits.

    Returns:
        Seconds after which it is worth to ask again.

    Raises:
        StoreUnavailable: Redis did not answer.
    """
    pinned = engine.pinned(run_id)
    if pinned is None:
        return LONGEST_NAP_S
    record, plan = pinned
    with engine.store.guarded():
        now = engine.store.now_ms()
        timeout = engine.store.upkeep.timeout(run_id)
    if timeout is not None and timeout <= now:
        end_late_run(engine, run_id)
        return 0
    nap_s = LONGEST_NAP_S
    for node, known in engine.store.nodes(run_id).items():
        if known["state"] == "waiting" and "child" in known:
            nap_s = min(nap_s, fire_due(engine, known["child"]))
            engine.wake(plan, run_id, record.epoch, node)
        if known["state"] != "parked":
            continue
        if (bucket := known.get("bucket")) is not None:
            with engine.store.guarded():
                engine.store.scripts.release(bucket)
        elif known["due"] > now:
            nap_s = min(nap_s, (known["due"] - now) / 1000)
            continue
        engine.wake(plan, run_id, record.epoch, node)
    # A worker's reconciler on the same Redis may have been faster: its messages wait in a queue that nobody may
    # consume.
    _run_ready(engine, run_id, plan)
    return nap_s


def _run_ready(engine: Engine, run_id: str, plan: Plan) -> None:
    """Run what the reconciler of a worker on the same Redis has published, for no worker may have this flow's code."""
    with engine.store.guarded():
        look = engine.store.scripts.inspect_run(run_id, plan.hash)
        ready = [seen.node for seen in look.findings if seen.kind == "ready"]
        if any(seen.kind == "unfinished" for seen in look.findings):
            engine.publish(plan, run_id, look.epoch, Work(MORE))
        if not ready:
            return
        moved = engine.store.scripts.republish(run_id, plan.hash, look.epoch, ready)
    engine.publish(plan, run_id, look.epoch, moved.work)


@cache
def warn_of_eager(app: str) -> None:
    """Log, once for each app, what a run in the caller does not show."""
    logger.warning(
        "task_always_eager is set for the Celery app %s: a run is made in its caller, its retries in the caller that "
        "waits for it; locks, leases and recovery are not exercised",
        app,
    )
