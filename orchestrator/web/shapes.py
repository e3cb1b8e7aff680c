"""Shapes of a graph: the steps of a plan as lines, groups and boxes, few enough to be read.

A plan is flat; its steps are series-parallel, so that a line of steps with groups of branches or members inside is read
back from the positions. Where that is more than a picture holds, lines fold to a window around the present position,
and large groups become one box with counts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from orchestrator.definition.step_plan import END

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestrator.definition.plan import Plan
    from orchestrator.definition.step_plan import StepPlan

MOST_BOXES = 150
ACTIVE = ("bad", "run", "wait", "queue")
"""Tones that draw the eye; the first that is there is the tone of a box that stands for many nodes."""
PASSED = ("ok", "undone", "skip")


@dataclass(frozen=True)
class Mark:
    """State of a node, as it is shown.

    Attributes:
        tone: "ok", "run", "queue", "wait", "bad", "undone", "skip" or "none".
        text: A few words below the name.
        counts: Of a box that stands for many: how many have each tone.
        choice: Of a decision that was taken: the number of the branch.
    """

    tone: str = "none"
    text: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    choice: int | None = None


NOTHING = Mark()


@dataclass(frozen=True)
class Child:
    """The run that a node has started last.

    Attributes:
        run_id: The run.
        title: Its flow and the beginning of its id.
        mark: Its state.
        address: Its page.
        toggle: Where a click opens it inside the graph, or closes it.
        plan: Of an open one: its plan.
        marks: Of an open one: state of its nodes, by name.
        children: Of an open one: what its own nodes have started, by node.
    """

    run_id: str
    title: str
    mark: Mark
    address: str
    toggle: str
    plan: Plan | None = None
    marks: Mapping[str, Mark] = field(default_factory=dict)
    children: Mapping[str, Child] = field(default_factory=dict)


@dataclass(frozen=True)
class Box:
    """One box: a node, a map, or several steps or members that are not drawn.

    Attributes:
        title: First line.
        mark: State, its words are the second line.
        nodes: The nodes that it stands for; a link leads to the first.
        undo: Name of the compensation, and its state.
        is_off: Whether its branch was not taken.
        is_fold: Whether it stands for steps that are there on request.
        takes: Of a node that is wired by name: each parameter with its source, as the plan has it.
        child: The run that the node has started last, if it starts runs; it is closed.
        run_id: The run that the box belongs to, if it is a child of the one that is drawn.
    """

    title: str
    mark: Mark = NOTHING
    nodes: tuple[str, ...] = ()
    undo: tuple[str, Mark] | None = None
    is_off: bool = False
    is_fold: bool = False
    takes: Mapping[str, str] = field(default_factory=dict)
    child: Child | None = None
    run_id: str = ""


@dataclass(frozen=True)
class Line:
    """Parts that follow one another; empty for a branch without steps."""

    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Arm:
    """One branch or member of a group.

    Attributes:
        line: Its steps.
        label: "if", "or if" or "else" of a branch.
        is_off: Whether the run went another way.
    """

    line: Line
    label: str = ""
    is_off: bool = False


@dataclass(frozen=True)
class Group:
    """Branches, of which a run takes one, members that run together, or the steps of a child that is open.

    Attributes:
        title: Name of the step, or of the node that has started the child.
        arms: Its branches or members; of a child one.
        node: The decision, or the node; empty for members.
        mark: Its state.
        is_off: Whether its branch was not taken.
        child: The child.
        run_id: As of a box.
    """

    title: str
    arms: tuple[Arm, ...]
    node: str = ""
    mark: Mark = NOTHING
    is_off: bool = False
    child: Child | None = None
    run_id: str = ""


Part: TypeAlias = Box | Group


@dataclass(frozen=True)
class Folding:
    """The most that is drawn: parts in a line, arms of a group, and groups inside one another."""

    parts: int
    arms: int
    depth: int


FOLDINGS = (Folding(26, 24, 5), Folding(14, 12, 4), Folding(10, 8, 2), Folding(8, 4, 1), Folding(6, 4, 0))
UNFOLDED = (Folding(120, 100, 6), Folding(60, 40, 5), *FOLDINGS)


def read_shapes(
    plan: Plan,
    marks: Mapping[str, Mark],
    *,
    children: Mapping[str, Child] | None = None,
    unfold: bool = False,
    is_narrow: bool = False,
) -> Line:
    """Return the graph of a plan with at most 150 boxes.

    Args:
        plan: The plan.
        marks: State of the nodes, decisions and compensations of a run by name; empty for a flow.
        children: What its nodes have started, by node; those that are open are drawn in their place.
        unfold: Whether to draw as many steps as there is room for.
        is_narrow: Whether every step takes a row of its own.
    """
    reader = _Reader(plan, marks, children or {})
    for folding in UNFOLDED if unfold else FOLDINGS[1 if is_narrow else 0 :]:
        line = reader.line(0 if plan.steps else END, END, folding, depth=0, is_off=False)
        if sum(1 for _ in boxes(line)) <= MOST_BOXES:
            break
    return line


def boxes(shape: Line | Part) -> Iterator[Box]:
    """Every box inside."""
    if isinstance(shape, Box):
        yield shape
    elif isinstance(shape, Line):
        for part in shape.parts:
            yield from boxes(part)
    else:
        for arm in shape.arms:
            yield from boxes(arm.line)


def combined(marks: Sequence[Mark]) -> Mark:
    """Return the state of a box that stands for several nodes."""
    counts: Counter[str] = Counter()
    for mark in marks:
        counts.update(mark.counts or {mark.tone: 1})
    tones = [tone for tone in ACTIVE if counts[tone]]
    passed = [tone for tone in PASSED if counts[tone]]
    tone = tones[0] if tones else (passed[0] if passed and not counts["none"] else "none")
    return Mark(tone, counts=dict(counts) if set(counts) - {"none"} else {})


class _Reader:
    def __init__(self, plan: Plan, marks: Mapping[str, Mark], children: Mapping[str, Child], run_id: str = "") -> None:
        self.plan = plan
        self.marks = marks
        self.children = children
        self.run_id = run_id
        # What undoes a child is no node to a reader: the node that has started it shows that it is undone.
        self.undo = {node: undo for node, undo, _ in plan.sagas if not plan.nodes[undo].child}

    def line(self, first: int, end: int, folding: Folding, *, depth: int, is_off: bool) -> Line:
        """Return the steps from a position up to another one."""
        places = []
        position = first
        while position not in (end, END):
            places.append(position)
            step = self.plan.steps[position]
            # The computation of a map's items is drawn with the map.
            position = step.next
        places = [place for place in places if not self.plan.steps[place].rules.is_prelude]
        if len(places) <= folding.parts:
            return Line(tuple(self.part(place, folding, depth, is_off) for place in places))
        kept = self.window(places, folding.parts)
        parts: list[Part] = []
        hidden: list[int] = []
        for place in [*places, END]:
            if place != END and place not in kept:
                hidden.append(place)
                continue
            if hidden:
                names = [name for each in hidden for name in self.names(each)]
                parts.append(self.fold(f"{len(hidden)} steps", names, is_off=is_off))
                hidden = []
            if place != END:
                parts.append(self.part(place, folding, depth, is_off))
        return Line(tuple(parts))

    def window(self, places: list[int], most: int) -> set[int]:
        """Return the places to draw: the first, the last, and those around the present one."""
        present = 0
        for number, place in enumerate(places):
            tone = combined([self.mark(name) for name in self.names(place)]).tone
            if tone in ACTIVE:
                present = number
                break
            if tone != "none":
                present = number
        room = most - 4
        begin = max(0, min(present - room // 2, len(places) - room))
        return {places[0], places[-1], *places[begin : begin + room]}

    def part(self, position: int, folding: Folding, depth: int, is_off: bool) -> Part:  # noqa: FBT001 - as `line`
        """Return one step."""
        step = self.plan.steps[position]
        if step.branches:
            return self.branches(step, folding, depth, is_off)
        if step.rules.is_map:
            return self.map_box(step, is_off)
        if step.rules.is_single:
            return self.node(step.nodes[0], folding, depth, is_off)
        if len(step.nodes) > folding.arms or depth >= folding.depth:
            box = self.fold(step.name, step.nodes, is_off=is_off)
            return replace(box, mark=replace(box.mark, text=f"{len(step.nodes)} in parallel"), is_fold=False)
        arms = tuple(Arm(Line((self.node(name, folding, depth + 1, is_off),)), is_off=is_off) for name in step.nodes)
        return Group(step.name, arms, is_off=is_off, run_id=self.run_id)

    def node(self, name: str, folding: Folding, depth: int, is_off: bool) -> Part:  # noqa: FBT001 - as `line`
        """Return the box of a node, or the steps of the run that it has started last, if that is open."""
        box, child = self.box(name, is_off=is_off), self.children.get(name)
        if child is None or child.plan is None or depth > folding.depth:
            return box
        reader = _Reader(child.plan, child.marks, child.children, child.run_id)
        line = reader.line(0 if child.plan.steps else END, END, folding, depth=depth + 1, is_off=is_off)
        return Group(name, (Arm(line, is_off=is_off),), name, box.mark, is_off, child, self.run_id)

    def branches(self, step: StepPlan, folding: Folding, depth: int, is_off: bool) -> Part:  # noqa: FBT001
        """Return the branches of a decision, those that the run did not take marked."""
        decision = self.mark(step.name)
        if depth >= folding.depth or len(step.branches) > folding.arms:
            box = self.fold(step.name, list(self.names_between(step)), is_off=is_off)
            return replace(box, mark=replace(box.mark, text=f"{len(step.branches)} branches"), is_fold=False)
        arms = []
        for number, entry in enumerate(step.branches):
            off = is_off or decision.choice not in (None, number)
            label = "else" if number == len(step.branches) - 1 else "or if" if number else "if"
            line = self.line(entry, step.next, folding, depth=depth + 1, is_off=off)
            arms.append(Arm(line, label, off))
        return Group(step.name, tuple(arms), step.name, decision, is_off, run_id=self.run_id)

    def box(self, name: str, *, is_off: bool) -> Box:
        """Return the box of a node, with its compensation."""
        undo = self.undo.get(name)
        undone = (undo, self.mark(undo)) if undo else None
        mark, flow = self.mark(name), self.plan.nodes[name].child
        if flow and not mark.text:
            mark = replace(mark, text=f"flow {flow}")
        takes = self.plan.inputs.get(name, {})
        return Box(name, mark, (name,), undone, is_off, takes=takes, child=self.children.get(name), run_id=self.run_id)

    def map_box(self, step: StepPlan, is_off: bool) -> Box:  # noqa: FBT001
        """Return the one box of a map, which shows the computation of the items until there are any."""
        box = self.box(step.nodes[0], is_off=is_off)
        computing = self.mark(step.source)
        if box.mark.tone == "none" and computing.tone in ACTIVE:
            box = replace(box, mark=replace(computing, text="computes its items"))
        elif not box.mark.text:
            box = replace(box, mark=replace(box.mark, text="for each item"))
        return box

    def fold(self, title: str, names: Sequence[str], *, is_off: bool) -> Box:
        """Return the box that stands for many nodes."""
        mark = combined([self.mark(name) for name in names])
        return Box(title, mark, tuple(names), None, is_off, is_fold=True, run_id=self.run_id)

    def mark(self, name: str) -> Mark:
        """Return the state of a node."""
        return self.marks.get(name, NOTHING)

    def names(self, position: int) -> Iterator[str]:
        """Every node of a step, those inside its branches too."""
        step = self.plan.steps[position]
        if step.branches:
            yield from self.names_between(step)
        else:
            yield from step.nodes

    def names_between(self, step: StepPlan) -> Iterator[str]:
        """Every node of the branches of a step, the decision first."""
        yield step.name
        stop = {step.next, END}
        waiting, seen = list(step.branches), set[int]()
        while waiting:
            position = waiting.pop(0)
            if position in stop or position in seen:
                continue
            seen.add(position)
            inner = self.plan.steps[position]
            if not inner.rules.is_prelude:
                yield from inner.nodes
            waiting += [*inner.branches, inner.next]
