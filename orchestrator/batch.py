"""How one message works through a map: it asks for one item after the other, up to the size of a batch.

Which item comes next the scripts decide when they are asked; messages carry none, so a lost one loses no item.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.attempt import Attempt, Ended
from orchestrator.leases import is_draining

if TYPE_CHECKING:
    from orchestrator.engine import Engine
    from orchestrator.plan import Plan

GOES_ON = {"stored", "excused", "parked"}


def work_through(engine: Engine, plan: Plan, node: str, *, run_id: str, epoch: int) -> Ended:
    """Do items of a map until the batch is full, none is left, or one ends the run; returns how the last one ended.

    The commit of one item and the claim of the next are one round trip.
    """
    size = plan.steps[plan.nodes[node].step].batch
    ended = Ended("left")
    following: Attempt | None = None
    for number in range(1, size + 1):
        goes_on = number < size and not is_draining()
        attempt = following or Attempt(engine, plan, node, run_id=run_id, epoch=epoch, follows=goes_on)
        attempt.follows = goes_on
        following = Attempt(engine, plan, node, run_id=run_id, epoch=epoch, follows=False) if goes_on else None
        attempt.ahead = following
        last, ended = ended, attempt.run()
        has_next = following is not None and following.claimed.outcome == "run"
        if ended.kind not in GOES_ON and not has_next:
            return last if ended.kind in {"done", "left"} and number > 1 else ended
        if not goes_on:
            break
    return ended
