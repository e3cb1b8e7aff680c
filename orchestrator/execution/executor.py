"""Run the attempts that a source hands out, inline or in threads, and have their ends stored.

The only loop over attempts: a message of Celery, a chain or chord member, items of a map, pages, nodes of a fused flow,
pulled runs, local steps and compensations differ in their source alone.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from orchestrator.definition.context import Deferred
from orchestrator.execution.attempt import Waits
from orchestrator.execution.child_attempt import Spawn
from orchestrator.execution.commits import Committed, commit, let_wait, outcome_of, record_failure
from orchestrator.execution.failed_frames import release, release_later
from orchestrator.execution.failures import Failed
from orchestrator.execution.local_fan_out import LocalFanOut
from orchestrator.execution.node_kinds import Returned
from orchestrator.execution.spawning import start_child
from orchestrator.fault_points import fault_point
from orchestrator.liveness.pool_memory import AT_ONCE
from orchestrator.liveness.pool_processes import working_on
from orchestrator.middleware import End, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.engine import Engine
    from orchestrator.execution.attempt import Attempt, Made
    from orchestrator.execution.sources import Batch, RunSource
    from orchestrator.execution.tree_runs import TreeRuns
    from orchestrator.store.scripts.results import Moved

MADE_HERE = {End.STORED, End.PAGE_STORED, End.TOLERATED, End.PARKED, End.FAILED}


class Executor:
    """Works through the attempts of one source.

    Args:
        engine: The engine.
        source: The source.
        tree: Keeps what this message goes on with in other runs; without it all of that is published.
    """

    def __init__(self, engine: Engine, source: RunSource, tree: TreeRuns | None = None) -> None:
        self.engine = engine
        self.source = source
        self.tree = tree

    def run(self, batch: Batch) -> Outcome:
        """Run a batch, and what the source has behind it.

        Returns:
            How the first attempt ended; of a map or a paginated node, the last one that this process made of it.
        """
        own = Outcome(End.SKIPPED)
        node_plan, is_first = (batch[0].node_plan, True) if batch else (None, False)
        while batch:
            if self.source.plan.steps[batch[0].node_plan.step].local:
                batch = self._run_in_threads(batch)
                continue
            (attempt,) = batch
            if not attempt.may_run:  # claimed with the commit in front of it, and somebody else was faster
                break
            outcome, batch = self._run_inline(attempt)
            if attempt.node_plan is node_plan and (is_first or outcome.end in MADE_HERE):
                own = outcome
            is_first = False
        return own

    def _run_inline(self, attempt: Attempt) -> tuple[Outcome, Batch]:
        # Marked until its end is stored: a claim that no process works on is ended by the lease renewer.
        with working_on(attempt.token):
            made = attempt.make()
            successors = self.source.after(attempt, made) if isinstance(made, Returned | Failed) else ()
            ended: list[Outcome] = []
            behind = self._settle([(attempt, made)], successors, ended.append)
        return ended[0], behind

    def _run_in_threads(self, members: Batch) -> Batch:
        # A member that somebody else holds is not waited for: the last commit joins the step, wherever it is made.
        held = [member for member in members if member.may_run]
        behind: Batch = ()
        # No more at once than have a place in the pool's memory: a claim without one would be taken for forgotten and
        # ended.
        for first in range(0, len(held), AT_ONCE):
            group = held[first : first + AT_ONCE]
            # The same successors for all of a group: a lost answer may have given their tokens their claims.
            successors = self.source.after_step(group[0])
            behind = LocalFanOut(group, partial(self._settle, successors=successors)).run()
        return behind

    def _settle(
        self,
        arrived: Sequence[tuple[Attempt, Made]],
        successors: Batch,
        note: Callable[[Outcome], object] = lambda _outcome: None,
    ) -> Batch:
        """Store how attempts ended and publish what that makes ready; returns what this process goes on with."""
        behind: Batch = ()
        returned = [(attempt, made) for attempt, made in arrived if isinstance(made, Returned)]
        if returned:
            ended = self.tree.end_child(*returned[0]) if self.tree and not successors and len(returned) == 1 else None
            committed = Committed((ended,)) if ended else commit(returned, successors)
            # Not strict: while other members of the position are left, nothing was claimed.
            for successor, claimed in zip(successors, committed.claims, strict=False):
                successor.hold(claimed, committed.seen)
            behind = successors if committed.claims else ()
            for (attempt, _), moved in zip(returned, committed.moved, strict=True):
                behind = self._leave(attempt, moved, pushed=committed.pushed, note=note) or behind
        for attempt, made in arrived:
            if isinstance(made, Failed):
                next_item = successors if attempt.kind.repeats(made) else ()
                moved, error = record_failure(attempt, made, continues=bool(next_item))
                behind = self._leave(attempt, moved, error=error, note=note) or behind or next_item
            elif isinstance(made, Deferred):
                self._leave(attempt, let_wait(attempt, made), note=note)
            elif isinstance(made, Spawn):
                moved, failure = start_child(attempt, made, self.tree)
                self._leave(attempt, moved, error=failure, note=note)
            elif isinstance(made, Waits):
                self._leave(attempt, made.moved, note=note)
                self._report_wait(attempt, made.moved.outcome)
            elif isinstance(made, Outcome):
                self._report_wait(attempt, attempt.claimed.outcome)
                note(made)
        return behind

    def _report_wait(self, attempt: Attempt, outcome: str) -> None:
        if outcome == "parked":
            self.engine.middlewares.after_wait(attempt.run_id, attempt.plan.flow, attempt.name)

    def _leave(
        self,
        attempt: Attempt,
        moved: Moved,
        *,
        error: BaseException | None = None,
        pushed: str = "",
        note: Callable[[Outcome], object],
    ) -> Batch:
        """Publish what the end of an attempt made ready, unless it is done here; returns the latter."""
        outcome = outcome_of(attempt, moved, error)
        behind: Batch = ()
        # Only who was accepted publishes: of a doubled message both would, and the copies would double at every hop.
        if outcome.end is not End.SKIPPED:
            fault_point("after_store", attempt.node_plan.name)
            behind = self.source.take(attempt, moved.work)
            if not behind:
                # The script has noted that this process publishes; if it dies here, the reconciler does.
                keep = self.tree.keep if self.tree else None
                self.engine.publish(attempt.plan, attempt.run_id, attempt.epoch, moved.work, keep=keep)
            if pushed:
                self.engine.publisher.learn(attempt.plan, pushed, attempt.epoch)
            # The commit has freed the slots; this wakes who waits for them, and after a crash here the leader does.
            if attempt.node_plan.limits:
                self.engine.release_slots(attempt.plan, attempt.node_plan.name)
            fault_point("after_publish", attempt.node_plan.name)
        if attempt.node_call is not None:  # after the fact: an observer's delay must not hold back what is published
            self.engine.middlewares.after_node(attempt.node_call, outcome)
            attempt.node_call = None  # it leads back here: the attempt and all that it read would wait for a collection
        if outcome.error is not None:
            (release_later if outcome.end is End.FAILED else release)(outcome.error)
        note(outcome)
        return behind
