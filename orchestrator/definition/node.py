"""Node: one function with its types, its input, the key of its output, its policies and its compensation.

A node only holds values; `build()` refuses what cannot work, and the engine runs it. The signature of its function is
read once, into a `Contract`.
"""

from __future__ import annotations

import copy
import reprlib
import typing
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, ParamSpec, TypedDict, TypeVar, Unpack, overload

from orchestrator.definition.children import ChildFlow, contract_of
from orchestrator.definition.policies import Limit, RateLimit, RetryPolicy, SharedConcurrency, SharedLimit
from orchestrator.definition.repetition import Repeat
from orchestrator.definition.signature import MISSING, BadFunction, Contract, read_contract
from orchestrator.definition.wiring import Wiring
from orchestrator.definition.wording import is_a
from orchestrator.errors import text_of, type_name
from orchestrator.lazy import lazy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from orchestrator.definition.codecs import Codec
    from orchestrator.definition.context import NodeContext
    from orchestrator.definition.state import FlowState

P = ParamSpec("P")
In = TypeVar("In")
Out = TypeVar("Out")

Limiters: typing.TypeAlias = "SharedLimit | Sequence[SharedLimit] | None"
Classifier: typing.TypeAlias = "Callable[[Any], str]"
Key: typing.TypeAlias = "Callable[[Any], str]"
When: typing.TypeAlias = Literal["succeeded", "started"]
ATTEMPT_TIMEOUT: Final = timedelta(minutes=5)
NODE_RETRY: Final = RetryPolicy()
"""What a node has that was given no policy; it is told from an equal one that was given."""
CHILD_RETRY: Final = RetryPolicy(maximum_attempts=1)


