"""Wording of problems: names of flows, steps and nodes, even where something else stands in their place.

The checks decide what is a problem; this module only makes it readable.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

from orchestrator.definition.node import Node
from orchestrator.definition.wording import call, is_a

if TYPE_CHECKING:
    from collections.abc import Collection

    from orchestrator.definition.flow import Flow
    from orchestrator.definition.steps import AnyNode, Step


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


def is_node(value: object) -> TypeGuard[AnyNode]:
    """Return whether a value is a node."""
    return is_a(value, Node)


def title(step: Step) -> str:
    """Return a step's name for a message."""
    return call(_name_of(step.titled))


def flow_place(flow: Flow) -> str:
    """Return the `where` of a problem of the flow itself."""
    return f"flow {call(flow.name)}"


def node_place(flow: Flow, node: object) -> str:
    """Return the `where` of a problem of a node."""
    return f"{flow_place(flow)}, node {call(_name_of(node))}"


def step_place(flow: Flow, step: Step) -> str:
    """Return the `where` of a problem of a step."""
    return f"{flow_place(flow)}, {step.what} {title(step)}"


def suggest(wanted: str, known: Collection[str]) -> str:
    """Return the end of a sentence about an unknown name: the nearest names, or some of the known ones."""
    near = difflib.get_close_matches(wanted, known, n=3)
    if near:
        return f"did you mean {' or '.join(near)}?"
    some = sorted(known)[:5]
    return f"known: {', '.join(some)}{', ...' if len(known) > len(some) else ''}" if some else "there is none"


def _name_of(node: object) -> object:
    return node.name if is_node(node) else node
