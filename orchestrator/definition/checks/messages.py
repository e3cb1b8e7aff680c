"""Wording of problems: names of flows, steps and nodes, even where something else stands in their place.

The checks decide what is a problem; this module only makes it readable.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Final, TypeGuard, TypeVar

from orchestrator.definition.flow import Then
from orchestrator.definition.node import Node

if TYPE_CHECKING:
    from collections.abc import Collection

    from orchestrator.definition.flow import AnyNode, Flow, Step

T = TypeVar("T")

NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")
NAME_RULE: Final = "at most 100 characters of a-z, 0-9, _ and -, beginning with a letter or a digit"
SHOWN: Final = 60
"""Characters of a user's value that a message repeats."""


@dataclass(frozen=True)
class Stray:
    """A call of the builder that belongs to no open block.

    Attributes:
        place: Which call, after which step.
        code: Code of the problem.
        message: What is wrong and what to do.
    """

    place: str
    code: str
    message: str


def is_a(value: object, *kinds: type[T]) -> TypeGuard[T]:
    """Return whether a value is of a class, by its real type: a mock or a proxy can lie about `__class__`."""
    return issubclass(type(value), kinds)


def is_whole(value: object) -> TypeGuard[int]:
    """Return whether a value is a whole number; True and False are none."""
    return is_a(value, int) and not is_a(value, bool)


def is_text(value: object, text: str) -> bool:
    """Whether a value is this text; what stands where a name should may refuse to be compared."""
    return is_a(value, str) and value == text


def is_name(value: object) -> TypeGuard[str]:
    """Return whether a value may be the name of a flow, node, step or limiter, or an output key."""
    return is_a(value, str) and NAME.fullmatch(value) is not None


def is_node(value: object) -> TypeGuard[AnyNode]:
    """Return whether a value is a node."""
    return is_a(value, Node)


def show(value: object) -> str:
    """Return a value for a message: a function by its name, anything else as its repr, shortened; never raises."""
    try:
        if isinstance(value, FunctionType | type):
            text = value.__qualname__
        else:
            text = repr(value[: SHOWN + 1] if is_a(value, str, bytes) else value)
    except Exception:  # noqa: BLE001 - the value is a user's: its repr may raise anything
        text = f"<{type(value).__name__}>"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def call(name: object) -> str:
    """Return a name for a message: as it is if it is valid, else like any other value."""
    return str.__str__(name) if is_name(name) else show(name)


def title(step: Step) -> str:
    """Return a step's name for a message."""
    if isinstance(step, Then):
        return call(_name_of(step.node))
    return call(step.name)


def flow_place(flow: Flow) -> str:
    """Return the `where` of a problem of the flow itself."""
    return f"flow {call(flow.name)}"


def node_place(flow: Flow, node: object) -> str:
    """Return the `where` of a problem of a node."""
    return f"{flow_place(flow)}, node {call(_name_of(node))}"


def step_place(flow: Flow, step: Step) -> str:
    """Return the `where` of a problem of a step."""
    return f"{flow_place(flow)}, {'node' if isinstance(step, Then) else 'step'} {title(step)}"


def suggest(wanted: str, known: Collection[str]) -> str:
    """Return the end of a sentence about an unknown name: the nearest names, or some of the known ones."""
    near = difflib.get_close_matches(wanted, known, n=3)
    if near:
        return f"did you mean {' or '.join(near)}?"
    some = sorted(known)[:5]
    return f"known: {', '.join(some)}{', ...' if len(known) > len(some) else ''}" if some else "there is none"


def _name_of(node: object) -> object:
    return node.name if is_node(node) else node
