"""How a rollback starts from an error callback: a hint that a run may be ending, for the stored state to confirm.

Which compensations run, and in which order, the scripts have recorded when the run became quiet; a saga goes on with
every compensation that ends.
"""

from __future__ import annotations

from typing import Any

from celery import Task

from orchestrator.compiler import BEGIN_SAGA
from orchestrator.engine import engine_of
from orchestrator.faults import reach


class BeginSaga(Task):
    """The error callback of every node: publishes the saga of a run that is ending and quiet, once."""

    name = BEGIN_SAGA
    ignore_result = True
    acks_late = True
    serializer = "json"

    def run(self, run_id: str, epoch: int, plan_hash: str) -> None:
        """Ask for the saga and publish it; does nothing for any other state of the run."""
        publish_announced(self.app, run_id, epoch, plan_hash, "saga")


def publish_announced(app: Any, run_id: str, epoch: int, plan_hash: str, position: int | str) -> None:
    """Publish what nobody has published of a position, or of the saga."""
    engine = engine_of(app)
    with engine.store.guarded():
        plan = engine.store.plan(plan_hash)
        if plan is None:
            return
        moved = engine.store.scripts.announce(run_id, plan_hash, epoch, position)
    reach("after_announce")
    engine.publish(plan, run_id, epoch, moved.work)
