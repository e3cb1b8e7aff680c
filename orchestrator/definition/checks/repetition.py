"""Checks of nodes that repeat: usable numbers, and a place where an output can be the next input."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.definition.checks.functions import callback_fault
from orchestrator.definition.checks.locations import find_places
from orchestrator.definition.pagination import PagedNode
from orchestrator.definition.repetition import Repeat
from orchestrator.definition.wording import is_a, show
from orchestrator.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.definition.checks.locations import Place
    from orchestrator.definition.flow import Flow


def check_repeats(flow: Flow) -> Iterator[Problem]:
    """A node that repeats has usable numbers, and is no paginated node, no node of a map and no compensation."""
    for place in find_places(flow):
        repeat = place.node.repeat
        if not is_a(repeat, Repeat):
            continue
        for fault in repeat.faults():
            yield Problem(place.where, "bad-repeat", f"its {fault}")
        if wrong := callback_fault(repeat.until):
            yield Problem(place.where, "bad-function", f"its until {show(repeat.until)} {wrong}")
        if what := _unrepeatable(place):
            yield Problem(place.where, "bad-repeat", f"{what} cannot repeat; repeat it inside a plain function")


def _unrepeatable(place: Place) -> str:
    if is_a(place.node, PagedNode):
        return "a paginated node"
    if place.is_mapped:
        return "the node of a map"
    return "" if place.undoes is None else "a compensation"
