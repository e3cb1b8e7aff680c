"""Results of random flows: what each function returns, and what a run must come to."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from tests.random_recipes import STEP, Call, Child, Choice, Each, Gate, Together

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.random_recipes import Member, Part, Recipe


def mix(name: str, given: int) -> int:
    """What a function returns: it shows which node was called, with what."""
    return (given * 31 + zlib.crc32(name.encode())) % STEP


def climb(given: int) -> int:
    """What the function of a node that repeats returns."""
    return given + STEP


class Failed(Exception):
    """The run fails."""


def expected_result(
    recipe: Recipe, given: int, *, is_mended: bool, known: Mapping[str, int | None] | None = None
) -> int | None:
    """Return the result of a run that nobody cancels, or None if it fails.

    Args:
        recipe: The flow.
        given: The run's input.
        is_mended: What fails for good does not any more.
        known: Of a fork: by node, what the outputs come to that it has taken over; None where there is none.
    """
    try:
        _, last = _walk(recipe.parts, given, given % STEP, is_mended=is_mended, known=known or {})
    except Failed:
        return None
    return climb(given) if recipe.climbs else last


def _walk(
    parts: tuple[Part, ...], given: int, before: int, *, is_mended: bool, known: Mapping[str, int | None]
) -> tuple[int, int]:
    """Return what the step behind the parts gets as its input, and the last output."""
    last = before
    for part in parts:
        if isinstance(part, Choice):
            before, last = _walk(part.branches[part.taken], given, before, is_mended=is_mended, known=known)
            continue
        names = names_of(part)
        if known.keys() >= set(names):
            outputs = [output for output in map(known.get, names) if output is not None]
        else:
            outputs = _outputs_of(part, before, is_mended=is_mended)
        last = sum(outputs)
        before = (given + last) % STEP
    return before, last


def _outputs_of(part: Call | Gate | Child | Together | Each, before: int, *, is_mended: bool) -> list[int]:
    if isinstance(part, Together):
        found = [_output_of(member, before, is_mended=is_mended) for member in part.members]
        require = len(found) if not part.goes_on else part.require or 0
    elif isinstance(part, Each):
        found = [_item_of(part, item, is_mended=is_mended) for item in range(part.items)]
        require = len(found) if not part.goes_on else 0
    else:
        found, require = [_output_of(part, before, is_mended=is_mended)], 1
    outputs = [each for each in found if each is not None]
    if len(outputs) < require:
        raise Failed
    return outputs


def _item_of(part: Each, item: int, *, is_mended: bool) -> int | None:
    if isinstance(part.node, Child):
        return expected_result(part.node.flow, item, is_mended=is_mended)
    return _output_of(part.node, item, is_mended=is_mended or item != part.bad)


def _output_of(node: Member, given: int, *, is_mended: bool) -> int | None:
    if isinstance(node, Child):
        return _result_of(node, given, is_mended=is_mended)
    if isinstance(node, Gate):
        value = answer_to(node) if node.kind == "signal" else 0
        return None if node.answer == "never" or (node.answer == "no" and not is_mended) else value
    if node.fault and (not is_mended or node.fault == "overdue"):
        return None
    if node.pages:
        return sum(page_items(node, given))
    return given + node.repeats * STEP if node.repeats else mix(node.name, given)


def _result_of(child: Child, given: int, *, is_mended: bool) -> int | None:
    result: int | None = given
    for _ in range(child.repeats or 1):
        result = None if result is None else expected_result(child.flow, result, is_mended=is_mended)
    return result


def page_items(node: Call, given: int) -> list[int]:
    """Items of a paginated node, one on each page."""
    return [mix(f"{node.name}/{page}", given) for page in range(node.pages)]


def names_of(part: Call | Gate | Child | Together | Each) -> list[str]:
    """Names of the nodes of a step."""
    if isinstance(part, Together):
        return [member.name for member in part.members]
    return [part.node.name] if isinstance(part, Each) else [part.name]


def number_of(output: object) -> int:
    """What an output comes to for what reads it: a number, the items of a map or those of pages; of others nothing."""
    found = output.get("items") if isinstance(output, dict) else output
    if isinstance(found, list):
        return sum(map(number_of, found))
    return found if isinstance(found, int) and not isinstance(found, bool) else 0


def answer_to(gate: Gate) -> int:
    """The value of a signal."""
    return len(gate.name) if gate.answer == "default" else mix(gate.name, 1)
