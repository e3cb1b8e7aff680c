"""Registry of this process: the flow, plan and functions behind each flow name.

The store has what other processes announced, and the plan that each run pins.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from orchestrator.definition.fitting import Fits
from orchestrator.definition.plan import Plan, limit_title
from orchestrator.definition.planning import limits_of, make_plan
from orchestrator.errors import RegistrationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator.definition.flow import Flow
    from orchestrator.definition.node import Node
    from orchestrator.definition.plan import NodePlan


@dataclass(frozen=True)
class Registered:
    """A flow with its plan and the code of its nodes by name.

    Attributes:
        flow: The flow.
        plan: The plan that this process starts runs with.
        nodes: Name to node, compensations included.
        steps: Name of a node of the engine's own, such as a decision, to the step whose functions it calls.
    """

    flow: Flow
    plan: Plan
    nodes: Mapping[str, Node[Any, Any]]
    steps: Mapping[str, Any]  # what is asked of a step depends on its kind


@dataclass
class Registry:
    """The flows of this process.

    Attributes:
        queue: Queue of the flows that name none.
        fused: Whether all flows are fused.
        fits: How code of this process fits plans that runs pin.
    """

    queue: str
    fused: bool = False
    flows: dict[str, Registered] = field(default_factory=dict)
    fits: Fits = field(default_factory=Fits)

    def add(self, flow: Flow) -> Registered | None:
        """Register a flow; the same object again changes nothing and returns None.

        Raises:
            RegistrationError: Another flow has the name, or a shared limiter of the same name has other numbers.
        """
        known = self.flows.get(flow.name)
        if known is not None:
            if known.flow is flow:
                return None
            msg = f"flow {flow.name}: another flow is registered under this name; rename one of them"
            raise RegistrationError(msg)
        plan = make_plan(flow, self.queue, fused=self.fused)
        self._refuse_other_numbers(plan)
        nodes = {node.name: node for node in (*flow.nodes(), *(undo for _, undo in flow.compensations()))}
        entry = Registered(flow, plan, nodes, {step.own_name: step for step in flow.all_steps() if step.own_kind})
        self.flows[flow.name] = entry
        return entry

    def adopt_queue(self, announced: Plan) -> Plan | None:
        """Use the queue of the workers that announced a flow, for a flow that names no queue.

        Returns the plan to start runs with from now on; None if the announced flow differs from the one here.
        """
        entry = self.flows.get(announced.flow)
        if entry is None or make_plan(entry.flow, announced.queue, fused=self.fused) != announced:
            return None
        self.flows[announced.flow] = replace(entry, plan=announced)
        return announced

    def entry_for(self, plan: Plan, node_plan: NodePlan) -> Registered | None:
        """Return the registered flow if its code fits a node of a run's plan; None if not, or if there is none."""
        entry = self.flows.get(plan.flow)
        if entry is None or entry.plan.hash == plan.hash:
            return entry
        return None if self.fits.misfit(entry.plan, plan, node_plan.name) else entry

    def why_unfit(self, plan: Plan, node_plan: NodePlan) -> str:
        """Return why the code of this process does not fit a node of a run's plan, or "" if it does."""
        entry = self.flows.get(plan.flow)
        return "it has no such flow" if entry is None else self.fits.misfit(entry.plan, plan, node_plan.name)

    def _refuse_other_numbers(self, plan: Plan) -> None:
        for other in self.flows.values():
            for name, numbers in plan.limits.items():
                if other.plan.limits.get(name, numbers) != numbers:
                    msg = (
                        f"flow {plan.flow}: {limit_title(name)} has other numbers in flow {other.plan.flow}; "
                        "use one object in both"
                    )
                    raise RegistrationError(msg)
            for name in (plan.keyed ^ other.plan.keyed) & plan.limits.keys() & other.plan.limits.keys():
                msg = (
                    f"flow {plan.flow}: {limit_title(name)} has a key function in one of the flows {plan.flow} and "
                    f"{other.plan.flow} and none in the other; rename one of them"
                )
                raise RegistrationError(msg)


def key_functions(node: Node[Any, Any], flow: str) -> Mapping[str, Callable[[Any], str]]:
    """Return the key functions of a node's limits, by the limits' names in the plan."""
    return {name: limit.key for name, limit in limits_of(node, flow).items() if limit.key is not None}
