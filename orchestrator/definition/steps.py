"""Kinds of steps: one small class for each says what it holds, what a plan makes of it, and what can be wrong with it.

The builder makes them, the checks ask them, and `planning` flattens them to positions. What the engine may do with a
position is said by the kind's rules in `step_rules`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

from orchestrator.definition.gates import Gate
from orchestrator.definition.step_plan import StepPlan
from orchestrator.definition.wording import is_a, is_whole, show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator.definition.codecs import Codec
    from orchestrator.definition.node import Node
    from orchestrator.definition.state import FlowState

    AnyNode: TypeAlias = Node[Any, Any]
    Predicate: TypeAlias = Callable[[FlowState], bool]

MOST_ITEMS: Final = 100_000
MOST_NODES: Final = 1000
"""Nodes of one parallel step: they become ready in one script, which holds Redis."""
AT_ONCE: Final = 50
"""Nodes of one parallel step above which `build` warns."""
WIDTH: Final = 256
"""Items of a map in progress at once by default, which also bounds the messages of a map in the queue."""


class Step:
    """One step of a flow; the answers here are those of a step that only holds nodes."""

    what: ClassVar[str] = "step"
    """How problems call it."""
    node_kind: ClassVar[str] = "node"
    """Kind of its nodes in a plan."""
    own_kind: ClassVar[str] = ""
    """Kind of the node that the engine has of its own for the step, which calls `functions`; empty for none."""
    clash: ClassVar[str] = ""
    """Of a step with a node of its own: what to do where its name is taken."""
    positions: ClassVar[int] = 1
    """Positions of a plan that it takes up; its nodes stand at the last of them."""

    name: str

    @property
    def titled(self) -> object:
        """What problems name it by: its name, or the node whose name it has; either may be anything."""
        return self.name

    @property
    def own_name(self) -> str:
        """Name of the node that the engine has of its own for the step."""
        return self.name

    @property
    def result_key(self) -> str | None:
        """Output key that is the run's result if the step is the last that has one."""
        return None

    def own_nodes(self) -> tuple[AnyNode, ...]:
        """The nodes that the step itself holds."""
        return ()

    def paths(self) -> tuple[tuple[Step, ...], ...]:
        """The branches of steps of which a run takes one."""
        return ()

    def nodes(self) -> tuple[AnyNode, ...]:
        """Its nodes, and those of its branches; nested steps included."""
        return (*self.own_nodes(), *(node for path in self.paths() for step in path for node in step.nodes()))

    def taken_by(self, node: AnyNode) -> Codec[Any] | None:
        """JSON in and out of what a node of it is called with; None of one that takes nothing."""
        return node.contract.input

    def functions(self) -> tuple[tuple[str, Callable[[FlowState], Any]], ...]:
        """The functions of the state that it calls itself, each with its name for a problem."""
        return ()

    def may_lose_outputs(self) -> bool:
        """Whether a run may go on without the output of one of its nodes."""
        return False

    def faults(self) -> Iterator[tuple[str, str]]:
        """Code and message of each problem of its own values; nodes are judged elsewhere."""
        return iter(())

    def findings(self) -> Iterator[str]:
        """Soft findings, a sentence each."""
        return iter(())

    def plans(self, position: int, following: int, entries: tuple[int, ...]) -> Iterator[StepPlan]:
        """What a plan has for it, one for each of its positions.

        Args:
            position: Its first position.
            following: The position behind it.
            entries: The first position of each of its branches.
        """
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Then(Step):
    """One node, after the step before.

    Attributes:
        node: The node.
    """

    node: AnyNode

    what = "node"

    @property
    def name(self) -> str:  # type: ignore[override] # a step is called like its one node
        """The name of its node."""
        return self.node.name

    @property
    def titled(self) -> object:
        """Its node."""
        return self.node

    @property
    def result_key(self) -> str | None:
        """The output key of its node."""
        return self.node.output_key

    def own_nodes(self) -> tuple[AnyNode, ...]:
        """The one node."""
        return (self.node,)

    def plans(self, position: int, following: int, entries: tuple[int, ...]) -> Iterator[StepPlan]:  # noqa: ARG002
        """One position."""
        if gates := _gates(self.own_nodes()):
            yield StepPlan(self.name, "gate", (self.name,), following, gates=gates)
        else:
            yield StepPlan(self.name, "then", (self.name,), following)


