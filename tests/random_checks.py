"""Checks of random flows: what the record of every run of a tree must say once the tree has ended."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.random_recipes import Call, Child, flows_of, nodes_of, parts_of
from tests.random_results import mix

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orchestrator.store.history import Entry
    from orchestrator.store.run_store import RunRecord
    from tests.random_recipes import Member, Recipe

ENDED = {"succeeded", "failed", "cancelled", "compensation_failed"}
ENDS_OF_ATTEMPTS = {
    *("succeeded", "retrying", "lost", "timed-out", "failed", "unknown", "paused", "waits", "iteration", "skipped"),
    *("unannounced", "throttled", "page"),
}


@dataclass
class Branch:
    """A run of a tree, as it is stored."""

    record: RunRecord
    recipe: Recipe
    nodes: dict[str, dict[str, Any]]
    events: list[Entry]
    children: list[Branch]

    @property
    def id(self) -> str:
        return self.record.run_id

    @property
    def status(self) -> str:
        return self.record.status.value

    def all(self) -> Iterator[Branch]:
        yield self
        for child in self.children:
            yield from child.all()

    def member(self, node: str) -> Member:
        """The node, of an item the map's."""
        return next(each for each in nodes_of(self.recipe.parts) if each.name == node.partition("[")[0])

    def has_output(self, name: str) -> bool:
        return succeeded(self.nodes[name])

    def was_undone_from_above(self) -> bool:
        """Whether it had succeeded before its rollback, so that the saga of its parent has undone it."""
        told = [event.event for event in self.events]
        return "run-ending" in told and told[len(told) - 1 - told[::-1].index("run-ending") - 1] == "run-succeeded"


def succeeded(record: dict[str, Any]) -> bool:
    return "succeeded" in {record["state"], record.get("ended_as")}


UNDER_WAY = {"ready", "running", "parked", "waiting", "paused", "pending"}


def loses_outputs(recipe: Recipe) -> bool:
    """Whether a step goes on without an output that is there after mending: what stands behind it keeps its own."""
    return any(getattr(part, "goes_on", False) for flow in flows_of(recipe) for part in parts_of(flow.parts))


def check_branch(branch: Branch) -> None:
    """One run of a tree has ended as its root has, with nothing left of it."""
    status = branch.record.status.value
    assert status in ENDED, f"{branch.id} is {status}"
    left = {name: record["state"] for name, record in branch.nodes.items() if record["state"] in UNDER_WAY}
    assert not left, f"{branch.id} has ended with {left}"
    check_story(branch)
    check_begin(branch)
    for name, children in children_by_node(branch).items():
        member = branch.member(name)
        assert isinstance(member, Child)
        if status == "succeeded":
            has_output = name not in branch.nodes or branch.has_output(name)
            # Others were undone or have failed, and are followed by these.
            tries = [each for each in children[:-1] if not member.flow.stumbles or each.status != "failed"]
            for child in [*tries, children[-1]][-max(member.repeats, 1) :]:
                assert (child.status == "succeeded") == has_output, f"{child.id} of {name}"
        elif not member.has_undo:
            succeeded_ones = [child.id for child in children if child.status == "succeeded"]
            assert not succeeded_ones, f"{succeeded_ones} of {name} outlived the rollback"


def children_by_node(branch: Branch) -> dict[str, list[Branch]]:
    """The runs that each node has started, oldest first."""
    found: dict[str, list[Branch]] = defaultdict(list)
    for child in branch.children:
        found[child.record.fields["parent_node"]].append(child)
    return found


def check_begin(branch: Branch) -> None:
    """Nothing of a run with a delay happens before that is over."""
    acts = [event.at for event in branch.events if event.event in {"started", "waits"}]
    if begins := branch.record.fields.get("begins"):
        assert not acts or min(acts).timestamp() * 1000 >= float(begins), f"{branch.id} began too early"


def check_lanes(branches: Iterable[Branch]) -> None:
    """A run goes forward only where its lane has a place, and keeps it until it has ended."""
    lanes: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    most: dict[tuple[str, str], int] = {}
    for branch in branches:
        if (lane := branch.recipe.lane) is not None:
            name = branch.recipe.name, branch.record.fields["lane"]
            most[name] = lane.most
            lanes[name] += turns_of(branch)
    for name, turns in lanes.items():
        for begin, _ in turns:
            beside = [turn for turn in turns if turn[0] <= begin < turn[1]]
            assert len(beside) <= most[name], f"{beside} in {name}"


def turns_of(branch: Branch) -> Iterator[tuple[float, float]]:
    """From when to when a run went forward and had a place; a rollback takes one whether it is free or not."""
    begin: float | None = None
    has_acted = False
    for event in branch.events:
        at = event.at.timestamp()
        if event.event in {"run-started", "admitted", "resumed", "forked-from"}:
            begin, has_acted = at, False
        elif event.event in {"started", "waits"} and "undo" not in event.node:
            has_acted = True
        elif event.event.removeprefix("run-") in ENDED and begin is not None:
            if has_acted:
                yield begin, at
            begin = None


