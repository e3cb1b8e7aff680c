"""Flow: a built definition with its steps in order, its triggers and its result.

There is one small frozen class for each kind of step. The builder puts a flow together, the checks judge it, and the
plan says in which order a run goes through it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from orchestrator.definition.codecs import Codec, codec_of
from orchestrator.definition.signature import MISSING
from orchestrator.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import timedelta

    from orchestrator.definition.node import Node
    from orchestrator.definition.state import FlowState
    from orchestrator.definition.triggers import ManualTrigger, ScheduleTrigger

    AnyNode: TypeAlias = Node[Any, Any]
    Predicate: TypeAlias = Callable[[FlowState], bool]
    Trigger: TypeAlias = ManualTrigger | ScheduleTrigger


@dataclass(frozen=True, eq=False)
class Then:
    """One node, after the step before.

    Attributes:
        node: The node.
    """

    node: AnyNode

    @property
    def name(self) -> str:
        """The name of its node."""
        return self.node.name

    def nodes(self) -> tuple[AnyNode, ...]:
        """The one node."""
        return (self.node,)


@dataclass(frozen=True, eq=False)
class Parallel:
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

    def nodes(self) -> tuple[AnyNode, ...]:
        """The members."""
        return self.members


@dataclass(frozen=True, eq=False)
class When:
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

    def nodes(self) -> tuple[AnyNode, ...]:
        """The nodes of every branch, the else-branch last; nested blocks included."""
        return tuple(node for branch in self.all_branches() for step in branch for node in step.nodes())

    def all_branches(self) -> tuple[tuple[Step, ...], ...]:
        """The steps of every branch, the else-branch last."""
        return self.branches if self.otherwise is None else (*self.branches, self.otherwise)


@dataclass(frozen=True, eq=False)
class Map:
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

    @property
    def source(self) -> str:
        """Name under which the computation of the items is recorded."""
        return f"{self.name}.over"

    def nodes(self) -> tuple[AnyNode, ...]:
        """The one node."""
        return (self.node,)


Step: TypeAlias = Then | Parallel | Map | When


@dataclass(frozen=True, eq=False, repr=False)
class Flow:
    """A flow as `FlowBuilder.build` made it; immutable, compared by identity.

    Attributes:
        name: The flow's name, under which it is registered and started.
        steps: The steps of the top level, in order.
        triggers: Its triggers; `start` starts it whatever they are.
        input_type: Annotation of the run's input; `MISSING` when any JSON will do.
        returns: Output key of the run's result when one was named.
        queue: Celery queue of the nodes that name none; None: the app's default queue.
        timeout: Limit of a whole run, without compensations; None: no limit.
        fused: Whether consecutive steps on one queue run in one Celery task.
    """

    name: str
    steps: tuple[Step, ...] = ()
    triggers: tuple[Trigger, ...] = ()
    input_type: Any = MISSING
    returns: str | None = None
    queue: str | None = None
    timeout: timedelta | None = None
    fused: bool = False

    _compile: ClassVar[Callable[[Flow, str], Any] | None] = None

    def __repr__(self) -> str:
        """Return the name."""
        return f"Flow({self.name!r})"

    def nodes(self) -> tuple[AnyNode, ...]:
        """Every node in order, those of branches included, compensations not."""
        return tuple(node for step in self.steps for node in step.nodes())

    def compensations(self) -> tuple[tuple[AnyNode, AnyNode], ...]:
        """(node, its compensation) of every node that has one, in the order of the nodes."""
        return tuple((node, node.compensation) for node in self.nodes() if node.compensation is not None)

    def all_steps(self) -> Iterator[Step]:
        """Every step of every branch in order, a block before the steps inside it."""
        waiting = list(reversed(self.steps))
        while waiting:
            step = waiting.pop()
            yield step
            if isinstance(step, When):
                waiting.extend(inner for branch in reversed(step.all_branches()) for inner in reversed(branch))

    def blocks(self) -> Iterator[When]:
        """Every `when` block, an outer one before those inside it."""
        return (step for step in self.all_steps() if isinstance(step, When))

    def maps(self) -> Iterator[Map]:
        """Every `then_map` step."""
        return (step for step in self.all_steps() if isinstance(step, Map))

    @property
    def result_key(self) -> str | None:
        """Output key of the run's result: the given one, else that of the last top-level `then` or `then_map`."""
        if self.returns is not None:
            return self.returns
        lasts = [step.node.output_key for step in self.steps if isinstance(step, Then | Map)]
        return lasts[-1] if lasts else None

    @property
    def input_codec(self) -> Codec[Any] | None:
        """JSON in and out of the run's input; None when any JSON will do."""
        return None if self.input_type is MISSING else codec_of(self.input_type)

    def canvas(self, run_id: str) -> Any:
        """Return what would be sent to Celery at the start of a run; sends nothing.

        Args:
            run_id: Any text; it goes into the messages as the run's id.

        Returns:
            The `celery.canvas.Signature` of the first segment.

        Raises:
            ConfigurationError: Only `orchestrator.definition.flow` was imported, so nothing can compile yet.
        """
        compile_flow = type(self)._compile  # noqa: SLF001 - set by messaging/canvas.py, which this room may not import
        if compile_flow is None:
            raise ConfigurationError(f"flow {self.name}: nothing compiles flows yet; import orchestrator first")
        return compile_flow(self, run_id)
