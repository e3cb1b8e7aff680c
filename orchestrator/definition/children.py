"""Flows as nodes: what a node starts as a run of its own, here or where its code is deployed.

A flow node has no function: the engine starts the child run and lets the node wait for its end. Here is what such a
node takes and returns; `checks.children` says what it may be given.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Generic, overload

from orchestrator.definition.codecs import BadType, codec_of
from orchestrator.definition.signature import MISSING, BadFunction, Contract, input_of

if TYPE_CHECKING:  # a flow without its type is one whose result may be anything
    from typing_extensions import TypeVar

    Takes = TypeVar("Takes", default=Any)
    Gives = TypeVar("Gives", default=Any)
else:
    from typing import TypeVar

    Takes = TypeVar("Takes")
    Gives = TypeVar("Gives")
PARAMETER = "input"
"""Name of the one parameter that a flow has as a node."""


class ChildFlow(Generic[Takes, Gives]):
    """What can be started by a node: a flow, or one whose code is elsewhere."""

    name: str

    @property
    def taken_type(self) -> Any:
        """Annotation of its input; `MISSING` when any JSON will do."""
        raise NotImplementedError

    @property
    def given_type(self) -> Any:
        """Annotation of its result; `Any` where that is not known."""
        raise NotImplementedError


class RemoteFlow(ChildFlow[Takes, Gives]):
    """A flow whose code is deployed elsewhere, to be started by a node.

    Attributes:
        name: Name under which its workers announce it.
        taken_type: Annotation of its input; `MISSING` when any JSON will do.
        given_type: Annotation of its result; `Any` when it is taken as it is.
    """

    @overload
    def __init__(self, name: str, *, takes: type[Takes], returns: type[Gives]) -> None: ...
    @overload
    def __init__(self: RemoteFlow[Takes, Any], name: str, *, takes: type[Takes]) -> None: ...
    @overload
    def __init__(self: RemoteFlow[Any, Gives], name: str, *, returns: type[Gives]) -> None: ...
    @overload
    def __init__(self: RemoteFlow[Any, Any], name: str, *, takes: Any = ..., returns: Any = ...) -> None: ...
    def __init__(self, name: str, *, takes: Any = MISSING, returns: Any = Any) -> None:
        """Take the name, and the types that the flow's input and result have there."""
        self.name = name
        self._types = takes, returns

    def __repr__(self) -> str:
        return f"RemoteFlow({self.name!r})"

    @property
    def taken_type(self) -> Any:
        """Annotation of its input."""
        return self._types[0]

    @property
    def given_type(self) -> Any:
        """Annotation of its result."""
        return self._types[1]


def contract_of(child: ChildFlow[Any, Any]) -> Contract:
    """Return what a node that starts a flow takes and returns.

    Raises:
        BadFunction: A type of it cannot be stored.
    """
    takes = Any if child.taken_type is MISSING else child.taken_type
    parameter = inspect.Parameter(PARAMETER, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=takes)
    try:
        output = codec_of(child.given_type)
    except BadType as fault:
        raise BadFunction("bad-type", f"its result: {fault}") from fault
    return Contract(
        start_child,
        takes_context=False,
        style="single",
        input=input_of((parameter,)),
        output=output,
        is_async=False,
        parameters=(parameter,),
        ignored=(),
    )


def start_child(input: Any) -> Any:
    """Stand where a node has a function; nobody calls it."""
    raise NotImplementedError(input)