def check_story(branch: Branch) -> None:
    """Attempts follow each other, each with an end, and of each generation one result is stored."""
    running: set[str] = set()
    done: Counter[str] = Counter()
    for event in branch.events:
        if event.event == "started":
            assert event.node not in running, f"{event.node} of {branch.id} is started while it runs"
            running.add(event.node)
        elif event.event in ENDS_OF_ATTEMPTS:
            running.discard(event.node)
        done[event.node] += event.event == "succeeded"
    assert not running, f"{branch.id} has ended while {running} ran"
    has_succeeded = branch.record.status.value == "succeeded"
    for node in nodes_of(branch.recipe.parts):
        undo = f"undo-{node.name}" if not isinstance(node, Child) or node.has_undo else f"{node.name}.undo"
        is_undone = isinstance(node, Child) or (isinstance(node, Call) and node.undo)
        if is_undone and not getattr(node, "repeats", 0) and node.name in branch.nodes:
            record = branch.nodes[node.name]
            if record.get("inherited"):
                assert not done[node.name] + done[undo], f"{node.name} of {branch.id} was done before the fork"
                assert "compens" not in record["state"], f"{node.name} of {branch.id} is not its own to undo"
                continue
            is_stored = record["state"] in {"succeeded", "compensation_failed"} and succeeded(record)
            when = getattr(node, "undo", "succeeded")
            if when == "succeeded":
                assert done[node.name] - done[undo] == is_stored, f"{node.name} of {branch.id}: {done}"
            if not has_succeeded:
                assert record["state"] != "succeeded", f"{node.name} of {branch.id} is not undone"


def undone_by_saga(branch: Branch, lines: set[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    """Yield what the saga of a run undoes, in its order: the run, the node, and of an item the output."""
    undone = {name: record for name, record in branch.nodes.items() if "compens" in record["state"]}
    for name in sorted(undone, key=lambda each: undone[each]["seq"], reverse=True):
        member = branch.member(name)
        if isinstance(member, Child) and not member.has_undo:
            for child in reversed(branch.children):
                if child.record.fields["parent_node"] == name and child.was_undone_from_above():
                    yield from undone_by_saga(child, lines)
        elif (branch.id, member.name) in lines:
            item = name.partition("[")[2].rstrip("]")
            output = mix(member.name, int(item)) if succeeded(undone[name]) and item else None if item else ""
            yield branch.id, member.name, "" if isinstance(member, Child) else str(output)


def check_undone(tree: Branch, lines: list[tuple[str, ...]]) -> None:
    """Compensations were called for what was there, last completed first, over all runs that one saga undoes."""
    called = [(run_id, node, rest) for event, _, run_id, node, rest in lines if event == "undo"]
    sagas = [branch for branch in tree.all() if branch is tree or not branch.was_undone_from_above()]
    touched = {call[:2] for call in called}
    left = set(called)
    for branch in sagas:
        expected = without_repeats(undone_by_saga(branch, touched))
        mine = set(expected)
        found = without_repeats(call for call in called if call in mine)
        assert found == [call for call in expected if call in set(found)], (
            f"saga of {branch.id}: {found}, not {expected}"
        )
        left -= mine
    assert not left, f"{left} were undone by no saga"


def without_repeats(calls: Any) -> list[tuple[str, str, str]]:
    return list(dict.fromkeys(calls))


def check_starts(tree: Branch, lines: list[tuple[str, ...]]) -> None:
    """Where nobody is killed each start that the history tells of has called the function once."""
    called = Counter((run_id, node) for event, _, run_id, node, _ in lines if event == "start")
    pages = Counter((run_id, node) for event, _, run_id, node, _ in lines if event == "page")
    for branch in tree.all():
        told = Counter(event.node for event in branch.events if event.event == "started")
        for node in nodes_of(branch.recipe.parts):
            if isinstance(node, Call) and node.name in told and not node.repeats and not node.pages:
                assert called[branch.id, node.name] == told[node.name], f"{node.name} of {branch.id}"
            if isinstance(node, Call) and node.pages:
                stored = sum(event.event == "page" and event.node == node.name for event in branch.events)
                assert pages[branch.id, node.name] == stored, f"pages of {node.name} of {branch.id}"


def check_priorities(tree: Branch, lines: list[tuple[str, ...]]) -> None:
    """Every message of a tree has the priority of its root; in a fused run a node has not always one of its own."""
    fused = {branch.id for branch in tree.all() if branch.recipe.is_fused}
    found = {int(rest) for event, _, run_id, _, rest in lines if event == "start" and run_id not in fused}
    assert found <= {tree.record.priority or 0}, f"messages of {tree.id} have the priorities {found}"