@dataclass(frozen=True, eq=False)
class Parallel(Step):
    """Nodes that start together and are joined before the next step.

    Attributes:
        name: Name of the step.
        members: The nodes, in the given order.
        on_failure: "fail": the first failure fails the run; "continue": a failed member leaves no output.
        require: With "continue": how many members have to succeed; None asks for none.
        local: Whether a fused flow runs all of them in one process.
    """

    name: str
    members: tuple[AnyNode, ...]
    on_failure: str = "fail"
    require: int | None = None
    local: bool = False

    def own_nodes(self) -> tuple[AnyNode, ...]:
        """The members."""
        return self.members

    def may_lose_outputs(self) -> bool:
        """A failed member leaves none, unless all have to succeed."""
        goes_on = is_a(self.on_failure, str) and self.on_failure == "continue"
        return goes_on and not (is_whole(self.require) and self.require == len(self.members))

    def faults(self) -> Iterator[tuple[str, str]]:
        """It has nodes, and `require` can be met."""
        most = len(self.members)
        if not most:
            yield "empty-parallel", "the parallel step has no node; give it at least one, or remove it"
        if most > MOST_NODES:
            yield (
                "too-wide",
                f"{most:,} nodes at once; use at most {MOST_NODES:,}, or then_map(...), one node for each item",
            )
        yield from _join_faults(self.on_failure, self.require, most, f"{most} nodes")

    def findings(self) -> Iterator[str]:
        """A map serves very wide steps better."""
        if len(self.members) > AT_ONCE:
            yield (
                f"{len(self.members)} nodes at once; over {AT_ONCE} are better written as then_map(...) with "
                "max_concurrency, which runs them in batches"
            )

    def plans(self, position: int, following: int, entries: tuple[int, ...]) -> Iterator[StepPlan]:  # noqa: ARG002
        """One position."""
        yield StepPlan(
            self.name,
            "parallel",
            tuple(node.name for node in self.members),
            following,
            go_on=self.on_failure == "continue",
            require=self.require or 0,
            local=bool(self.local),
            gates=_gates(self.members),
            waits=any(node.child is not None for node in self.members),
        )


@dataclass(frozen=True, eq=False)
class When(Step):
    """Branches; a run takes the first whose predicate holds.

    Attributes:
        name: Name of the block; `when-<k>` when none was given, k counted from 1 over the whole flow.
        predicates: One for each of `branches`.
        branches: The steps of each branch.
        otherwise: The steps taken when no predicate holds; None when there is no else-branch.
    """

    name: str
    predicates: tuple[Predicate, ...]
    branches: tuple[tuple[Step, ...], ...]
    otherwise: tuple[Step, ...] | None = None

    own_kind = "branch"
    clash = "a node or another block has this name; rename the block with when(predicate, name=...)"

    def paths(self) -> tuple[tuple[Step, ...], ...]:
        """The steps of every branch, those of the else-branch last, which are none where there is no else-branch."""
        return (*self.branches, self.otherwise or ())

    def functions(self) -> tuple[tuple[str, Callable[[FlowState], Any]], ...]:
        """The predicates."""
        if len(self.predicates) == 1:
            return (("predicate", self.predicates[0]),)
        return tuple((f"predicate {number}", each) for number, each in enumerate(self.predicates, 1))

    def faults(self) -> Iterator[tuple[str, str]]:
        """Every branch has a step."""
        for number, branch in enumerate(self.branches, 1):
            if not branch:
                yield "empty-branch", f"its branch {number} has no step; add one, or remove the branch"
        if self.otherwise == ():
            yield "empty-branch", "its else-branch has no step; add one, or remove the branch"

    def plans(self, position: int, following: int, entries: tuple[int, ...]) -> Iterator[StepPlan]:  # noqa: ARG002
        """The position of its decision; its branches have their own."""
        yield StepPlan(self.name, self.own_kind, (self.name,), following, entries)


