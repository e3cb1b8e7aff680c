"""Checks of data flow: every output that a function is known to read exists when it runs.

The steps are walked in order, with the output keys that are certainly and those that are possibly written so far.
`static_reads` finds what a function is known to read; every other read is checked when it happens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from orchestrator.definition.checks.locations import find_places, find_writers, is_exclusive
from orchestrator.definition.checks.messages import flow_place, is_node, node_place, step_place, suggest
from orchestrator.definition.static_reads import Reads, known_reads
from orchestrator.definition.wording import call, is_a, is_text
from orchestrator.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator.definition.checks.locations import Path, Place
    from orchestrator.definition.flow import Flow
    from orchestrator.definition.steps import AnyNode, Step

ASK_FIRST: Final = "check has() or use get_or()"
GIVE_DEFAULT: Final = "give the parameter a default"
INPUT_FUNCTION: Final = "its input function"
READ_LATER: Final = "runs at the same time; read it in a later step"


def check_reads(flow: Flow) -> Iterator[Problem]:
    """Every known read finds its output, in every run that reaches the reader."""
    yield from _Walk(flow, _Writers.of(flow)).follow(flow.steps, ())


def check_result(flow: Flow) -> Iterator[Problem]:
    """The key that the run's result is taken from is written by some node."""
    writers = find_writers(flow)
    if is_a(flow.returns, str) and flow.returns not in writers:
        message = f"returns({call(flow.returns)}): no node writes this output key; {suggest(flow.returns, writers)}"
        yield Problem(flow_place(flow), "unknown-key", message)


@dataclass(frozen=True)
class _Writers:
    """The nodes that write each output key, and the branches around every node."""

    by_key: Mapping[str, list[Place]]
    paths: Mapping[str, Path]

    @classmethod
    def of(cls, flow: Flow) -> _Writers:
        places = [place for place in find_places(flow) if place.undoes is None]
        return cls(find_writers(flow), {p.node.name: p.path for p in places if is_a(p.node.name, str)})

    def is_elsewhere(self, key: str, path: Path) -> bool:
        """Whether a key is written only on branches that exclude this place."""
        return all(is_exclusive(writer.path, path) for writer in self.by_key[key])


@dataclass(frozen=True)
class _Members:
    """The nodes that start together in one step, by output key and by name."""

    by_key: Mapping[str, AnyNode]
    by_name: Mapping[str, AnyNode]


@dataclass(frozen=True)
class _Reader:
    """A function of the state, its place, and the nodes it must not read."""

    where: str
    what: str
    reads: Reads
    advice: str
    path: Path
    step: _Members
    own: AnyNode | None = None
    undoes: AnyNode | None = None

    def needs(self, key: str) -> bool:
        """Whether it fails when the output is missing: it calls `get` and never asks whether it is there."""
        return key in self.reads.gets and key not in self.reads.optional


def _readings(node: AnyNode) -> Iterator[tuple[str, Reads, str]]:
    """Yield what reads, what it reads, and what to do about an output that may be missing."""
    if node.wiring is None:
        yield INPUT_FUNCTION, known_reads(node.input_func), ASK_FIRST
        return
    for name, key in node.wiring.outputs().items():
        keys = frozenset({key})
        reads = Reads(optional=keys) if node.wiring.may_lack(name) else Reads(gets=keys)
        yield f"its input {call(name)}", reads, GIVE_DEFAULT


