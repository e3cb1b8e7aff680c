"""What one message works through: one node, the items of a map up to a batch, or, fused, the nodes that follow in line.

The commit of one and the claim of the next are one round trip. Which item is next the scripts say, which node the plan;
a message carries neither, so a lost one loses nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.attempt import Attempt, Ended
from orchestrator.leases import is_draining

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.engine import Engine
    from orchestrator.plan import Plan

CLAIMED = {"run", "sleep", "no limit"}
GOES_ON = {"stored", "excused", "parked"}
IN_LINE = {"then", "branch", "expand"}


class Stretch:
    """One message of a run."""

    def __init__(self, engine: Engine, plan: Plan, *, run_id: str, epoch: int) -> None:
        self.engine = engine
        self.plan = plan
        self.run_id = run_id
        self.epoch = epoch
        self._left = 0  # items that may still follow

    def work_through(self, node: str, *, follows: bool, tell: Callable[[Attempt, Ended | None], None]) -> Ended:
        """Do a node and what follows it in this message.

        Args:
            node: The message's own node.
            follows: Whether Celery goes on behind the message.
            tell: Called for every other node before it starts, and with how it ended.

        Returns:
            How the message's own node ended; of a map, its last item.
        """
        facts = self.plan.nodes.get(node)
        of_map = facts is not None and facts.kind == "item"
        self._left = self.plan.steps[facts.step].batch if facts and of_map else 0
        attempt = self._attempt(node)
        attempt.follows = follows
        own = attempt.run()
        while (ahead := attempt.ahead) is not None:
            if ahead.claimed.outcome not in CLAIMED and not (of_map and ahead.claimed.outcome == ""):
                break
            attempt = ahead
            if of_map:
                ended = attempt.run()
                own = ended if ended.kind in GOES_ON or ended.error is not None else own
            else:
                tell(attempt, None)
                tell(attempt, attempt.run())
        return own

    def _attempt(self, node: str) -> Attempt:
        return Attempt(self.engine, self.plan, node, run_id=self.run_id, epoch=self.epoch, go_on=self._following)

    def _following(self, attempt: Attempt, choice: int | None) -> Attempt | None:
        """What comes after an attempt in this message, if anything."""
        if is_draining():
            return None
        facts = attempt.facts
        if facts.kind == "item":
            self._left -= 1
            return self._attempt(facts.name) if self._left > 0 else None
        step = self.plan.steps[facts.step]
        if not self.plan.fused or facts.kind == "compensation" or step.kind not in IN_LINE:
            return None
        position = step.next if step.kind != "branch" else step.branches[choice or 0]
        following = self.plan.steps[position] if position >= 0 else None
        if following is None or following.kind not in IN_LINE:
            return None
        ahead = self._attempt(following.nodes[0])
        return ahead if ahead.facts.queue == facts.queue and ahead.has_code() else None
