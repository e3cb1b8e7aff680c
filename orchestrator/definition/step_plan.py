"""Position of a plan, and the rules of each kind: what the engine may do with a position, by the plan's word for it.

One small class for each kind and one table. The scripts have a table of the same words, library/step_kinds.lua.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from orchestrator.lazy import lazy

END = -1
"""The position after the last step."""


class StepRules:
    """A position whose members are published one by one and joined in the store: what holds if nothing else is said."""

    is_single = False
    """Whether it is one node, which may stand in a chain and be followed in the same process."""
    is_own = False
    """Whether its node is the engine's own and runs code of the step."""
    is_parallel = False
    """Whether its members start together: none sees another, and Celery's chord may join them."""
    is_map = False
    """Whether its node is called for each item of a list."""
    is_prelude = False
    """Whether it only prepares the step behind it, and a picture has both as one."""
    claims_fast = False
    """Whether the fast path of the scripts may claim its nodes."""

    def commits_fast(self, step: StepPlan, *, is_undone: bool) -> bool:  # noqa: ARG002 - as most kinds answer
        """Whether the fast path may commit a node of it; `is_undone` says that the node has a compensation."""
        return False

    def first_nodes(self, step: StepPlan) -> tuple[str, ...]:
        """The nodes that are ready when a run begins with the step."""
        return step.nodes

    def next_position(self, step: StepPlan, choice: int | None) -> int:  # noqa: ARG002 - as most kinds answer
        """The position behind its node; END where several members are joined."""
        return END


class ThenRules(StepRules):
    """One node of the flow."""

    is_single = True
    claims_fast = True

    def commits_fast(self, step: StepPlan, *, is_undone: bool) -> bool:  # noqa: ARG002 - its node has a record either way
        """Always."""
        return True

    def next_position(self, step: StepPlan, choice: int | None) -> int:  # noqa: ARG002 - it makes none
        """The next step."""
        return step.next


class GateRules(StepRules):
    """A gate: nobody is sent a message, and who ends it publishes what is behind it."""


class ExpandRules(StepRules):
    """The computation of the items of the map behind it."""

    is_single = True
    is_own = True
    is_prelude = True
    claims_fast = True

    def next_position(self, step: StepPlan, choice: int | None) -> int:  # noqa: ARG002 - it counts the items
        """The map."""
        return step.next


class BranchRules(StepRules):
    """A decision."""

    is_single = True
    is_own = True
    claims_fast = True

    def next_position(self, step: StepPlan, choice: int | None) -> int:
        """The branch that was chosen."""
        return step.branches[choice or 0]


class ParallelRules(StepRules):
    """Nodes that start together."""

    is_parallel = True
    claims_fast = True

    def commits_fast(self, step: StepPlan, *, is_undone: bool) -> bool:  # noqa: ARG002 - its nodes have a record either way
        """Where one process runs them all: a chord counts its members by their messages."""
        return step.local


class MapRules(StepRules):
    """One node, called for each item."""

    is_map = True

    def commits_fast(self, step: StepPlan, *, is_undone: bool) -> bool:  # noqa: ARG002 - one rule for all maps
        """Items that may have to be undone keep a record each."""
        return not is_undone


STEP_RULES: Final[dict[str, StepRules]] = {
    "then": ThenRules(),
    "gate": GateRules(),
    "parallel": ParallelRules(),
    "branch": BranchRules(),
    "expand": ExpandRules(),
    "map": MapRules(),
}


@dataclass(frozen=True)
class StepPlan:
    """One position: the nodes that run there and the positions that may follow.

    Attributes:
        name: Name of the step; for a single node the node's.
        kind: A word of `STEP_RULES`; "expand" computes the items of the map that follows.
        nodes: Names of the members; a branch has one, its decision.
        next: Position that follows, END after the last; unused by a branch.
        branches: Of a branch: the position for choice 0, 1, ..., the last one when no predicate held.
        go_on: Whether the run goes on without failed members.
        require: With `go_on`: how many members have to succeed.
        source: Of a map: the node that computes its items.
        width: Of a map: items in progress at once.
        batch: Of a map: items that one message runs.
        local: Of a parallel step of a fused flow: whether one process runs all members.
        gates: Those of its nodes that only wait; no message is sent for them.
        waits: Whether a node of it waits behind its attempt, so that no chord may join it.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    next: int = END
    branches: tuple[int, ...] = ()
    go_on: bool = False
    require: int = 0
    source: str = ""
    width: int = 0
    batch: int = 0
    local: bool = False
    gates: tuple[str, ...] = ()
    waits: bool = False

    @lazy
    def rules(self) -> StepRules:
        """What the engine may do with it; of a kind that only newer workers know, what may be done with any."""
        return STEP_RULES.get(self.kind) or StepRules()

    @property
    def is_known(self) -> bool:
        """Whether this process has the code of its kind."""
        return self.kind in STEP_RULES

    @property
    def first_nodes(self) -> tuple[str, ...]:
        """The nodes that are ready, or begin to wait, when a run begins with it."""
        return self.rules.first_nodes(self)

    @property
    def is_asked_for(self) -> bool:
        """Whether a run that comes to it sends a message."""
        return len(self.gates) < len(self.nodes)
