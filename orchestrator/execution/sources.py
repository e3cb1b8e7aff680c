"""Hand out the attempts that one message works through: its own node, then what the plan has behind it.

A message carries neither the next item nor the next node: the scripts say which item, the plan which node, so a lost
message loses nothing. Only a fused flow goes from node to node; a map goes to its next item, a paginated node to its
next page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from orchestrator.definition.plan import node_of
from orchestrator.execution.attempt import Attempt
from orchestrator.execution.node_kinds import Returned
from orchestrator.liveness.pool_processes import is_draining

if TYPE_CHECKING:
    from orchestrator.definition.plan import NodePlan, Plan
    from orchestrator.definition.registry import Registered
    from orchestrator.engine import Engine
    from orchestrator.execution.failures import Failed
    from orchestrator.store.scripts.results import Work

    Batch: TypeAlias = tuple[Attempt, ...]


class RunSource:
    """The attempts of one run in one message.

    Args:
        engine: The engine.
        plan: The plan that the run pins.
        run_id: The run.
        epoch: Its epoch in the message.
        celery_continues: Whether Celery publishes what is behind the message's own node.
        message: The Celery request that this process works on.
        is_others: Whether it is another run's: this one's was taken from the queue without Celery, or never sent.
    """

    def __init__(
        self,
        engine: Engine,
        plan: Plan,
        *,
        run_id: str,
        epoch: int,
        celery_continues: bool = False,
        message: Any = None,
        is_others: bool = False,
    ) -> None:
        self.engine = engine
        self.plan = plan
        self.run_id = run_id
        self.epoch = epoch
        self._celery_continues = celery_continues
        self._message = message
        self._is_others = is_others
        self._left = 0  # items or pages that may still be made in this message

    def first(self, node: str) -> Batch:
        """The message's own node."""
        attempt = self._attempt(node, self.plan.nodes[node_of(node)], is_own=True, is_first=True)
        self._left = attempt.kind.most_in_a_message(self.plan, attempt.node_plan)
        return (attempt,)

    def local_step(self, work: Work) -> Batch:
        """The members of a position, if this process makes all of them; else none: the position is to be published."""
        is_local = work.names and work.kind == "step" and self.plan.steps[work.position].local
        return self._at(work.position, self.plan.queue) if is_local else ()

    def after(self, attempt: Attempt, made: Returned | Failed) -> Batch:
        """What comes behind an attempt in this message, if anything."""
        # Nothing of what follows is lost if the process dies here: the store knows the next item and the next page.
        if attempt.kind.repeats(made):
            if is_draining():  # what follows is published instead, for a worker that stays
                return ()
            self._left -= 1  # a message ends after so many, so that other work of the queue gets its turn
            node_plan = attempt.node_plan
            return (self._attempt(node_plan.name, node_plan, is_own=True),) if self._left > 0 else ()
        return self.after_step(attempt, made.choice) if isinstance(made, Returned) else ()

    def after_step(self, attempt: Attempt, choice: int | None = None) -> Batch:
        """What comes behind the step of an attempt, if this process can make all of it."""
        node_plan = attempt.node_plan
        step = self.plan.steps[node_plan.step]
        position = step.next if step.local else self.plan.next_position(node_plan, choice)
        return self._at(position, node_plan.queue)

    def take(self, attempt: Attempt, work: Work) -> Batch:
        """What a member of a local step made ready, if this process goes on with it; else it is to be published."""
        is_joined = work.kind == "step" and self.plan.steps[attempt.node_plan.step].local
        return self._at(work.position, attempt.node_plan.queue) if is_joined else ()

    def _at(self, position: int, queue: str) -> Batch:
        """The attempts at a position of a fused flow, if this process can make them all."""
        step = self.plan.steps[position] if position >= 0 and self.plan.fused and not is_draining() else None
        if step is None or not (step.rules.is_single or step.local):
            return ()
        # All or none: a step whose members run in several places is joined by messages.
        batch = []
        for name in step.nodes:
            node = self.plan.nodes[name]
            entry = self.engine.registry.entry_for(self.plan, node)
            if entry is None or node.queue != queue or node.paged:
                return ()
            batch.append(self._attempt(name, node, entry))
        return tuple(batch)

    def _attempt(
        self,
        name: str,
        node_plan: NodePlan,
        entry: Registered | None = None,
        *,
        is_own: bool = False,
        is_first: bool = False,
    ) -> Attempt:
        return Attempt(
            self.engine,
            self.plan,
            name,
            node_plan,
            entry,
            run_id=self.run_id,
            epoch=self.epoch,
            # The chain or chord in the message is that of its own node; what this process goes on with has none.
            celery_continues=self._celery_continues and is_own,
            is_first=is_first and not self._is_others,
            is_own=is_own and not self._is_others,
            message=self._message,
        )
