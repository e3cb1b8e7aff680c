"""Drawings of a plan as text: Mermaid and Graphviz, with the states of a run's nodes if there are any."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from orchestrator.definition.step_plan import END

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator.definition.plan import Plan

FILLS = {
    "succeeded": "#c8e6c9",
    "running": "#bbdefb",
    "ready": "#e3f2fd",
    "parked": "#fff3cd",
    "compensating": "#ffe0b2",
    "compensated": "#b2ebf2",
    "failed": "#ffcdd2",
    "unknown": "#ffcdd2",
    "compensation_failed": "#ef9a9a",
    "skipped": "#eeeeee",
}
DECISIONS = {"branch", "expand"}
Children: TypeAlias = "Mapping[str, tuple[str, str]]"
"""The run that each node has started last, by node: its id and its status."""


@dataclass(frozen=True)
class Edge:
    """An arrow between two nodes.

    Attributes:
        start: Where it begins.
        end: Where it leads.
        label: The choice of a decision that leads along it, or the parameters that take the output of its start.
        is_read: Whether it is no step from one to the other: the output is read later.
    """

    start: str
    end: str
    label: str = ""
    is_read: bool = False


def edges(plan: Plan) -> Iterator[Edge]:
    """Yield the arrows of a plan in the order of its steps, those of outputs that are read later last."""
    reads = _reads(plan)
    for edge in _steps(plan):
        read = ", ".join(reads.pop((edge.start, edge.end), ()))
        yield replace(edge, label=edge.label or read)
    yield from (Edge(start, end, ", ".join(names), is_read=True) for (start, end), names in reads.items())


def _reads(plan: Plan) -> dict[tuple[str, str], list[str]]:
    """The parameters by which a node reads another one's output, as far as nodes are wired by name."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, inputs in plan.inputs.items():
        node = plan.nodes[name]
        for parameter, key in () if node.undoes else inputs.items():
            for writer in plan.nodes.values():
                if writer.key == key and writer.step < node.step:
                    found.setdefault((writer.name, name), []).append(parameter)
    return found


def _steps(plan: Plan) -> Iterator[Edge]:
    for step in plan.steps:
        if step.branches:
            last = len(step.branches) - 1
            for choice, position in enumerate(step.branches):
                label = "else" if choice == last else f"choice {choice + 1}"
                yield from (Edge(step.nodes[0], name, label) for name in _entries(plan, position))
            continue
        for start in step.nodes:
            yield from (Edge(start, end) for end in _entries(plan, step.next))


def _entries(plan: Plan, position: int) -> tuple[str, ...]:
    return () if position == END else plan.steps[position].nodes


def mermaid(plan: Plan, states: Mapping[str, str], children: Children) -> str:
    """Return a Mermaid flowchart."""
    ids = {name: f"n{number}" for number, name in enumerate(_nodes(plan))}
    lines = ["flowchart LR"]
    for name, id in ids.items():
        text = _label(plan, name, states).replace('"', "#quot;")
        opening, closing = ("{", "}") if plan.nodes[name].kind in DECISIONS else ("[", "]")
        lines.append(f'  {id}{opening}"{text}"{closing}')
    for edge in edges(plan):
        line = "-.->" if edge.is_read else "-->"
        # A field of a model may have any name.
        label = re.sub(r"[^\w ,]", "_", edge.label)
        arrow = f"{line}|{label}|" if label else line
        lines.append(f"  {ids[edge.start]} {arrow} {ids[edge.end]}")
    for name, (run_id, status) in children.items():
        if name in ids:
            lines.append(f'  {ids[name]} -.- {ids[name]}r(["run {run_id[:8]}: {status}"])')
    lines += [f"  style {id} fill:{FILLS[states[name]]}" for name, id in ids.items() if states.get(name) in FILLS]
    return "\n".join(lines)


def dot(plan: Plan, states: Mapping[str, str], children: Children) -> str:
    """Return a Graphviz digraph."""
    lines = [f"digraph {_quoted(plan.flow)} {{", "  rankdir=LR;", '  node [shape=box, style="rounded,filled"];']
    for name in _nodes(plan):
        fill = FILLS.get(states.get(name, ""), "white")
        shape = ", shape=diamond" if plan.nodes[name].kind in DECISIONS else ""
        lines.append(f'  {_quoted(name)} [label={_quoted(_label(plan, name, states))}, fillcolor="{fill}"{shape}];')
    for edge in edges(plan):
        said = [f"label={_quoted(edge.label)}"] if edge.label else []
        said += ["style=dashed", "constraint=false"] if edge.is_read else []
        options = f" [{', '.join(said)}]" if said else ""
        lines.append(f"  {_quoted(edge.start)} -> {_quoted(edge.end)}{options};")
    for name, (run_id, status) in children.items():
        lines.append(f"  {_quoted(run_id)} [label={_quoted(f'run {run_id[:8]}: {status}')}, shape=oval];")
        lines.append(f"  {_quoted(name)} -> {_quoted(run_id)} [style=dotted, arrowhead=none, constraint=false];")
    return "\n".join([*lines, "}"])


def plain(plan: Plan, states: Mapping[str, str], children: Children) -> str:
    """Return the steps in order, a line each, and below a node the run that it has started last."""
    lines = []
    following: dict[str, list[str]] = {}
    for edge in edges(plan):
        shown = edge.end + (f" ({'read as ' if edge.is_read else ''}{edge.label})" if edge.label else "")
        following.setdefault(edge.start, []).append(shown)
    for name in _nodes(plan):
        line = _label(plan, name, states)
        lines.append(f"{line} -> {', '.join(following[name])}" if name in following else line)
        if name in children:
            lines.append("  run {}: {}".format(*children[name]))
    return "\n".join(lines)


def _nodes(plan: Plan) -> list[str]:
    return list(dict.fromkeys(name for step in plan.steps for name in step.nodes))


def _label(plan: Plan, name: str, states: Mapping[str, str]) -> str:
    child = plan.nodes[name].child
    shown = f"{name} (flow {child})" if child else name
    return f"{shown}: {states[name]}" if name in states else shown


def _quoted(text: str) -> str:
    return json.dumps(re.sub(r"[\r\n]", " ", text), ensure_ascii=False)