class NodeOptions(TypedDict, total=False):
    """Keywords of `Node` and of the decorator; the methods of Node describe each."""

    input_func: Callable[[FlowState], Any] | None
    output_key: str | None
    timeout: timedelta
    retry: RetryPolicy
    rate_limit: RateLimit | None
    shared_rate_limit: Limiters
    concurrency: SharedConcurrency | None
    queue: str | None
    on_error: Node[Any, Any] | None
    error_classifier: Classifier | None


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Node(Generic[In, Out]):
    """One function of a flow, or another flow that is started; immutable: `with_*`, `as_` and `on_error` return copies.

    Bad values are kept as they are and reported by `build()`, all at once.

    Attributes:
        name: Name of the node, one per flow.
        fn: The function, or the flow.
        input: The constant input, MISSING without one.
        input_func: Computes the input from the state, None without one.
        wiring: Where each parameter comes from, None if `with_inputs` was not called last.
        key: The output key that was given, None for the node's name.
        timeout: Limit of one attempt; of a flow, of its run, and None for none.
        retry: Whether and when a failed attempt is retried.
        rate_limit: Limit of this node in this flow.
        shared_rate_limits: Limits shared with other nodes; all of them hold.
        concurrency: Slots shared with other nodes.
        queue: Celery queue; None is the flow's.
        compensation: The node that undoes this one.
        compensation_when: `succeeded`, or `started`: also after a failed or unknown outcome.
        error_classifier: Decides whether an exception is worth another attempt.
        repeat: Whether and how long it is called again with its own output.
        deadline: Limit of the node with all its attempts; None for none.
        heartbeat_timeout: Longest time between two heartbeats of an attempt; None for none.
    """

    name: str
    fn: Callable[..., Any]
    input: Any
    input_func: Callable[[FlowState], Any] | None
    wiring: Wiring | None
    key: str | None
    timeout: timedelta
    retry: RetryPolicy
    rate_limit: RateLimit | None
    shared_rate_limits: tuple[SharedLimit, ...]
    concurrency: SharedConcurrency | None
    queue: str | None
    compensation: Node[Any, Any] | None
    compensation_when: When
    error_classifier: Classifier | None
    repeat: Repeat | None
    deadline: timedelta | None
    heartbeat_timeout: timedelta | None

    @overload
    def __init__(self, name: str, fn: ChildFlow[In, Out], input: Any = ..., **options: Unpack[NodeOptions]) -> None: ...
    @overload
    def __init__(
        self,
        name: str,
        fn: Callable[[NodeContext, In], Awaitable[Out]],
        input: Any = ...,
        **options: Unpack[NodeOptions],
    ) -> None: ...
    @overload
    def __init__(
        self, name: str, fn: Callable[[In], Awaitable[Out]], input: Any = ..., **options: Unpack[NodeOptions]
    ) -> None: ...
    @overload
    def __init__(
        self: Node[Any, Out],
        name: str,
        fn: Callable[P, Awaitable[Out]],
        input: Any = ...,
        **options: Unpack[NodeOptions],
    ) -> None: ...
    @overload
    def __init__(
        self, name: str, fn: Callable[[NodeContext, In], Out], input: Any = ..., **options: Unpack[NodeOptions]
    ) -> None: ...
    @overload
    def __init__(
        self, name: str, fn: Callable[[In], Out], input: Any = ..., **options: Unpack[NodeOptions]
    ) -> None: ...
    @overload
    def __init__(
        self: Node[Any, Out], name: str, fn: Callable[P, Out], input: Any = ..., **options: Unpack[NodeOptions]
    ) -> None: ...
    def __init__(
        self,
        name: str,
        fn: Any,
        input: Any = MISSING,
        *,
        input_func: Callable[[FlowState], Any] | None = None,
        output_key: str | None = None,
        timeout: timedelta = ATTEMPT_TIMEOUT,
        retry: RetryPolicy = NODE_RETRY,
        rate_limit: RateLimit | None = None,
        shared_rate_limit: Limiters = None,
        concurrency: SharedConcurrency | None = None,
        queue: str | None = None,
        on_error: Node[Any, Any] | None = None,
        error_classifier: Classifier | None = None,
    ) -> None:
        """Take name, function and options; never raises."""
        # type() and not isinstance(), which reads the value's __class__ and may run a user's code.
        limiters: Any = () if shared_rate_limit is None else shared_rate_limit
        self.__dict__.update(
            name=name,
            fn=fn.fn if issubclass(type(fn), Node) else fn,
            input=input if input_func is None else MISSING,
            input_func=input_func,
            wiring=None,
            key=output_key,
            # A child has the time limit of its own flow, and its nodes have attempts of their own.
            timeout=None if timeout is ATTEMPT_TIMEOUT and issubclass(type(fn), ChildFlow) else timeout,
            retry=CHILD_RETRY if retry is NODE_RETRY and issubclass(type(fn), ChildFlow) else retry,
            rate_limit=rate_limit,
            shared_rate_limits=tuple(limiters) if type(limiters) in (list, tuple) else (limiters,),
            concurrency=concurrency,
            queue=queue,
            compensation=on_error,
            compensation_when="succeeded",
            error_classifier=error_classifier,
            repeat=None,
            deadline=None,
            heartbeat_timeout=None,
        )

    @property
    def output_key(self) -> str:
        """Key of the output in FlowState: the one given, else the name."""
        return self.name if self.key is None else self.key

    @lazy
    def contract(self) -> Contract:
        """What the function takes and returns.

        Raises:
            BadFunction: It cannot be a node's function.
        """
        try:
            return self._read_contract()
        except BadFunction:
            raise
        except Exception as error:  # a user's object may raise anything while it is inspected
            raise BadFunction("bad-function", f"it cannot be inspected: {text_of(error)}") from error

    def limits(self) -> tuple[Limit, ...]:
        """Every limit of its attempts: its own, those that it shares, and its slots."""
        limits = (self.rate_limit, *self.shared_rate_limits, self.concurrency)
        return tuple(limit for limit in limits if limit is not None)

    @property
    def child(self) -> ChildFlow[Any, Any] | None:
        """The flow that it starts; None of a node with a function."""
        return self.fn if issubclass(type(self.fn), ChildFlow) else None  # type: ignore[return-value]

    @property
    def output_codec(self) -> Codec[Out]:
        """How the output is stored and read."""
        return self.contract.output

    def as_(self, key: str) -> Node[In, Out]:
        """Return a copy that writes its output under `key`."""
        return self._changed(key=key)

    def with_name(self, name: str) -> Node[In, Out]:
        """Return a copy under another name."""
        return self._changed(name=name)

    def with_input(self, value: In | Mapping[str, Any]) -> Node[In, Out]:
        """Return a copy with a constant input; of constant, input function and inputs by name the last given holds."""
        return self._changed(input=value, input_func=None, wiring=None)

    def with_input_func(self, fn: Callable[[FlowState], In | Mapping[str, Any]]) -> Node[In, Out]:
        """Return a copy whose input is `fn(state)`, computed on the worker in every attempt; it must be pure."""
        return self._changed(input=MISSING, input_func=fn, wiring=None)

    def with_inputs(self, /, **inputs: object) -> Node[In, Out]:
        """Return a copy whose parameters are wired by name, as `build()` can see without reading code.

        Args:
            inputs: One keyword for each parameter of the function, or for each field of its one model parameter: a Node
                (its output), a text (an output key), `run_input`, or `map_item` in a map, or a part of one
                (`run_input["parcel"]`), or a constant that JSON holds; `const("road")` for a text. A parameter with a
                default may be left out, and has it also where the output or the part is missing.
        """
        sources = {name: each.output_key if is_a(each, Node) else each for name, each in inputs.items()}
        return self._changed(input=MISSING, input_func=None, wiring=Wiring(sources, self))

    def with_timeout(self, timeout: timedelta) -> Node[In, Out]:
        """Return a copy whose attempts may each take this long; reaching the limit is a failed attempt."""
        return self._changed(timeout=timeout)

    def with_deadline(self, deadline: timedelta) -> Node[In, Out]:
        """Return a copy that has to be done this long after it is ready, with all its attempts and what it waits for.

        An attempt may take what is left of it, if that is less than the node's timeout. Past it the node fails with
        NodeTimeout, and no attempt follows.
        """
        return self._changed(deadline=deadline)

    def with_heartbeat_timeout(self, timeout: timedelta) -> Node[In, Out]:
        """Return a copy whose attempts call `ctx.heartbeat` at least this often, counted from their start.

        One that does not is ended as at its timeout, and the next one finds in `ctx.last_heartbeat` how far it came.
        """
        return self._changed(heartbeat_timeout=timeout)

    def with_retry(self, policy: RetryPolicy) -> Node[In, Out]:
        """Return a copy with another retry policy."""
        return self._changed(retry=policy)

    def with_repeat(
        self,
        until: Callable[[Out], bool],
        every: timedelta = timedelta(0),
        max_iterations: int = 1000,
    ) -> Node[In, Out]:
        """Return a copy that is called again with its own output, until that is good; its output is the last one.

        Each iteration is stored when it returns. It has attempts, tokens of limits and a time limit of its own, and
        `ctx.iteration` is its number from 0.

        Args:
            until: `until(output)`, called on the worker; True ends it. It must be pure: what it raises is terminal.
            every: Least time from the end of an iteration to the start of the next; nothing is held meanwhile.
            max_iterations: Iterations at most; a node that asks for more fails with `RepetitionError`.
        """
        return self._changed(repeat=Repeat(until, every, max_iterations))

    def with_rate_limit(
        self, limit: int, per: timedelta, burst: int | None = None, key: Key | None = None
    ) -> Node[In, Out]:
        """Return a copy that starts at most `limit` times in each `per`, over all workers.

        Args:
            limit: Starts allowed in each `per`.
            per: The window.
            burst: Size of the bucket, which starts full; None is `limit`, 1 is evenly spaced.
            key: `key(input)`, or `key(state)` for a node without input: the limit holds for each key on its own.
        """
        return self._changed(rate_limit=RateLimit(limit, per, burst, key=key))

    def with_shared_rate_limit(self, limiter: SharedLimit) -> Node[In, Out]:
        """Return a copy that also takes a token of a shared bucket; a limiter of the same name is replaced."""
        others = (
            each
            for each in self.shared_rate_limits
            # type() as above: what was given may be no limit.
            if not (issubclass(type(each), SharedLimit) and type(each) is type(limiter) and each.name == limiter.name)
        )
        return self._changed(shared_rate_limits=(*others, limiter))

    def with_concurrency(self, slots: SharedConcurrency) -> Node[In, Out]:
        """Return a copy whose attempts hold a slot each, so that only so many run at once with all that share them."""
        return self._changed(concurrency=slots)

    def with_queue(self, name: str) -> Node[In, Out]:
        """Return a copy that runs on this Celery queue."""
        return self._changed(queue=name)

    def on_error(self, node: Node[Any, Any], when: When = "succeeded") -> Node[In, Out]:
        """Return a copy that `node` compensates when the run fails after this node succeeded.

        Args:
            node: The compensation.
            when: `started`: also when this node failed, or when its outcome is unknown.
        """
        return self._changed(compensation=node, compensation_when=when)

    def with_error_classifier(self, fn: Classifier) -> Node[In, Out]:
        """Return a copy whose exceptions `fn(exc)` classifies as "retryable" or "terminal"."""
        return self._changed(error_classifier=fn)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self.fn(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Node({reprlib.repr(self.name) if type(self.name) is str else type_name(type(self.name))})"

    def _read_contract(self) -> Contract:
        return read_contract(self.fn) if self.child is None else contract_of(self.child)

    def _changed(self, **changes: Any) -> Node[In, Out]:
        # A contract that was read already is copied along: no change touches the function, and to read it again costs
        # most.
        changed = copy.copy(self)
        changed.__dict__.update(changes)
        return changed


class NodeDecorator:
    """The decorator `@node`, or `@node(timeout=...)` with the keywords of Node."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options

    @overload
    def __call__(self, fn: Callable[[NodeContext, In], Awaitable[Out]], /) -> Node[In, Out]: ...
    @overload
    def __call__(self, fn: Callable[[In], Awaitable[Out]], /) -> Node[In, Out]: ...
    @overload
    def __call__(self, fn: Callable[P, Awaitable[Out]], /) -> Node[Any, Out]: ...
    @overload
    def __call__(self, fn: Callable[[NodeContext, In], Out], /) -> Node[In, Out]: ...
    @overload
    def __call__(self, fn: Callable[[In], Out], /) -> Node[In, Out]: ...
    @overload
    def __call__(self, fn: Callable[P, Out], /) -> Node[Any, Out]: ...
    @overload
    def __call__(self, *, name: str = ..., input: Any = ..., **options: Unpack[NodeOptions]) -> NodeDecorator: ...
    def __call__(self, *functions: Any, **options: Any) -> Any:
        """Make a node of one function, or a decorator with more keywords."""
        options = self._options | options
        if not functions:
            return NodeDecorator(options)
        (fn,) = functions
        name = str(getattr(fn, "__name__", type(fn).__name__)).replace("_", "-")
        return Node(**({"name": name} | options), fn=fn)


node: Final = NodeDecorator({})
