"""Input of a node that is wired by name: the sources of its parameters, and their values as far as a view has them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.definition.plan import node_of
from orchestrator.web.texts import pretty

if TYPE_CHECKING:
    from orchestrator import RunView

CUT = 300
ROOTS = {":input": "the run's input", ":item": "the item"}


@dataclass(frozen=True)
class Given:
    """One parameter.

    Attributes:
        parameter: Its name.
        source: Where its value comes from, in words.
        value: The value as JSON, cut; where there is none, why.
        is_known: Whether that is the value.
    """

    parameter: str
    source: str
    value: str
    is_known: bool


def inputs_of(view: RunView, name: str) -> list[Given] | None:
    """Return the parameters of a node, constants apart; None for one that is not wired by name."""
    wired = view.plan.inputs.get(node_of(name)) if view.plan else None
    return None if wired is None else [_given(view, parameter, source) for parameter, source in wired.items()]


def _given(view: RunView, parameter: str, source: str) -> Given:
    root, *path = source.split(".") if source.startswith(":") else [source]
    words = ROOTS.get(root, f"output {root}")
    if path:
        words = f"{'.'.join(path)} of {words}"
    if root == ":item":
        return Given(parameter, words, "another one for each item", is_known=False)
    text, why = (view.input, "not shown whole") if root == ":input" else _output(view, root)
    try:
        value: Any = json.loads(text or "")
        for part in path:
            value = value[int(part) if isinstance(value, list) else part]
    except (ValueError, LookupError, TypeError):  # none yet, cut, or without this part
        return Given(parameter, words, why, is_known=False)
    return Given(parameter, words, pretty(json.dumps(value), CUT), is_known=True)


def _output(view: RunView, key: str) -> tuple[str | None, str]:
    row = next((row for row in view.nodes if row.key == key and row.kind != "expand" and "[" not in row.name), None)
    if row is None or not (row.output or row.output_size or row.pages or row.items):
        return None, "not stored yet"
    return row.output, "not shown whole"
