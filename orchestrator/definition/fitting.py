"""Fit of a worker's code with the plan that a run pins: whether it may run a node of it, and if not, why.

Pure functions of two plans, the worker's own and the pinned one. Code fits a node when its kind and its types are the
plan's, and each output that it is known to read is written before it and of the type that it knows; with another body
alone it fits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from orchestrator.definition.plan import FORMAT, limit_title

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.definition.plan import NodePlan, Plan

RUN_INPUT: Final = ":input"
"""Stands for the run's input where a key stands for an output."""
KINDS: Final = {
    "node": "a node",
    "branch": "a branch decision",
    "compensation": "a compensation",
    "expand": "the computation of a map's items",
    "item": "the node of a map",
}
NO_NODE: Final = "it has no node of this name"
MOST_KEPT = 10_000


def misfit(own: Plan, pinned: Plan, name: str) -> str:
    """Return why code does not fit a node of a run, or "" if it does.

    Args:
        own: The plan of the worker's own flow.
        pinned: The plan that the run pins, of the same flow.
        name: A node, decision or compensation of the pinned plan.
    """
    return missing_code(own, pinned, name) or next(_foreign_data(own, pinned, name), "")


def missing_code(own: Plan, pinned: Plan, name: str) -> str:
    """Return what code lacks in order to run a node, whatever the run has stored, or "" if it lacks nothing.

    Args:
        own: As above.
        pinned: As above.
        name: As above.
    """
    if pinned.needed_format > FORMAT:
        return f"the run's plan has format {pinned.needed_format}, and its library knows none after {FORMAT}"
    return "" if own.hash == pinned.hash else next(_missing_code(own, pinned, name), "")


def _missing_code(own: Plan, pinned: Plan, name: str) -> Iterator[str]:
    theirs, mine = pinned.nodes[name], own.nodes.get(name)
    step = pinned.steps[theirs.step]
    if mine is None:
        yield NO_NODE
        return
    if not step.is_known:
        yield f"its library does not know steps of kind {step.kind!r}"
    if _shape_of(mine) != _shape_of(theirs):
        yield f"there it is {_kind_of(mine)}, in the run's plan {_kind_of(theirs)}"
    for missing in sorted(set(theirs.keyed) - set(mine.keyed)):
        yield f"limiter {missing} has no key function there"
    # With more or fewer branches than the plan has, a choice would lead to another branch, or to none.
    if len(own.steps[mine.step].branches) != len(step.branches):
        yield "there it has another number of branches"


def _foreign_data(own: Plan, pinned: Plan, name: str) -> Iterator[str]:
    if own.hash == pinned.hash:
        return
    (takes, gives), (taken, given) = (plan.types.get(name, ("", "")) for plan in (own, pinned))
    says = bool(own.types and pinned.types)  # a plan of version 0.1.0 does not
    if says and takes != taken:
        yield "its input is of another type there"
    if says and gives != given:
        yield "its output is of another type there"
    for key in own.nodes[name].reads:
        if reason := _unreadable(own, pinned, name, key):
            yield reason
    # Of a limit that the run's plan counts in one bucket, no key is asked for.
    for limit in pinned.nodes[name].keyed:
        for key in own.key_reads.get(name, {}).get(limit, ()):
            if key in own.visible(name) and (reason := _unreadable(own, pinned, name, key)):
                yield f"for a key of {limit_title(limit)}, {reason}"


def misread(own: Plan, pinned: Plan, name: str, key: str) -> str:
    """Return why a node's code cannot read an output in a run of the pinned plan, or "" if plans do not show it.

    Args:
        own: As above.
        pinned: As above.
        name: The node that reads, in both plans.
        key: The output key; `RUN_INPUT` for the run's input.
    """
    if key == RUN_INPUT:
        return "the run's input is of another type there" if own.input_schema != pinned.input_schema else ""
    if name not in own.nodes or key not in own.visible(name):
        return ""
    if reason := _unreadable(own, pinned, name, key):
        return reason
    theirs = pinned.nodes[name]
    if key not in theirs.reads and key != _undone_key(pinned, theirs) and key not in pinned.certain[theirs.step]:
        return f"it reads output {key!r}, which may be absent in the run's plan"
    return ""


class Fits:
    """What `misfit` answers, each computed once; and what attempts have found beyond it.

    The outcome depends on nothing but the two plans, which their hashes name.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str], str] = {}

    def misfit(self, own: Plan, pinned: Plan, name: str) -> str:
        """As the function."""
        kind = (own.hash, pinned.hash, name)
        found = self._known.get(kind)
        if found is None:
            if len(self._known) >= MOST_KEPT:
                self._known.clear()
            found = self._known[kind] = misfit(own, pinned, name)
        return found

    def note(self, own: Plan, pinned: Plan, name: str, reason: str) -> None:
        """Note what only an attempt could find."""
        self._known[own.hash, pinned.hash, name] = reason


def _shape_of(node: NodePlan) -> tuple[str, bool, bool, str]:
    return node.kind, node.paged, bool(node.repeats), node.child


def _kind_of(node: NodePlan) -> str:
    if node.child:
        return f"a node that starts flow {node.child}"
    if node.repeats:
        return "a node that repeats"
    return "a paginated node" if node.paged else KINDS.get(node.kind, node.kind)


def _unreadable(own: Plan, pinned: Plan, name: str, key: str) -> str:
    if key == RUN_INPUT:  # another schema may fit all the same, which only an attempt can tell
        return ""
    if key not in pinned.visible(name):
        is_same = key in pinned.nodes[name].reads  # and as absent for the plan's own code
        return "" if is_same else f"it reads output {key!r}, which the run's plan never writes before it"
    known, written = (_written_type(plan, key) for plan in (own, pinned))
    return f"output {key!r} is of another type there" if known and written and known != written else ""


def _undone_key(plan: Plan, node: NodePlan) -> str:
    return plan.nodes[node.undoes].key if node.undoes else ""


def _written_type(plan: Plan, key: str) -> str:
    """Digest of the type of an output; "" where several nodes write it, or it is not known."""
    types = {plan.types.get(node.name, ("", ""))[1] for node in plan.nodes.values() if node.key == key}
    return types.pop() if len(types) == 1 else ""
