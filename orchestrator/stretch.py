"""What one message works through: a node, items of a map up to a batch, pages, or, fused, nodes that follow in line.

The commit of one and the claim of the next are one round trip. Which item is next the scripts say, which node the plan;
a message carries neither, so a lost one loses nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.attempt import Attempt, Ended
from orchestrator.leases import is_draining
from orchestrator.plan import node_of
from orchestrator.turns import PageAttempt

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.engine import Engine
    from orchestrator.plan import Plan

PAGES_AT_ONCE = 50
"""Pages of one message at most, so that other work of the queue gets its turn."""
CLAIMED = {"run", "admit", "sleep", "no limit"}
GOES_ON = {"stored", "turned", "excused", "parked"}
IN_LINE = {"then", "branch", "expand"}


class Stretch:
    """One message of a run."""

    def __init__(self, engine: Engine, plan: Plan, *, run_id: str, epoch: int) -> None:
        self.engine = engine
        self.plan = plan
        self.run_id = run_id
        self.epoch = epoch
        self._left = 0  # items or pages that may still follow

    def work_through(self, node: str, *, follows: bool, tell: Callable[[Attempt, Ended | None], None]) -> Ended:
        """Do a node and what follows it in this message.

        Args:
            node: The message's own node.
            follows: Whether Celery goes on behind the message.
            tell: Called for every other node before it starts, and with how it ended.

        Returns:
            How the message's own node ended; of a map, its last item.
        """
        facts = self.plan.nodes[node_of(node)]
        of_map = facts.kind == "item"
        self._left = self.plan.steps[facts.step].batch if of_map else PAGES_AT_ONCE
        attempt = self._attempt(node)
        attempt.follows = follows
        own = attempt.run()
        while (ahead := attempt.ahead) is not None:
            if ahead.claimed.outcome not in CLAIMED and not (of_map and ahead.claimed.outcome == ""):
                break
            is_own, attempt = ahead.facts is facts, ahead
            if is_own:
                attempt.follows = follows
                ended = attempt.run()
                own = ended if ended.kind in GOES_ON or ended.error is not None else own
            else:
                tell(attempt, None)
                tell(attempt, attempt.run())
        return own

    def _attempt(self, node: str) -> Attempt:
        kind = PageAttempt if self.plan.nodes[node_of(node)].paged else Attempt
        return kind(self.engine, self.plan, node, run_id=self.run_id, epoch=self.epoch, go_on=self._following)

    def _following(self, attempt: Attempt, choice: int | None) -> Attempt | None:
        """What comes after an attempt in this message, if anything."""
        if is_draining():
            return None
        facts = attempt.facts
        if facts.kind == "item" or facts.paged:
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
        fits = ahead.facts.queue == facts.queue and not ahead.facts.paged
        return ahead if fits and ahead.has_code() else None
