"""Random flows as data: what they are made of, and what fails in them.

`recipe_of(seed, number)` gives the same recipe in every process. `random_results.py` says what must come of it,
`programs/random_flows.py` builds the flows for the workers, and `random_runs.py` starts them, answers what they wait
for, forks them, and has `random_checks.py` look at how they end.
"""

from __future__ import annotations

import random
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
AT_ONCE = ":start"
"""Before any node has started."""
MOST_STUMBLES = 2


@dataclass(frozen=True)
class Call:
    """A node with a function.

    Attributes:
        name: The node.
        fails: Attempts, of each iteration, that fail before one succeeds.
        fault: How it fails for good until somebody mends it: "error", "terminal", "late" (its second attempt could not
            begin before its deadline), or "" for not at all; what nobody mends is "overdue": it waits for what does not
            come before its deadline.
        stands: Out of attempts it pauses, and fails until somebody helps.
        dies: Its first attempt ends with its process.
        undo: When its compensation is called: "succeeded", "started", or "" for never.
        undo_fault: The compensation fails for good until somebody mends it.
        repeats: Iterations; 0 for a node that does not repeat.
        pages: Pages that it fetches; 0 for a node that is not paginated.
        silent: Its first attempt reports how far it is, and then nothing any more until its time is over.
        has_deadline: It has one, which only what is "late" or "overdue" misses.
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
    pages: int = 0
    silent: bool = False
    has_deadline: bool = False
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
        is_timed: It has a timeout, which nothing misses.
    """

    name: str
    flow: Recipe
    is_remote: bool = False
    repeats: int = 0
    has_undo: bool = False
    is_timed: bool = False


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
class Lane:
    """How many runs of a flow may go on at once.

    Attributes:
        most: How many.
        skips: A further run is not queued, but ends at once.
        is_keyed: So many for each customer; the input says whose it is.
    """

    most: int
    skips: bool = False
    is_keyed: bool = False


@dataclass(frozen=True)
class Recipe:
    """A flow; its result is the output of its last node, which is a plain call.

    Attributes:
        name: The flow.
        parts: Its steps.
        is_fused: Steps run in one task.
        has_time: It has a time limit, which is never reached.
        climbs: Its result is its input and `STEP`, so that it can be repeated.
        lane: How many runs of it may go on at once; None for any number.
        stumbles: Of a flow that a node starts: how many runs fail, one after the other, before one comes to its end.
        cancel_at: Node at whose start the run is cancelled; `AT_ONCE` for before any, "" for never.
        pause_at: Node at whose start the run is paused for a while.
        is_resumed: If it does not succeed it is mended and resumed.
        is_undone: If it succeeds it is undone.
        priority: Of its messages; None for none.
        delay_ms: From its start to its beginning.
        twins: Further runs of it that are started with it.
        forks: How often it is forked, and the fork again, when it is over.
    """

    name: str
    parts: tuple[Part, ...]
    is_fused: bool = False
    has_time: bool = False
    climbs: bool = False
    lane: Lane | None = None
    stumbles: int = 0
    cancel_at: str = ""
    pause_at: str = ""
    is_resumed: bool = False
    is_undone: bool = False
    priority: int | None = None
    delay_ms: int = 0
    twins: int = 0
    forks: int = 0


class Dice:
    """Makes one recipe, and the recipes of the flows that it starts."""

    def __init__(self, seed: str, number: int) -> None:
        self.chance = random.Random(f"{seed}/{number}")
        self.base = f"random-{number}"
        self.flows = 0
        # A flow of which everything may fail hardly ever comes far: the share differs from flow to flow.
        self.faults = self.chance.choice((0.0, 0.0, 0.03, 0.08))
        self.names = 0
        self.stumbling = 0

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
        return Recipe(name, tuple(parts), is_fused, self.happens(0.2), climbs, self.lane(depth))

    def lane(self, depth: int) -> Lane | None:
        if not self.happens(0.1):
            return None
        # Whether a child finds its lane full is a matter of luck, and its parent fails then.
        skips = not depth and self.happens(0.3)
        return Lane(self.chance.randint(1, 2), skips, not depth and self.happens(0.5))

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
        if call.undo and self.happens(self.faults) and not self.stumbling:
            call = replace(call, undo_fault=True)  # a child that is not undone is not tried again
        call = replace(call, has_deadline=not is_plain and self.happens(0.1))
        if self.happens(self.faults):
            fault = self.chance.choice(("error", "terminal") if is_plain else ("error", "terminal", "late", "overdue"))
            return replace(call, fault=fault, has_deadline=call.has_deadline or fault in {"late", "overdue"})
        if self.happens(0.15):
            call = replace(call, fails=self.chance.randint(1, 2))
        elif self.happens(0.02) and not is_local:  # a local step loses what runs beside it too
            call = replace(call, dies=True)
        elif self.happens(0.02) and not is_local:
            call = replace(call, silent=True)
        if is_plain:
            return call
        if self.happens(0.05):
            return replace(call, stands=True, fails=0, dies=False, silent=False)
        if self.happens(0.12):
            return replace(call, defers=True)
        if self.happens(0.1):
            return replace(call, pages=self.chance.randint(1, 3), dies=False, silent=False)
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
        stumbles = self.chance.randint(1, MOST_STUMBLES) if self.happens(0.15) else 0
        self.stumbling += stumbles > 0
        flow = replace(self.recipe(depth + 1, climbs=count > 0), stumbles=stumbles)
        self.stumbling -= stumbles > 0
        return Child(self.name("child"), flow, self.happens(0.2), count, self.happens(0.2), self.happens(0.2))

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
    reached = [node.name for node in nodes_of(recipe.parts, only_taken=True) if isinstance(node, Call)] + [AT_ONCE]
    if dice.happens(0.15):
        recipe = replace(recipe, cancel_at=dice.chance.choice(reached))
    if dice.happens(0.2):
        recipe = replace(recipe, pause_at=dice.chance.choice(reached))
    recipe = replace(recipe, is_resumed=dice.happens(0.5), is_undone=dice.happens(0.2))
    if dice.happens(0.3):
        recipe = replace(recipe, priority=dice.chance.randrange(10))
    if dice.happens(0.15):
        recipe = replace(recipe, delay_ms=dice.chance.choice((1, 200)))
    twins = dice.chance.randint(1, 2) if recipe.lane else 0
    return replace(recipe, twins=twins, forks=dice.chance.randint(1, 2) if dice.happens(0.2) else 0)


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