@dataclass
class _Walk:
    """A walk through the flow, with what is written so far."""

    flow: Flow
    writers: _Writers
    certain: set[str] = field(default_factory=set)
    possible: set[str] = field(default_factory=set)
    passed: set[str] = field(default_factory=set)

    def follow(self, steps: tuple[Step, ...], path: Path) -> Iterator[Problem]:
        """Check the steps in order."""
        for step in steps:
            where = step_place(self.flow, step)
            for what, function in step.functions():
                yield from self._check(
                    _Reader(where, f"its {what}", known_reads(function), ASK_FIRST, path, _Members({}, {}))
                )
            yield from self._follow_nodes(step, path)
            yield from self._follow_branches(step, path)

    def _follow_nodes(self, step: Step, path: Path) -> Iterator[Problem]:
        nodes = tuple(node for node in step.own_nodes() if is_node(node))
        members = _Members(
            {node.output_key: node for node in nodes if is_a(node.output_key, str)},
            {node.name: node for node in nodes if is_a(node.name, str)},
        )
        for node in nodes:
            for reading in _readings(node):
                yield from self._check(_Reader(node_place(self.flow, node), *reading, path, members, own=node))
            undo = node.compensation
            for reading in _readings(undo) if is_node(undo) else ():
                yield from self._check(_Reader(node_place(self.flow, undo), *reading, path, members, undoes=node))
        self.possible |= members.by_key.keys()
        self.passed |= members.by_name.keys()
        if not step.may_lose_outputs():
            self.certain |= members.by_key.keys()

    def _follow_branches(self, step: Step, path: Path) -> Iterator[Problem]:
        ends = []
        for number, branch in enumerate(step.paths()):
            walk = _Walk(self.flow, self.writers, set(self.certain), set(self.possible), set(self.passed))
            yield from walk.follow(branch, (*path, (id(step), number)))
            ends.append(walk)
        if ends:
            self.certain = set.intersection(*(walk.certain for walk in ends))
        self.possible = self.possible.union(*(walk.possible for walk in ends))
        self.passed = self.passed.union(*(walk.passed for walk in ends))

    def _check(self, reader: _Reader) -> Iterator[Problem]:
        for key in sorted(reader.reads.gets | reader.reads.optional):
            for code, fault in self._key_faults(reader, key):
                yield Problem(reader.where, code, f"{reader.what} reads the output {call(key)}, {fault}")
        for name in sorted(reader.reads.failures):
            for code, fault in self._failure_faults(reader, name):
                yield Problem(reader.where, code, f"{reader.what} reads the failure of {call(name)}, {fault}")

    def _key_faults(self, reader: _Reader, key: str) -> Iterator[tuple[str, str]]:
        if reader.own is not None and is_text(reader.own.output_key, key):
            yield "not-yet-written", "which the node itself writes, after it has succeeded"
        elif reader.undoes is not None and is_text(reader.undoes.output_key, key):
            if reader.undoes.compensation_when == "started" and reader.needs(key):
                yield "maybe-missing", f"which a failed node has not written; {reader.advice}"
        elif sibling := reader.step.by_key.get(key):
            yield "sibling-read", f"a RACE CONDITION: {call(sibling.name)} {READ_LATER}"
        elif key not in self.writers.by_key:
            yield "unknown-key", f"which no node writes; {self._key_hint(key)}"
        elif key not in self.possible:
            if not self.writers.is_elsewhere(key, reader.path):
                yield "not-yet-written", f"which {self._writers_of(key)} writes only later; read it in a later step"
            elif reader.needs(key):
                yield "maybe-missing", f"which only {self._writers_of(key)} writes, on another branch; {reader.advice}"
        elif key not in self.certain and reader.needs(key):
            yield "maybe-missing", f"which {self._writers_of(key)} may not have written; {reader.advice}"

    def _failure_faults(self, reader: _Reader, name: str) -> Iterator[tuple[str, str]]:
        if reader.own is not None and is_text(reader.own.name, name):
            yield "not-yet-written", "which is the node itself: it cannot have failed yet"
        elif reader.undoes is not None and is_text(reader.undoes.name, name):
            return
        elif name in reader.step.by_name:
            yield "sibling-read", f"a RACE CONDITION: {call(name)} {READ_LATER}"
        elif name not in self.writers.paths:
            yield "unknown-key", f"but no node has this name; {self._name_hint(name)}"
        elif name not in self.passed and not is_exclusive(self.writers.paths[name], reader.path):
            yield "not-yet-written", "which runs only later; read it in a later step"

    def _writers_of(self, key: str) -> str:
        return " and ".join(call(writer.node.name) for writer in self.writers.by_key[key][:3])

    def _key_hint(self, key: str) -> str:
        keys = [
            own for own, writers in self.writers.by_key.items() if any(is_text(each.node.name, key) for each in writers)
        ]
        return (
            f"the node of this name writes the output key {call(keys[0])}"
            if keys
            else suggest(key, self.writers.by_key)
        )

    def _name_hint(self, name: str) -> str:
        if name in self.writers.by_key:
            return f"it is the output key of {self._writers_of(name)}"
        return suggest(name, self.writers.paths)
