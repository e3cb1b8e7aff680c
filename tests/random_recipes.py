"""Random flows as data: what they are made of, what fails in them, and what they must come to.

`recipe_of(seed, number)` gives the same recipe in every process. `tests/programs/random_flows.py` builds the flows for
the workers, and `tests/random_runs.py` starts them, answers what they wait for, and checks how they end.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MOST_NODES = 7
"""Of a flow, without its children."""
MOST_DEPTH = 2
"""Of flows that start each other."""
MOST_BLOCKS = 2
"""Branches within branches."""
STEP = 10_007
"""What an iteration adds: enough to see from an output how many there were."""


@dataclass(frozen=True)
class Call:
    """A node with a function.

    Attributes:
        name: The node.
        fails: Attempts, of each iteration, that fail before one succeeds.
        fault: How it fails for good until somebody mends it: "error", "terminal", or "" for not at all.
        stands: Out of attempts it pauses, and fails until somebody helps.
        dies: Its first attempt ends with its process.
        undo: When its compensation is called: "succeeded", "started", or "" for never.
        undo_fault: The compensation fails for good until somebody mends it.
        repeats: Iterations; 0 for a node that does not repeat.
        defers: It waits for a callback.
        is_limited: It takes a token of the limiter that all flows share.
        is_async: Its function is a coroutine.
    """

    name: str
    fails: int = 0
    fault: str = ""
    stands: bool = False
    dies: bool = False
    undo: str = ""
    undo_fault: bool = False
    repeats: int = 0
    defers: bool = False
    is_limited: bool = False
    is_async: bool = False


@dataclass(frozen=True)
class Gate:
    """A node that waits for somebody outside, or for a time.

    Attributes:
        name: The node.
        kind: "signal", "approval", "sleep" or "sleep_until".
        answer: Of a signal: "early" (before it is asked), "late", "default" (nobody sends it) or "never"; of an
            approval "yes" or "no".
        quorum: Of an approval.
    """

    name: str
    kind: str
    answer: str = ""
    quorum: int = 1


@dataclass(frozen=True)
class Child:
    """A node that starts another flow.

    Attributes:
        name: The node.
        flow: What it starts.
        is_remote: By its name, as where the code is elsewhere.
        repeats: Iterations; 0 for a node that does not repeat.
        has_undo: It has a compensation of its own, so that its run is not undone.
    """

    name: str
    flow: Recipe
    is_remote: bool = False
    repeats: int = 0
    has_undo: bool = False


@dataclass(frozen=True)
class Together:
    """A parallel step; `require` successes are enough if it goes on."""

    name: str
    members: tuple[Member, ...]
    goes_on: bool = False
    require: int | None = None
    is_local: bool = False


@dataclass(frozen=True)
class Each:
    """A map; only the item `bad` fails as its node says."""

    name: str
    node: Call | Child
    items: int
    bad: int
    width: int | None = None
    batch: int = 1
    goes_on: bool = False


@dataclass(frozen=True)
class Choice:
    """A block of branches; the one with the index `taken` is taken, the last one is the else-branch."""

    name: str
    branches: tuple[tuple[Part, ...], ...]
    taken: int


Member: TypeAlias = "Call | Gate | Child"
Part: TypeAlias = "Member | Together | Each | Choice"


@dataclass(frozen=True)
class Recipe:
    """A flow; its result is the output of its last node, which is a plain call.

    Attributes:
        name: The flow.
        parts: Its steps.
        is_fused: Steps run in one task.
        has_time: It has a time limit, which is never reached.
        climbs: Its result is its input and `STEP`, so that it can be repeated.
        cancel_at: Node at whose start the run is cancelled; "" for never.
        pause_at: Node at whose start the run is paused for a while.
        is_resumed: If it does not succeed it is mended and resumed.
        is_undone: If it succeeds it is undone.
    """

    name: str
    parts: tuple[Part, ...]
    is_fused: bool = False
    has_time: bool = False
    climbs: bool = False
    cancel_at: str = ""
    pause_at: str = ""
    is_resumed: bool = False
    is_undone: bool = False


class Dice:
    """Makes one recipe, and the recipes of the flows that it starts."""

    def __init__(self, seed: str, number: int) -> None:
        self.chance = random.Random(f"{seed}/{number}")
        self.base = f"random-{number}"
        self.flows = 0
        # A flow of which everything may fail hardly ever comes far: the share differs from flow to flow.
        self.faults = self.chance.choice((0.0, 0.0, 0.03, 0.08))
        self.names = 0

    def happens(self, share: float) -> bool:
        return self.chance.random() < share

    def recipe(self, depth: int, *, climbs: bool = False) -> Recipe:
        name = self.base if not depth else f"{self.base}-{self.flows}"
        self.flows += 1
        parts: list[Part] = []
        most = self.chance.randint(2, MOST_NODES) if not depth else self.chance.randint(1, 2)
        is_fused = self.happens(0.3)
        while sum(1 for _ in nodes_of(tuple(parts))) < most:
            parts.append(self.part(depth, is_fused=is_fused))
        parts.append(Call(self.name("end"), undo=self.undo()))
        return Recipe(name, tuple(parts), is_fused, self.happens(0.2), climbs)

    def name(self, kind: str) -> str:
        self.names += 1
        return f"{kind}-{self.names}"

    def undo(self) -> str:
        return self.chance.choice(("", "succeeded", "succeeded", "started"))

    def part(self, depth: int, nesting: int = 0, *, is_fused: bool) -> Part:
        kinds = ["call", "call", "gate", "together", "each"]
        kinds += ["child"] if depth < MOST_DEPTH else []
        kinds += ["choice"] if nesting < MOST_BLOCKS else []
        kind = self.chance.choice(kinds)
        if kind == "together":
            return self.together(depth, is_fused=is_fused)
        if kind == "choice":
            return self.choice(depth, nesting, is_fused=is_fused)
        makers: dict[str, Callable[[int], Part]] = {"gate": self.gate, "child": self.child, "each": self.each}
        return makers[kind](depth) if kind in makers else self.call()

    def choice(self, depth: int, nesting: int, *, is_fused: bool) -> Choice:
        branches = tuple(
            tuple(self.part(depth, nesting + 1, is_fused=is_fused) for _ in range(self.chance.randint(1, 2)))
            for _ in range(self.chance.randint(2, 3))
        )
        return Choice(self.name("choice"), branches, self.chance.randrange(len(branches)))

    def call(self, *, is_plain: bool = False, is_local: bool = False) -> Call:
        call = Call(self.name("call"), undo=self.undo(), is_limited=self.happens(0.1), is_async=self.happens(0.1))
        if call.undo and self.happens(self.faults):
            call = replace(call, undo_fault=True)
        if self.happens(self.faults):
            return replace(call, fault=self.chance.choice(("error", "terminal")))
        if self.happens(0.15):
            call = replace(call, fails=self.chance.randint(1, 2))
        elif self.happens(0.02) and not is_local:  # a local step loses what runs beside it too
            call = replace(call, dies=True)
        if is_plain:
            return call
        if self.happens(0.05):
            return replace(call, stands=True, fails=0, dies=False)
        if self.happens(0.12):
            return replace(call, defers=True)
        return replace(call, repeats=self.chance.randint(1, 3)) if self.happens(0.15) else call

    def gate(self, depth: int) -> Gate:
        kind = self.chance.choice(("signal", "signal", "approval", "sleep", "sleep_until"))
        if kind == "signal":
            answer = self.chance.choice(("late", "default") if depth else ("early", "late", "default"))
            return Gate(self.name("signal"), kind, "never" if self.happens(self.faults) else answer)
        if kind == "approval":
            no = self.happens(self.faults)
            return Gate(self.name("approval"), kind, "no" if no else "yes", self.chance.randint(1, 2))
        return Gate(self.name("sleep"), kind)

    def child(self, depth: int, *, repeats: bool = True) -> Child:
        count = self.chance.randint(1, 3) if repeats and self.happens(0.25) else 0
        flow = self.recipe(depth + 1, climbs=count > 0)
        return Child(self.name("child"), flow, self.happens(0.2), count, self.happens(0.2))

    def together(self, depth: int, *, is_fused: bool) -> Together:
        is_local = is_fused and self.happens(0.4)
        members: list[Member] = []
        for _ in range(self.chance.randint(2, 3)):
            roll = self.chance.random()
            if is_local or roll < 0.6:
                members.append(self.call(is_plain=is_local, is_local=is_local))
            elif roll < 0.8 or depth == MOST_DEPTH:
                members.append(self.gate(depth))
            else:
                members.append(self.child(depth))
        goes_on = self.happens(0.4)
        require = self.chance.randint(1, len(members)) if goes_on and self.happens(0.5) else None
        return Together(self.name("together"), tuple(members), goes_on, require, is_local)

    def each(self, depth: int) -> Each:
        is_child = depth < MOST_DEPTH and self.happens(0.3)
        node = self.child(depth, repeats=False) if is_child else self.call(is_plain=True)
        items = self.chance.randint(0, 2 if is_child else 5)
        width = self.chance.randint(1, 3) if self.happens(0.5) else None
        batch = 1 if is_child else self.chance.randint(1, 2)
        return Each(
            self.name("each"), node, items, self.chance.randrange(max(items, 1)), width, batch, self.happens(0.3)
        )


def recipe_of(seed: str, number: int) -> Recipe:
    """Return flow `number` of a seed."""
    dice = Dice(seed, number)
    recipe = dice.recipe(0)
    reached = [node.name for node in nodes_of(recipe.parts, only_taken=True) if isinstance(node, Call)]
    if dice.happens(0.15):
        recipe = replace(recipe, cancel_at=dice.chance.choice(reached))
    if dice.happens(0.2):
        recipe = replace(recipe, pause_at=dice.chance.choice(reached))
    return replace(recipe, is_resumed=dice.happens(0.5), is_undone=dice.happens(0.2))


def nodes_of(parts: tuple[Part, ...], *, only_taken: bool = False) -> Iterator[Member]:
    """Nodes of a flow, of a branch not taken too unless only those are wanted that are."""
    for part in parts:
        if isinstance(part, Together):
            yield from part.members
        elif isinstance(part, Each):
            yield part.node
        elif isinstance(part, Choice):
            for index, branch in enumerate(part.branches):
                if index == part.taken or not only_taken:
                    yield from nodes_of(branch, only_taken=only_taken)
        else:
            yield part


def parts_of(parts: tuple[Part, ...]) -> Iterator[Part]:
    """Parts of a flow, and those of its branches."""
    for part in parts:
        yield part
        if isinstance(part, Choice):
            for branch in part.branches:
                yield from parts_of(branch)


def flows_of(recipe: Recipe) -> Iterator[Recipe]:
    """The flow and those that it starts."""
    yield recipe
    for node in nodes_of(recipe.parts):
        if isinstance(node, Child):
            yield from flows_of(node.flow)


def mix(name: str, given: int) -> int:
    """What a function returns: it shows which node was called, with what."""
    return (given * 31 + zlib.crc32(name.encode())) % STEP


def climb(given: int) -> int:
    """What the function of a node that repeats returns."""
    return given + STEP


class Failed(Exception):
    """The run fails."""


def expected_result(recipe: Recipe, given: int, *, is_mended: bool) -> int | None:
    """Return the result of a run that nobody cancels, or None if it fails.

    Args:
        recipe: The flow.
        given: The run's input.
        is_mended: What fails for good does not any more.
    """
    try:
        _, last = _walk(recipe.parts, given, given % STEP, is_mended=is_mended)
    except Failed:
        return None
    return climb(given) if recipe.climbs else last


def _walk(parts: tuple[Part, ...], given: int, before: int, *, is_mended: bool) -> tuple[int, int]:
    """Return what the step behind the parts gets as its input, and the last output."""
    last = before
    for part in parts:
        if isinstance(part, Choice):
            before, last = _walk(part.branches[part.taken], given, before, is_mended=is_mended)
            continue
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
    if node.fault and not is_mended:
        return None
    return given + node.repeats * STEP if node.repeats else mix(node.name, given)


def _result_of(child: Child, given: int, *, is_mended: bool) -> int | None:
    result: int | None = given
    for _ in range(child.repeats or 1):
        result = None if result is None else expected_result(child.flow, result, is_mended=is_mended)
    return result


def answer_to(gate: Gate) -> int:
    """The value of a signal."""
    return len(gate.name) if gate.answer == "default" else mix(gate.name, 1)
