"""Forks of random runs: choose a node, say what has to be given and what is taken over, and fork there."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator import RunError
from tests.random_recipes import Choice, Each, Gate, Together, nodes_of
from tests.random_results import names_of, number_of

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from orchestrator import FlowRun
    from orchestrator.store.run_store import Store
    from tests.random_checks import Branch
    from tests.random_recipes import Call, Child, Part
    from tests.random_runs import Play

OTHER_INPUT, FURTHER = 0.3, 500
UNDONE = {"compensating", "compensated", "compensation_failed"}
ENDS = {"succeeded", "failed", "unknown", *UNDONE}
GIVEN = 5
"""In place of an output that was undone."""


def fork(
    store: Store, play: Play, tree: Branch, chance: random.Random
) -> tuple[FlowRun, int, dict[str, int | None]] | None:
    """Fork an ended run at one of its nodes.

    Returns:
        The fork, its input, and what is known of its outputs; None where it had to be refused, and was.

    Raises:
        AssertionError: It was refused, or it was not.
    """
    at = chance.choice([node.name for node in nodes_of(play.recipe.parts, only_taken=True)])
    legacy = taken_over(store, tree, at)
    options: dict[str, Any] = {}
    given = play.given
    if chance.random() < OTHER_INPUT:
        given += FURTHER
        lane = play.recipe.lane
        options["input"] = {"given": given, "customer": play.customer} if lane and lane.is_keyed else given
    if legacy.is_missing or legacy.given:
        refused = ""
        try:
            play.run.fork(at, **options)
        except RunError as error:
            refused = str(error)
        assert refused, f"a fork at {at} is not refused: {legacy}"
    if legacy.is_missing:
        return None
    try:
        run = play.run.fork(at, outputs=legacy.given, **options)
    except RunError as error:
        raise AssertionError(f"a fork at {at} is refused: {legacy}") from error
    return run, given, legacy.known


@dataclass
class Legacy:
    """What a fork takes over.

    Attributes:
        known: By node what its output comes to; None of one that failed where its step goes on.
        given: Outputs in place of those that were undone.
        is_missing: The run did not come that far.
    """

    known: dict[str, int | None] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    is_missing: bool = False


def taken_over(store: Store, tree: Branch, at: str) -> Legacy:
    """What a fork of a run takes over before a node, by the records of the run."""
    legacy = Legacy(is_missing=not has_decided(store, tree, at))
    for part in before(tree.recipe.parts, at):
        for name in names_of(part):
            states = {record["state"] for each, record in tree.nodes.items() if each.partition("[")[0] == name}
            if states & UNDONE:
                legacy.given[name] = [GIVEN] if isinstance(part, Each) else GIVEN
                legacy.known[name] = GIVEN
            elif output := store.outputs(tree.id, [name]):
                legacy.known[name] = number_of(json.loads(output[name]))
            else:
                legacy.known[name] = 0 if states == {"succeeded"} else None  # a sleep has no output
        won = sum(legacy.known[name] is not None for name in names_of(part))
        least = won if isinstance(part, Each) else len(names_of(part))
        if isinstance(part, Together) and part.goes_on:
            least = part.require or 0
            was_met = all(tree.nodes.get(name, {}).get("state") in ENDS for name in names_of(part))
            legacy.is_missing = legacy.is_missing or not was_met
        legacy.is_missing = legacy.is_missing or won < least or (isinstance(part, Each) and won < 1)
    return legacy


def has_decided(store: Store, tree: Branch, at: str) -> bool:
    """Whether the run has taken every decision on the way to a node."""
    plan = store.plan(tree.record.plan)
    assert plan is not None
    position = 0
    while position != plan.nodes[at].step:
        step = plan.steps[position]
        choice = tree.nodes.get(step.nodes[0], {}).get("choice") if step.branches else 0
        if choice is None:
            return False
        position = step.branches[choice] if step.branches else step.next
    return True


def before(parts: tuple[Part, ...], at: str) -> Iterator[Call | Gate | Child | Together | Each]:
    """Steps on the way to a node, in their order."""
    for part in parts:
        if isinstance(part, Choice):
            branch = part.branches[part.taken]
            yield from before(branch, at)
            if any(node.name == at for node in nodes_of(branch)):
                return
        elif at in names_of(part):
            return
        else:
            yield part
