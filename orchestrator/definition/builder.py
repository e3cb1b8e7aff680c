"""Builder of flows: a chain of calls that reads as a sentence and ends in `build()`.

A call only records what it was given, right or wrong. `build()` has the checks report every problem at once; the result
is a `Flow`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, overload

from orchestrator.definition.checks import find_problems, find_warnings
from orchestrator.definition.checks.messages import Stray, title
from orchestrator.definition.children import Gives
from orchestrator.definition.flow import Flow
from orchestrator.definition.max_runs import MaxRuns
from orchestrator.definition.node import Node
from orchestrator.definition.signature import MISSING
from orchestrator.definition.steps import Map, Parallel, Step, Then, When
from orchestrator.definition.wording import call
from orchestrator.errors import FlowDefinitionError, FlowDefinitionWarning

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from orchestrator.definition.flow import Trigger
    from orchestrator.definition.state import FlowState
    from orchestrator.definition.steps import AnyNode, Predicate

T = TypeVar("T")
MAX_DEPTH = 50
"""Most blocks inside blocks; deeper ones would exhaust the interpreter's stack wherever a flow is walked."""


class FlowBuilder(Generic[Gives]):
    """Collects the steps and options of one flow; mutable, and every method returns the builder itself.

    No method raises for a bad value: `build()` raises one error with every problem.

    Args:
        name: The flow's name: `[a-z0-9][a-z0-9_-]*`, at most 100 characters.
    """

    def __init__(self: FlowBuilder[Any], name: str) -> None:
        """Take the name; see the class."""
        self._name = name
        self._steps: list[Step] = []
        self._open: list[_Block] = []
        self._blocks = 0
        self._strays: list[Stray] = []
        self._triggers: list[Trigger] = []
        self._input_type: Any = MISSING
        self._returns: str | None = None
        self._queue: str | None = None
        self._timeout: timedelta | None = None
        self._max_runs: MaxRuns | None = None
        self._fused = False

    def takes(self, input_type: Any) -> Self:
        """Declare the run's input.

        Args:
            input_type: An annotation that pydantic can read from and write to JSON. Without this call any JSON will do.
        """
        self._input_type = input_type
        return self

    @overload
    def returns(self, key: Node[Any, T]) -> FixedResult[T]: ...
    @overload
    def returns(self, key: str) -> FixedResult[Any]: ...
    def returns(self, key: str | AnyNode) -> FlowBuilder[Any]:
        """Name the run's result.

        Args:
            key: An output key, or the node that writes it. Without this call it is the output of the last `then`.
        """
        self._returns = key.output_key if isinstance(key, Node) else key
        return self

    def on_queue(self, name: str) -> Self:
        """Set the Celery queue of the nodes that name none."""
        self._queue = name
        return self

    def with_timeout(self, timeout: timedelta) -> Self:
        """Limit a whole run, counted from its start, without compensations."""
        self._timeout = timeout
        return self

    def with_max_runs(self, k: int, key: str | None = None, when_full: Literal["queue", "skip"] = "queue") -> Self:
        """Let at most `k` runs of the flow go on at once, over all workers; a run counts until it has ended.

        Args:
            k: How many, compensations and everything that waits included.
            key: Path of a part of the input, such as `"customer.id"`: so many for each value of it.
            when_full: "queue": a further run is `pending` and begins, in the order of the starts, when another one has
                ended. "skip": it ends at once as `cancelled`, and does not take its idempotency key.
        """
        self._max_runs = MaxRuns(k, key, when_full)
        return self

    def fused(self) -> Self:
        """Run consecutive steps on one queue in one Celery task, without a message in between.

        Each node is still claimed, stored, timed out, retried, rate limited, cancelled and compensated on its own, and
        a crash repeats only the node that was running.
        """
        self._fused = True
        return self

    def triggered_by(self, *triggers: Trigger) -> Self:
        """Add triggers, `manual(...)` and `schedule(...)`; a flow needs at least one."""
        self._triggers.extend(triggers)
        return self

    def then(self, node: Node[Any, T]) -> FlowBuilder[T]:
        """Add one node after the step before."""
        return self._add(Then(node))  # type: ignore[return-value] # it is the same builder, of another result

    def then_parallel(
        self,
        name: str,
        *nodes: AnyNode,
        on_failure: Literal["fail", "continue"] = "fail",
        require: int | None = None,
        local: bool = False,
    ) -> Self:
        """Add nodes that start together and are joined before the next step.

        Args:
            name: Name of the step.
            nodes: At least one node; each sees the state before the step.
            on_failure: "fail": the first failure fails the run. "continue": a failed node leaves no output and the flow
                goes on.
            require: With "continue": fewer successes than this fail the run at the join.
            local: In a fused flow: one process runs all of them, in up to 32 threads, instead of a task for each; for
                nodes that mostly wait. A node that does not stop at its timeout is killed with its process 3 s later,
                and the others in that process start again. Without effect in a flow that is not fused.
        """
        return self._add(Parallel(name, nodes, on_failure, require, local))

    def then_map(  # noqa: PLR0917 - all but the first three are given by name
        self,
        name: str,
        node: AnyNode,
        over: Callable[[FlowState], Any],
        max_concurrency: int | None = None,
        batch_size: int = 1,
        on_failure: Literal["fail", "continue"] = "fail",
        require: int | None = None,
    ) -> FlowBuilder[Any]:
        """Add one call of a node for each item of a list that is computed at run time; joined before the next step.

        Args:
            name: Name of the step; in monitors the computation of the items is called `<name>.over`.
            node: Takes one item as its input. Its output key holds the list of outputs, in the order of the items.
            over: `over(state)` returns the items, a list of at most 100,000; runs on a worker, must be pure.
            max_concurrency: Items in progress at once over all workers, at least 1; None leaves it to the workers.
            batch_size: Items that one Celery task runs one after the other, at least 1; each is still recorded,
                retried, rate limited and compensated on its own.
            on_failure: "fail": the first failed item fails the run. "continue": it leaves None in the list, and
                `state.failures(node)` has its failure by index.
            require: With "continue": fewer successes than this fail the run at the join.
        """
        return self._add(Map(name, node, over, max_concurrency, batch_size, on_failure, require))

    def when(self, predicate: Predicate, name: str | None = None) -> FlowBuilder[Any]:
        """Open a block of branches; its first branch is taken when the predicate holds.

        Args:
            predicate: `predicate(state) -> bool`; evaluated on a worker, recorded once per run, must be pure.
            name: Name of the block; `when-<k>` by default, k counted over the blocks of the flow.
        """
        self._blocks += 1
        steps = self._innermost()
        is_too_deep = len(self._open) >= MAX_DEPTH
        block = _Block(f"when-{self._blocks}" if name is None else name, is_flat=is_too_deep)
        if is_too_deep and not self._open[-1].is_flat:
            self._stray("when", "bad-limit", f"blocks are nested more than {MAX_DEPTH} deep; split the flow")
        block.branches.append(_Branch(predicate, steps if is_too_deep else []))
        self._open.append(block)
        return self

    def else_when(self, predicate: Predicate) -> Self:
        """Begin the next branch of the innermost block, taken when no earlier predicate held and this one does."""
        return self._branch("else_when", predicate, is_else=False)

    def else_(self) -> Self:
        """Begin the else-branch of the innermost block, taken when no predicate held."""
        return self._branch("else_", _never, is_else=True)

    def end_when(self) -> FlowBuilder[Any]:
        """Close the innermost block."""
        if self._open:
            self._close()
        else:
            self._stray("end_when", "stray-else", "there is no open when() to close; remove it, or open a block")
        return self

    def otherwise(self, node: AnyNode) -> FlowBuilder[Any]:
        """Add an else-branch of one node and close the innermost block."""
        return self._otherwise("otherwise", Then(node))

    def otherwise_parallel(
        self,
        name: str,
        *nodes: AnyNode,
        on_failure: Literal["fail", "continue"] = "fail",
        require: int | None = None,
        local: bool = False,
    ) -> FlowBuilder[Any]:
        """Add an else-branch of one parallel step and close the innermost block; arguments as in `then_parallel`."""
        return self._otherwise("otherwise_parallel", Parallel(name, nodes, on_failure, require, local))

    def build(self) -> Flow[Gives]:
        """Take a snapshot as a `Flow`; the builder may be changed and built again afterwards.

        Returns:
            An immutable flow without any of the problems that can be seen before a run.

        Raises:
            FlowDefinitionError: With every problem at once, in `.problems`.

        Warns:
            FlowDefinitionWarning: One for each soft finding, only when there is no problem.
        """
        steps: tuple[Step, ...] = ()
        for block in reversed(self._open):
            steps = block.freeze(steps)
        flow = Flow(
            name=self._name,
            steps=(*self._steps, *steps),
            triggers=tuple(self._triggers),
            input_type=self._input_type,
            returns=self._returns,
            queue=self._queue,
            timeout=self._timeout,
            max_runs=self._max_runs,
            fused=self._fused,
        )
        unclosed = [
            Stray(f"step {call(block.name)}", "unclosed-when", "the block is never closed; end it with end_when()")
            for block in self._open
        ]
        if problems := find_problems(flow, [*self._strays, *unclosed]):
            raise FlowDefinitionError(problems)
        for finding in find_warnings(flow):
            warnings.warn(finding, FlowDefinitionWarning, stacklevel=2)
        return flow

    def _add(self, step: Step) -> Self:
        self._innermost().append(step)
        return self

    def _innermost(self) -> list[Step]:
        return self._open[-1].branches[-1].steps if self._open else self._steps

    def _branch(self, method: str, predicate: Predicate, *, is_else: bool) -> Self:
        if not self._open:
            self._stray(method, "stray-else", "there is no open when() that it could belong to; open a block first")
            return self
        block = self._open[-1]
        if block.has_else():
            message = f"the block {call(block.name)} already has its else-branch; put this branch before it"
            self._stray(method, "stray-else", message)
        block.branches.append(_Branch(predicate, block.branches[-1].steps if block.is_flat else [], is_else=is_else))
        return self

    def _otherwise(self, method: str, step: Step) -> Self:
        self._branch(method, _never, is_else=True)
        self._add(step)
        if self._open:
            self._close()
        return self

    def _close(self) -> None:
        block = self._open.pop()
        if not block.is_flat:
            self._innermost().extend(block.freeze())

    def _stray(self, method: str, code: str, message: str) -> None:
        steps = self._innermost()
        place = f"{method}() after {title(steps[-1])}" if steps else f"{method}()"
        self._strays.append(Stray(place, code, message))


