"""Check of signals on a worker of their flow: what was sent without its code is taken, or noted as unfit."""

from __future__ import annotations

import logging

from orchestrator.engine import engine_of
from orchestrator.errors import InvalidInput
from orchestrator.fault_points import fault_point
from orchestrator.messaging.canvas import JUDGE
from orchestrator.messaging.engine_task import EngineTask
from orchestrator.sparing_log import warn_sparingly
from orchestrator.store.waiting_rows import unchecked_signal

logger = logging.getLogger(__name__)


class JudgeSignal(EngineTask):
    """A message that entries of a run's inbox are to be checked; any number of them is harmless."""

    name = JUDGE

    def run(self, run_id: str, epoch: int, plan_hash: str, name: str) -> None:
        """Check every entry of a signal that nobody has checked, the oldest first."""
        engine = engine_of(self.app)
        with engine.store.guarded():
            plan = engine.store.plan(plan_hash)
        if plan is None or name not in plan.signals:
            return
        gate = plan.nodes[plan.signals[name][0]]
        entry = engine.registry.entry_for(plan, gate)
        if entry is None:
            warn_sparingly(logger, "flow %s: a signal waits for a worker whose code fits: %s", plan.flow, name)
            return
        codec = entry.nodes[gate.name].output_codec
        while (found := unchecked_signal(engine.store, run_id, name)) is not None:
            number, value = found
            try:
                fits, text = True, codec.dump(codec.load(value), error=InvalidInput)
            except InvalidInput as error:
                fits, text = False, error.message.encode()
            fault_point("before_judge", name)
            with engine.store.guarded():
                moved = engine.store.scripts.outside.judge_signal(run_id, plan.hash, name, number, fits=fits, text=text)
            fault_point("after_judge", name)
            if moved.outcome == "unknown":
                return
            engine.publish(plan, run_id, epoch, moved.work)
