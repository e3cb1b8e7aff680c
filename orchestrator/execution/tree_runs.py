"""Go on, in the message of one run, with others of its tree: a child that it starts, the parent of one that ends.

On its way through the broker a message takes longer than several nodes of a fused flow. So a process that works through
a fused flow keeps the first node of a fused child, and what the child's end makes ready in its parent, if its message
could have brought them, and sends no message. Where the process dies meanwhile, the reconciler sends them.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from orchestrator.execution.sources import RunSource
from orchestrator.liveness.pool_processes import begins_no_runs, is_draining, is_worn_out

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.definition.plan import Plan
    from orchestrator.engine import Engine
    from orchestrator.store.scripts.results import Work

MOST_RUNS = 32
"""How often one message goes on with another run; behind that one is sent, so that other work gets its turn."""
KINDS = {"step", "nodes"}


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
        self._kept: deque[tuple[Plan, str, int, Work]] = deque()

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
        self._left -= 1
        self._kept.append((plan, run_id, epoch, work))
        return True

    def sources(self, *, is_over: bool) -> Iterator[tuple[RunSource, Work]]:
        """Hand out what was kept, and what is kept meanwhile; publish it if this process is to begin nothing more."""
        while self._kept:
            plan, run_id, epoch, work = self._kept.popleft()
            if is_over or is_draining():
                self.engine.publish(plan, run_id, epoch, work)
                continue
            yield RunSource(self.engine, plan, run_id=run_id, epoch=epoch, message=self._message, is_others=True), work