if TYPE_CHECKING:

    class FixedResult(FlowBuilder[Gives]):
        """A builder whose result was named: further steps do not change it."""

        def then(self, node: AnyNode) -> Self:  # type: ignore[override] # as above
            """Add one node after the step before."""
            raise NotImplementedError


def _never(_state: object) -> bool:
    return False


@dataclass
class _Branch:
    """A branch of an open block; the predicate of an else-branch is never called."""

    predicate: Predicate
    steps: list[Step]
    is_else: bool = False


@dataclass
class _Block:
    """An open block; a flat one is nested too deeply, and its branches share the list of the block around it."""

    name: str
    branches: list[_Branch] = field(default_factory=list)
    is_flat: bool = False

    def has_else(self) -> bool:
        return any(branch.is_else for branch in self.branches)

    def freeze(self, unclosed: tuple[Step, ...] = ()) -> tuple[Step, ...]:
        """Return the block as a step; the steps of an unclosed inner block go to the end of its last branch."""
        if self.is_flat:
            return unclosed
        branches = [tuple(branch.steps) for branch in self.branches]
        branches[-1] += unclosed
        is_last_else = self.branches[-1].is_else
        # An else-branch with another branch after it is refused as stray; the checks still see its steps, as a branch.
        choices = self.branches[:-1] if is_last_else else self.branches
        return (
            When(
                name=self.name,
                predicates=tuple(branch.predicate for branch in choices),
                branches=tuple(branches[: len(choices)]),
                otherwise=branches[-1] if is_last_else else None,
            ),
        )
