"""Locations of nodes in a flow: the branches around each, and the node that a compensation undoes.

Only nodes are found; `structure` refuses anything else. The other checks judge whether a location is allowed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from orchestrator.definition.checks.messages import is_node, node_place
from orchestrator.definition.wording import is_a

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.definition.flow import Flow
    from orchestrator.definition.steps import AnyNode, Step

Path: TypeAlias = tuple[tuple[int, int], ...]
"""The branches around a place, outermost first: (identity of the block, number of the branch)."""


@dataclass(frozen=True)
class Place:
    """A node in its flow.

    Attributes:
        where: Its name in problems.
        node: The node.
        path: The branches around it.
        is_mapped: Whether it is called for each item of a map.
        undoes: Of a compensation: the node that it undoes.
    """

    where: str
    node: AnyNode
    path: Path
    is_mapped: bool = False
    undoes: AnyNode | None = None


def find_places(flow: Flow) -> Iterator[Place]:
    """Yield every node in order, each followed by its compensation."""
    for step, path in _walk(flow.steps, ()):
        for node in step.own_nodes():
            if not is_node(node):
                continue
            yield Place(node_place(flow, node), node, path, is_mapped=step.node_kind == "item")
            undo = node.compensation
            if is_node(undo):
                yield Place(node_place(flow, undo), undo, path, undoes=node)


def find_writers(flow: Flow) -> dict[str, list[Place]]:
    """Return the nodes that write each output key, in order."""
    writers: dict[str, list[Place]] = {}
    for place in find_places(flow):
        if place.undoes is None and is_a(place.node.output_key, str):
            writers.setdefault(place.node.output_key, []).append(place)
    return writers


def is_exclusive(one: Path, other: Path) -> bool:
    """Return whether no run reaches both places, because they are on different branches of one block."""
    for (block, branch), (other_block, other_branch) in zip(one, other, strict=False):
        if block != other_block:
            return False
        if branch != other_branch:
            return True
    return False


def _walk(steps: tuple[Step, ...], path: Path) -> Iterator[tuple[Step, Path]]:
    for step in steps:
        yield step, path
        for number, branch in enumerate(step.paths()):
            yield from _walk(branch, (*path, (id(step), number)))
