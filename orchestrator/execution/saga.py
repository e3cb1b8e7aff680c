"""Start of a rollback from an error callback: a hint that a run may be ending, which the stored state confirms or not.

The scripts recorded the compensations and their order when nothing of the run was running any more; the end of each
compensation publishes the next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.engine import engine_of
from orchestrator.fault_points import fault_point
from orchestrator.messaging.canvas import BEGIN_SAGA
from orchestrator.messaging.engine_task import EngineTask

if TYPE_CHECKING:
    from orchestrator.definition.plan import Plan
    from orchestrator.store.scripts.results import Work


class BeginSaga(EngineTask):
    """The error callback of every node: publishes the saga of a run that is ending and quiet, once."""

    name = BEGIN_SAGA

    def run(self, run_id: str, epoch: int, plan_hash: str) -> None:
        """Ask for the saga and publish it; does nothing for any other state of the run."""
        found = announced(self.app, run_id, epoch, plan_hash, "saga")
        if found is not None:
            plan, work = found
            # A crash in front of this line leaves the saga to the reconciler, node by node: the script has noted it as
            # published.
            engine_of(self.app).publish(plan, run_id, epoch, work)


def announced(app: Any, run_id: str, epoch: int, plan_hash: str, position: int | str) -> tuple[Plan, Work] | None:
    """Take over what nobody has published of a position, or of the saga; None when the plan is gone."""
    engine = engine_of(app)
    with engine.store.guarded():
        plan = engine.store.plan(plan_hash)
        if plan is None:
            return None
        # Any number of these messages may come, and late: the script answers the work to one of them.
        moved = engine.store.scripts.publish_position(run_id, plan_hash, epoch, position)
    fault_point("after_announce")
    return plan, moved.work
