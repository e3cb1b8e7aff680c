"""Flow: a built definition with its steps in order, its triggers and its result.

The builder puts a flow together, the checks judge it, and the plan says in which order a run goes through it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from orchestrator.definition.children import ChildFlow, Gives
from orchestrator.definition.codecs import Codec, codec_of
from orchestrator.definition.signature import MISSING
from orchestrator.definition.steps import When
from orchestrator.errors import ConfigurationError
from orchestrator.lazy import lazy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import timedelta

    from orchestrator.definition.max_runs import MaxRuns
    from orchestrator.definition.steps import AnyNode, Step
    from orchestrator.definition.triggers import ManualTrigger, ScheduleTrigger

    Trigger: TypeAlias = ManualTrigger | ScheduleTrigger


@dataclass(frozen=True, eq=False, repr=False)
class Flow(ChildFlow[Any, Gives]):
    """A flow as `FlowBuilder.build` made it; immutable, compared by identity. `Flow[str]` is one with a text as result.

    Attributes:
        name: The flow's name, under which it is registered and started.
        steps: The steps of the top level, in order.
        triggers: Its triggers; `start` starts it whatever they are.
        input_type: Annotation of the run's input; `MISSING` when any JSON will do.
        returns: Output key of the run's result when one was named.
        queue: Celery queue of the nodes that name none; None: the app's default queue.
        timeout: Limit of a whole run, without compensations; None: no limit.
        fused: Whether consecutive steps on one queue run in one Celery task.
        max_runs: How many of its runs go on at once; None: no limit.
    """

    name: str
    steps: tuple[Step, ...] = ()
    triggers: tuple[Trigger, ...] = ()
    input_type: Any = MISSING
    returns: str | None = None
    queue: str | None = None
    timeout: timedelta | None = None
    fused: bool = False
    max_runs: MaxRuns | None = None

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
            waiting.extend(inner for path in reversed(step.paths()) for inner in reversed(path))

    def blocks(self) -> Iterator[When]:
        """Every `when` block, an outer one before those inside it."""
        return (step for step in self.all_steps() if isinstance(step, When))

    @property
    def result_key(self) -> str | None:
        """Output key of the run's result: the given one, else that of the last top-level `then` or `then_map`."""
        if self.returns is not None:
            return self.returns
        return next((step.result_key for step in reversed(self.steps) if step.result_key is not None), None)

    @lazy
    def input_codec(self) -> Codec[Any] | None:
        """JSON in and out of the run's input; None when any JSON will do."""
        return None if self.input_type is MISSING else codec_of(self.input_type)

    @property
    def taken_type(self) -> Any:
        """Annotation of the run's input, for a node that starts the flow."""
        return self.input_type

    @property
    def given_type(self) -> Any:
        """Annotation of the run's result; `Any` where more than one node may write it."""
        key = self.result_key
        steps = [step for step in self.all_steps() for node in step.own_nodes() if node.output_key == key]
        if len(steps) != 1 or key is None:
            return Any
        (node,) = (node for node in steps[0].own_nodes() if node.output_key == key)
        annotation = node.output_codec.annotation
        return list.__class_getitem__(annotation) if steps[0].node_kind == "item" else annotation

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