@dataclass(frozen=True, eq=False)
class Map(Step):
    """One call of a node for each item of a list that is computed at run time, joined before the next step.

    Attributes:
        name: Name of the step.
        node: The node; its output key holds the list of outputs, in the order of the items.
        over: Computes the items from the state before the step.
        max_concurrency: Items in progress at once, over all workers; None: as many as the workers take.
        batch_size: Items that one Celery task runs, one after the other.
        on_failure: "fail": the first failure fails the run; "continue": a failed item leaves None.
        require: With "continue": how many items have to succeed; None asks for none.
    """

    name: str
    node: AnyNode
    over: Callable[[FlowState], Any]
    max_concurrency: int | None = None
    batch_size: int = 1
    on_failure: str = "fail"
    require: int | None = None

    node_kind = "item"
    own_kind = "expand"
    clash = "another map has this name; rename one of them"
    positions = 2

    @property
    def own_name(self) -> str:
        """Name under which the computation of the items is recorded."""
        return f"{self.name}.over"

    @property
    def result_key(self) -> str | None:
        """The output key of its node."""
        return self.node.output_key

    def own_nodes(self) -> tuple[AnyNode, ...]:
        """The one node."""
        return (self.node,)

    def taken_by(self, node: AnyNode) -> Codec[Any] | None:
        """An item, which may be one of several parameters."""
        return node.contract.input if node.wiring is None else node.wiring.item_codec

    def functions(self) -> tuple[tuple[str, Callable[[FlowState], Any]], ...]:
        """The computation of the items."""
        return (("function over", self.over),)

    def faults(self) -> Iterator[tuple[str, str]]:
        """Its sizes are usable, and `require` can be met."""
        yield from _join_faults(self.on_failure, self.require, MOST_ITEMS, "items")
        if not is_whole(self.batch_size) or self.batch_size < 1:
            yield "bad-batch", f"batch_size={show(self.batch_size)}; use a whole number of at least 1"
        width = self.max_concurrency
        if width is not None and (not is_whole(width) or width < 1):
            yield "bad-limit", f"max_concurrency={show(width)}; use a whole number of at least 1, or leave it out"

    def plans(self, position: int, following: int, entries: tuple[int, ...]) -> Iterator[StepPlan]:  # noqa: ARG002
        """The position at which its items are computed, and that of its node."""
        yield StepPlan(self.own_name, self.own_kind, (self.own_name,), position + 1)
        yield StepPlan(
            self.name,
            "map",
            (self.node.name,),
            following,
            go_on=self.on_failure == "continue",
            require=self.require or 0,
            source=self.own_name,
            width=self.max_concurrency or WIDTH,
            batch=self.batch_size,
        )


def _gates(nodes: tuple[AnyNode, ...]) -> tuple[str, ...]:
    return tuple(node.name for node in nodes if is_a(node, Gate) and node.waits)


def _join_faults(on_failure: object, require: object, most: int, what: str) -> Iterator[tuple[str, str]]:
    if not is_a(on_failure, str) or on_failure not in {"fail", "continue"}:
        yield "bad-require", f'on_failure={show(on_failure)} is not known; use "fail" or "continue"'
    elif require is None:
        return
    elif on_failure == "fail":
        message = 'require goes with on_failure="continue" only: with "fail" every node has to succeed'
        yield "bad-require", message
    elif not is_whole(require):
        yield "bad-require", f"require={show(require)} is not a whole number; use 1 to {most}"
    elif most and not 1 <= require <= most:
        message = f"require={show(require)} of {what}; use 1 to {most}, or leave it out to require none"
        yield "bad-require", message
