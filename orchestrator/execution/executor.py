"""What one message works through: a node, items of a map up to a batch, pages, or, fused, nodes that follow in line.

The commit of one and the claim of the next are one round trip. Which item is next the scripts say, which node the plan;
a message carries neither, so a lost one loses nothing.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from orchestrator.definition.plan import IN_LINE, node_of
from orchestrator.execution.attempt import Attempt, Ended
from orchestrator.execution.fast_path import goes_onward_alone
from orchestrator.execution.local_fan_out import Together
from orchestrator.execution.page_attempt import PageAttempt
from orchestrator.liveness.leases import is_draining
from orchestrator.liveness.pool_processes import AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.definition.plan import Plan
    from orchestrator.engine import Engine
    from orchestrator.store.scripts.results import Work

    Tell = Callable[[Attempt, Ended | None], None]

PAGES_IN_A_MESSAGE = 50
"""At most, so that other work of the queue gets its turn."""
MAY_RUN = {"", "run", "admit", "sleep", "no limit"}
GOES_ON = {"stored", "turned", "excused", "parked"}


class Stretch:
    """One message of a run."""

    def __init__(self, engine: Engine, plan: Plan, *, run_id: str, epoch: int, tell: Tell) -> None:
        """Take the run.

        Args:
            engine: The engine.
            plan: The plan that the run pins.
            run_id: The run.
            epoch: Its epoch in the message.
            tell: Called for every node but the message's own before it starts, and with how it ended.
        """
        self.engine = engine
        self.plan = plan
        self.run_id = run_id
        self.epoch = epoch
        self.tell = tell
        self._left = 0  # items or pages that may still follow
        self._joined: tuple[Attempt, ...] = ()  # what follows the local step that is worked on

    def work_through(self, node: str, *, follows: bool) -> Ended:
        """Do a node and what follows it in this message.

        Args:
            node: The message's own node.
            follows: Whether Celery goes on behind the message.

        Returns:
            How the message's own node ended; of a map, its last item.
        """
        facts = self.plan.nodes[node_of(node)]
        of_map = facts.kind == "item"
        self._left = self.plan.steps[facts.step].batch if of_map else PAGES_IN_A_MESSAGE
        attempt = self._attempt(node)
        attempt.follows = follows
        own = attempt.run()
        while ahead := attempt.ahead:
            attempt = ahead[0]
            if attempt.facts is not facts:
                self._follow(ahead)
                break
            if attempt.claimed.outcome not in MAY_RUN or (attempt.claimed.outcome == "" and not of_map):
                break
            attempt.follows = follows
            ended = attempt.run()
            own = ended if ended.kind in GOES_ON or ended.error is not None else own
        return own

    def work_through_alone(self, node: str) -> Ended:
        """Do a node and what follows it in a message that was another run's; returns how the node ended."""
        self._left = PAGES_IN_A_MESSAGE
        attempt = self._attempt(node)
        self.tell(attempt, None)
        ended = attempt.run()
        self.tell(attempt, ended)
        self._follow(attempt.ahead)
        return ended

    def work_through_step(self, work: Work) -> None:
        """Do the members of a local step and what follows it in this message, or publish them."""
        ahead = self._at(work.position, self.plan.queue) if work.names and work.kind == "step" else ()
        if ahead and self.plan.steps[work.position].local:
            self._follow(ahead)
        else:
            self.engine.publish(self.plan, self.run_id, self.epoch, work)

    def _follow(self, ahead: tuple[Attempt, ...]) -> None:
        """Do other nodes than the message's own, for as long as they follow each other."""
        while ahead:
            if self.plan.steps[ahead[0].facts.step].local:
                ahead = self._work_together(ahead)
                continue
            (attempt,) = ahead
            if attempt.claimed.outcome not in MAY_RUN:
                return
            self.tell(attempt, None)
            self.tell(attempt, attempt.run())
            ahead = attempt.ahead

    def _work_together(self, members: tuple[Attempt, ...]) -> tuple[Attempt, ...]:
        """Do the members of a local step in threads; returns what follows it, if the last of them ended here."""
        self._joined = ()
        step, queue = self.plan.steps[members[0].facts.step], members[0].facts.queue
        held = [member for member in members if member.claimed.outcome in MAY_RUN]
        for member in held:
            member.publish = partial(self._keep, queue)
            self.tell(member, None)
        joined: tuple[Attempt, ...] = ()
        for first in range(0, len(held), AT_ONCE):
            together = Together(held[first : first + AT_ONCE], lambda: self._at(step.next, queue))
            together.work(self.tell)
            joined = together.joined
        return joined or self._joined

    def _keep(self, queue: str, work: Work) -> None:
        """Go on here with what a member of a local step left to publish, if it can be done here."""
        if work.kind == "step" and (ahead := self._at(work.position, queue)):
            self._joined = ahead
        else:
            self.engine.publish(self.plan, self.run_id, self.epoch, work)

    def _attempt(self, node: str) -> Attempt:
        kind = PageAttempt if self.plan.nodes[node_of(node)].paged else Attempt
        return kind(
            self.engine,
            self.plan,
            node,
            run_id=self.run_id,
            epoch=self.epoch,
            go_on=self._following,
            short_way=goes_onward_alone,
        )

    def _following(self, attempt: Attempt, choice: int | None) -> tuple[Attempt, ...]:
        """What comes after an attempt in this message, if anything."""
        if is_draining():
            return ()
        facts = attempt.facts
        if facts.kind == "item" or facts.paged:
            self._left -= 1
            return (self._attempt(facts.name),) if self._left > 0 else ()
        return self._at(self.plan.follower(facts, choice), facts.queue)

    def _at(self, position: int, queue: str) -> tuple[Attempt, ...]:
        """The attempts at a position of a fused flow, if this process can make them all."""
        step = self.plan.steps[position] if position >= 0 and self.plan.fused and not is_draining() else None
        if step is None or not (step.kind in IN_LINE or step.local):
            return ()
        nodes = [self.plan.nodes[name] for name in step.nodes]
        knows = self.engine.registry.entry_for
        fit = all(node.queue == queue and not node.paged and knows(self.plan, node) for node in nodes)
        return tuple(self._attempt(node.name) for node in nodes) if fit else ()
