"""Fleet: the workers that announced themselves, and which of them have code that fits a node of a run.

What it answers is at most half a second old.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from orchestrator.definition.fitting import NO_NODE, Fits
from orchestrator.definition.plan import node_of

if TYPE_CHECKING:
    from orchestrator.definition.plan import Plan
    from orchestrator.store.run_store import Store

READ_AGAIN_S = 0.5


class Fleet:
    """The workers of one store, read when they are asked for."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._fits = Fits()
        self._workers: list[dict[str, Any]] = []
        self._misfits: dict[str, dict[str, str]] = {}
        self._read_at = float("-inf")

    def workers(self) -> list[dict[str, Any]]:
        """Return what each live worker has announced."""
        if time.monotonic() - self._read_at >= READ_AGAIN_S:
            self._workers, self._read_at = self._store.workers(), time.monotonic()
            self._misfits.clear()
        return self._workers

    def consumers(self, plan: Plan, node: str) -> list[dict[str, Any]]:
        """Return the workers that consume the queue of a node."""
        queue = plan.nodes[node_of(node)].queue
        return [worker for worker in self.workers() if queue in worker["queues"]]

    def why_unfit(self, worker: dict[str, Any], plan: Plan, node: str) -> str:
        """Return why a worker's code does not fit a node of a plan, or "" if it does."""
        name = node_of(node)
        if name not in worker["flows"].get(plan.flow, ()):
            return NO_NODE
        announced = worker.get("versions", {}).get(plan.flow)
        own = self._store.plan(announced) if announced else None
        if own is None:  # of version 0.1.0, which does not say
            return ""
        return self._fits.misfit(own, plan, name) or self._found(plan).get(f"{own.hash}|{name}", "")

    def _found(self, plan: Plan) -> dict[str, str]:
        """What attempts have found, by plan and node: why code does not fit runs of a plan."""
        self.workers()
        if plan.hash not in self._misfits:
            self._misfits[plan.hash] = read_misfits(self._store, plan.hash)
        return self._misfits[plan.hash]

    def fitting(self, plan: Plan, node: str, *, besides: str = "") -> list[dict[str, Any]]:
        """Return the workers that take a node's messages and have code that fits; none of the plan `besides`."""
        return [
            worker
            for worker in self.consumers(plan, node)
            if not (besides and worker.get("versions", {}).get(plan.flow) == besides)
            and not self.why_unfit(worker, plan, node)
        ]

    def is_mixed(self, plan: Plan, node: str) -> bool:
        """Return whether some workers that take a node's messages have code that fits, and others have not."""
        return 0 < len(self.fitting(plan, node)) < len(self.consumers(plan, node))

    def joined_ms(self, flow: str = "") -> int:
        """Return the instant in ms at which a worker with a flow, or any worker, came last; 0 if none says."""
        began = [worker.get("began", 0) for worker in self.workers() if not flow or flow in worker["flows"]]
        return max(began, default=0)


def read_misfits(store: Store, plan_hash: str) -> dict[str, str]:
    """Return why code does not fit runs of a plan, as attempts have found, by `<own plan>|<node>`."""
    with store.guarded():
        text = store.client.hget(store.keys.plan(plan_hash), "misfits")
    found: dict[str, str] = json.loads(text) if text else {}
    return found
