"""Wake what is due, many in a round trip: nodes that were parked, and nodes whose waiting ends."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from orchestrator.errors import RunError
from orchestrator.fault_points import fault_point

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.definition.plan import Plan
    from orchestrator.engine import Engine
    from orchestrator.maintenance.broken_parts import BrokenParts
    from orchestrator.store.scripts.results import Moved, Work


class Wakes:
    """Wakes nodes for the leading reconciler.

    Args:
        engine: The engine.
        parts: Sets aside a timer that fails, so that the others go on.
    """

    def __init__(self, engine: Engine, parts: BrokenParts) -> None:
        self.engine = engine
        self.store = engine.store
        self._parts = parts

    def wake(self, members: Sequence[str]) -> None:
        """Wake nodes, in their order, and publish what that makes ready.

        Args:
            members: Of each its run and its name, as a timer has them.
        """
        strays = [member for member in members if member.count("|") != 1]
        for member in strays:
            self._parts.attempt("timer", member, partial(_refuse, member))
        members = [member for member in members if member not in strays]
        nodes = [member.split("|") for member in members]
        pins = self.store.pins([run_id for run_id, _ in nodes])
        plans = self.store.plans({plan_hash for plan_hash, _ in pins})
        found = []
        for member, (run_id, node), (plan_hash, epoch) in zip(members, nodes, pins, strict=True):
            if plan_hash in plans:
                fault_point("before_wake", node)
                found.append((member, run_id, node, plans[plan_hash], epoch))
            else:
                self._parts.attempt("timer", member, partial(self._miss, run_id, node, plan_hash))
        answers = self.store.scripts.wake_many([(run_id, plan.hash, node) for _, run_id, node, plan, _ in found])
        made: list[tuple[Plan, str, int, Work]] = []
        for (member, run_id, node, plan, epoch), answer in zip(found, answers, strict=True):
            fault_point("after_wake", node)
            # Also where it went well: a timer that failed before is named no longer.
            self._parts.attempt("timer", member, partial(self._take, answer, plan, run_id, epoch, made))
        # Ready by now, and without a message: after a crash here the looks at their runs send one.
        self.engine.publisher.publish_all(made)

    def _take(
        self, answer: Moved | RedisError, plan: Plan, run_id: str, epoch: int, made: list[tuple[Plan, str, int, Work]]
    ) -> None:
        if isinstance(answer, RedisError):
            raise answer
        made += self.engine.resolve(plan, run_id, epoch, answer.work)

    def _miss(self, run_id: str, node: str, plan_hash: str) -> None:
        if plan_hash:
            raise RunError("the plan of its run is gone", run_id=run_id, node_name=node)
        self.store.upkeep.forget_timer(run_id, node)


def _refuse(member: str) -> None:
    raise ValueError(f"{member!r} is no timer: it has to name a run and a node")
