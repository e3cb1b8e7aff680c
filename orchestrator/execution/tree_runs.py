"""Go on, in the message of one run, with others of its tree: a child that it starts, the parent of one that ends.

On its way through the broker a message takes longer than several nodes of a fused flow. So a process that works through
a fused flow keeps the first node of a fused child, and what the child's end makes ready in its parent, if its message
could have brought them, and sends no message. Where the process dies meanwhile, the reconciler sends them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.execution.sources import RunSource
from orchestrator.execution.store_retries import retry_until_stored
from orchestrator.liveness.leases import holder_name
from orchestrator.liveness.pool_processes import begins_no_runs, is_draining, is_worn_out
from orchestrator.store.run_store import INPUT
from orchestrator.store.scripts.children import FirstClaim
from orchestrator.store.scripts.commit_and_claim import STORED, Commit
from orchestrator.store.scripts.results import Claimed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator.definition.plan import Plan
    from orchestrator.engine import Engine
    from orchestrator.execution.attempt import Attempt
    from orchestrator.execution.node_kinds import Returned
    from orchestrator.execution.sources import Batch
    from orchestrator.store.scripts.results import Moved, Work

MOST_RUNS = 32
"""How often one message goes on with another run; behind that one is sent, so that other work gets its turn."""
KINDS = {"step", "nodes"}


@dataclass(frozen=True)
class Waiting:
    """A node that waits for a child which this message goes on with.

    Attributes:
        plan: The plan of its run.
        run_id: The run.
        epoch: Its epoch.
        node: The node.
        seen: JSON of outputs that the attempt has read, by key.
    """

    plan: Plan
    run_id: str
    epoch: int
    node: str
    seen: Mapping[str, bytes]


class TreeRuns:
    """What one message keeps of other runs.

    Args:
        engine: The engine.
        plan: The plan of the message's run.
        message: The Celery request that this process works on.
    """

    def __init__(self, engine: Engine, plan: Plan, message: Any) -> None:
        self.engine = engine
        self._message = message
        self._queue = (message.delivery_info or {}).get("routing_key") if plan.fused else None
        self._left = MOST_RUNS
        self._kept: deque[tuple[RunSource, Batch, Work | None]] = deque()
        self._waiting: dict[str, Waiting] = {}
        self._claimed: dict[str, tuple[RunSource, Batch]] = {}

    def takes(self, plan: Plan, node: str) -> bool:
        """Whether this process would go on with a node of another run."""
        node_plan = plan.nodes.get(node)
        if node_plan is None or not plan.fused or node_plan.queue != self._queue or node_plan.paged or self._left < 1:
            return False
        ends = is_draining() or is_worn_out() or begins_no_runs() or self.engine.app.conf.task_always_eager
        is_single = plan.steps[node_plan.step].rules.is_single
        return is_single and not ends and self.engine.registry.entry_for(plan, node_plan) is not None

    def keep(self, plan: Plan, run_id: str, epoch: int, work: Work) -> bool:
        """Keep what became ready in another run; False if it is to be published."""
        if work.kind not in KINDS or len(work.names) != 1 or not self.takes(plan, work.names[0]):
            return False
        source = self._source(plan, run_id, epoch)
        self._take(source, source.first(work.names[0]), work)
        return True

    def keep_child(self, attempt: Attempt, plan: Plan, run_id: str, epoch: int, work: Work) -> bool:
        """Keep the child that an attempt has started, as `keep`, and which node waits for it."""
        is_kept = self.keep(plan, run_id, epoch, work)
        if is_kept:
            self._note_waiting(attempt, run_id)
        return is_kept

    def claim_child(self, input_json: bytes, plan: Plan, run_id: str, *, epoch: int) -> FirstClaim | None:
        """The claim of a child's first node that goes with its start; None if it is published or kept."""
        name = plan.steps[0].nodes[0]
        # The same for a repeated call, whatever this process is to begin by then: a lost answer may have given it.
        if run_id not in self._claimed:
            if name not in plan.fast_claims or not self.takes(plan, name):
                return None
            source = self._source(plan, run_id, epoch)
            self._claimed[run_id] = source, source.first(name)
        _, (attempt,) = self._claimed[run_id]
        # Of a run that begins there is no output but its input.
        asked = attempt.claim_of({INPUT: input_json}).reads
        attempt.hold(Claimed("run", 1, values=(None,) * len(asked)), {INPUT: input_json})
        return FirstClaim(name, attempt.token, attempt.node_plan.timeout_ms)

    def hold_child(self, attempt: Attempt, run_id: str) -> None:
        """Go on with the child that an attempt has started, the first node of which was claimed with it."""
        self._take(*self._claimed.pop(run_id), None)
        self._note_waiting(attempt, run_id)

    def end_child(self, attempt: Attempt, made: Returned) -> Moved | None:
        """Store what the last node of a child returned together with what that leads to in its parent.

        Returns:
            The answer of the commit; None if it is not made here: the attempt is to be committed as any other.
        """
        waiting = self._waiting.get(attempt.run_id)
        if waiting is None or not made.output or made.page is not None:
            return None
        children = attempt.store.scripts.children
        name, holder = attempt.node_plan.name, holder_name()
        end = children.plain_end(attempt.plan, name, waiting.plan, waiting.node, holder)
        if end is None or not self.takes(waiting.plan, end.follower):
            return None
        source = self._source(waiting.plan, waiting.run_id, waiting.epoch)
        # The same for a repeated call: a lost answer may have given its token the claim.
        (behind,) = batch = source.first(end.follower)
        seen = {**waiting.seen, waiting.plan.nodes[waiting.node].key: made.output}
        ask = partial(
            children.end,
            *(end, attempt.run_id, attempt.plan.hash, Commit(name, attempt.token, made.output)),
            epoch=attempt.epoch,
            parent=(waiting.run_id, waiting.plan.hash, waiting.epoch),
            claim=behind.claim_of(seen),
        )
        claimed = retry_until_stored(attempt.store, attempt.place, ask)
        if claimed is None:
            return None
        behind.hold(claimed, seen)
        self._take(source, batch, None)
        return STORED

    def sources(self, *, is_over: bool) -> Iterator[tuple[RunSource, Batch, Work | None]]:
        """Hand out what was kept, and what is kept meanwhile; publish it if this process is to begin nothing more.

        Yields:
            Where the attempts come from, the first of them, and what is published if this process cannot make it; None
            of one that is claimed: it is made even now, for giving it back would cost an attempt.
        """
        while self._kept:
            source, batch, work = self._kept.popleft()
            if work is not None and (is_over or is_draining()):
                self.engine.publish(source.plan, source.run_id, source.epoch, work)
                continue
            yield source, batch, work

    def _note_waiting(self, attempt: Attempt, run_id: str) -> None:
        seen = attempt.prefetched.read(attempt.claimed.values)
        self._waiting[run_id] = Waiting(attempt.plan, attempt.run_id, attempt.epoch, attempt.name, seen)

    def _source(self, plan: Plan, run_id: str, epoch: int) -> RunSource:
        return RunSource(self.engine, plan, run_id=run_id, epoch=epoch, message=self._message, is_others=True)

    def _take(self, source: RunSource, batch: Batch, work: Work | None) -> None:
        self._left -= 1
        self._kept.append((source, batch, work))
