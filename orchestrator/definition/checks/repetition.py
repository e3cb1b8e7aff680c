"""Checks of nodes that repeat: usable numbers, and a place where an output can be the next input."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.definition.checks.functions import callback_fault, read_contract
from orchestrator.definition.checks.locations import find_places
from orchestrator.definition.pagination import PagedNode
from orchestrator.definition.repetition import Repeat
from orchestrator.definition.schema_fit import ROOT, misfit
from orchestrator.definition.signature import BadFunction
from orchestrator.definition.wording import is_a, show
from orchestrator.errors import Problem, type_name

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
        elif mismatch := _type_fault(place):
            yield Problem(place.where, "input-mismatch", mismatch)


def _type_fault(place: Place) -> str:
    contract = read_contract(place.node)
    if isinstance(contract, BadFunction) or contract.input is None:  # a function without a parameter takes none
        return ""
    written, accepted = contract.output.written(), contract.input.accepted()
    path = misfit(written, accepted) if written is not None and accepted is not None else ""
    if not path:
        return ""
    at = "" if path == ROOT else f" at {path}"
    takes, gives = type_name(contract.input.annotation), type_name(contract.output.annotation)
    return f"it repeats with its own output, {gives}, but takes {takes}, which does not fit{at}"


def _unrepeatable(place: Place) -> str:
    if is_a(place.node, PagedNode):
        return "a paginated node"
    if place.is_mapped:
        return "the node of a map"
    return "" if place.undoes is None else "a compensation"
