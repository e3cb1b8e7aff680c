"""Random flows on real workers: start them, be the world that they wait for, and check every run that has ended.

A `Play` is one run from the top and what was done to it. A `Stage` has all of them at once, and goes by the ledger: a
node's start is what a cancel or a pause comes at, so that a seed gives the same faults at the same places.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator import ApprovalRefused, RunError, RunStatus, SignalRefused, StaleCallback
from orchestrator.store.keys import CHILD
from orchestrator.store.waiting_rows import KINDS
from tests.harness import Ledger, await_children, lasting_keys, wait_until
from tests.invariants import check_run, look_at
from tests.random_recipes import (
    Call,
    Child,
    Gate,
    Member,
    Recipe,
    answer_to,
    expected_result,
    flows_of,
    mix,
    nodes_of,
    parts_of,
    recipe_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from orchestrator import FlowRun, Orchestrator, WaitingRow
    from orchestrator.store.history import Entry
    from orchestrator.store.run_store import RunRecord, Store

ENDED = {"succeeded", "failed", "cancelled", "compensation_failed"}
ENDS_OF_ATTEMPTS = {
    *("succeeded", "retrying", "lost", "timed-out", "failed", "unknown", "paused", "waits", "iteration", "skipped"),
    *("unannounced", "throttled"),
}
POLL_S = 0.1
HELD_S = 0.3


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


@dataclass
class Play:
    """One run from the top.

    Attributes:
        recipe: Its flow.
        run: The run.
        given: Its input.
        flows: The recipes of its tree, by name.
        allowed: How it may end.
        is_mended: What failed for good does not any more.
        was_cancelled: It was, since it was started or taken up.
        first_line: Of the ledger, since it was started or taken up.
        ends: How it has ended so far.
    """

    recipe: Recipe
    run: FlowRun
    given: int
    flows: dict[str, Recipe]
    is_mended: bool = False
    was_cancelled: bool = False
    was_undone: bool = False
    first_line: int = 0
    verdicts: set[str] = field(default_factory=set)
    ends: list[str] = field(default_factory=list)
    is_over: bool = False

    @property
    def natural(self) -> int | None:
        """The result, if nobody cancels the run."""
        return expected_result(self.recipe, self.given, is_mended=self.is_mended)

    def allowed(self) -> set[str]:
        """How it may end, but for compensations that fail."""
        if self.verdicts:
            return self.verdicts
        return {"failed" if self.natural is None else "succeeded"} | ({"cancelled"} if self.was_cancelled else set())


class Stage:
    """All runs of a seed.

    Args:
        orchestrator: A client without their code.
        ledger: What their nodes write.
        seed: Of the recipes.
        numbers: Of the recipes.
        is_calm: No process is killed but by recipes, so that each start is one attempt.
    """

    def __init__(
        self, orchestrator: Orchestrator, ledger: Ledger, *, seed: str, numbers: range, is_calm: bool = True
    ) -> None:
        self.orchestrator = orchestrator
        self.ledger = ledger
        self.seed = seed
        self.is_calm = is_calm
        self.lines: list[tuple[str, ...]] = []
        self.stuck: set[str] = set()
        self.held: dict[str, float] = {}
        self.answered: set[tuple[str, str, Any]] = set()
        self.at_node: set[tuple[str, str]] = set()
        self.seen: Counter[str] = Counter()
        self.wrong: list[AssertionError] = []
        self.plays = {
            recipe.name: self._start(number, recipe) for number in numbers for recipe in [recipe_of(seed, number)]
        }
        self.by_flow = {flow: play for play in self.plays.values() for flow in play.flows}

    @property
    def store(self) -> Store:
        return self.orchestrator._engine.store

    def _start(self, number: int, recipe: Recipe) -> Play:
        run = self.orchestrator.start(recipe.name, number, idempotency_key=recipe.name)
        for gate in nodes_of(recipe.parts, only_taken=True):
            if isinstance(gate, Gate) and gate.answer == "early":
                with suppress(SignalRefused):  # the run has failed already
                    run.signal(gate.name, answer_to(gate), key=gate.name)
        return Play(recipe, run, number, {flow.name: flow for flow in flows_of(recipe)})

    # What the world does.

    def play(self, *, timeout: float, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Answer and disturb until every run has ended as often as it is to; each end is checked."""
        deadline = time.monotonic() + timeout
        while left := [play for play in self.plays.values() if not play.is_over]:
            assert time.monotonic() < deadline, f"SEED={self.seed}: no end of {self._told(left)}"
            meanwhile()
            self._read_ledger()
            self._answer()
            self._go_on()
            standings = self.store.standings([play.run.id for play in left])
            for play in left:
                standing: Any = standings[play.run.id]
                if standing.status.value in ENDED:
                    self._end(play, standing.status.value)
            time.sleep(POLL_S)
        if self.wrong:
            raise ExceptionGroup(f"SEED={self.seed}: {len(self.wrong)} of {len(self.plays)} runs", self.wrong)

    def _told(self, plays: list[Play]) -> str:
        return "\n".join(
            f"{play.recipe.name} {play.run.id} {play.run.status}: {[each.reason for each in play.run.explain()]}"
            for play in plays[:5]
        )

    def _read_ledger(self) -> None:
        for event, text, _, _ in self.ledger.lines(len(self.lines)):
            flow, run_id, node, rest = text.split("|")
            self.lines.append((event, flow, run_id, node, rest))
            play = self.by_flow[flow]
            if event == "stuck":
                self.stuck.add(run_id)
            elif event == "start" and (flow, node) not in self.at_node:
                self.at_node.add((flow, node))
                self._act(play, node.partition("[")[0])

    def _act(self, play: Play, node: str) -> None:
        """Somebody acts on the run, at the first start of a node."""
        if node == play.recipe.pause_at:
            with suppress(RunError):  # it is ending, or has ended meanwhile
                play.run.pause("somebody has to look")
                self.held[play.run.id] = time.monotonic() + HELD_S
                self.seen["held"] += 1
        if node == play.recipe.cancel_at:
            play.was_cancelled = True
            play.run.cancel("chance")

    def _go_on(self) -> None:
        for run_id in list(self.stuck):
            standing = self.store.standing(run_id)
            if standing.status.value in ENDED:
                self.stuck.discard(run_id)
            elif standing.status is RunStatus.PAUSED:
                self.ledger.client.set(f"helped {run_id}", 1)
                self._resume(run_id)
                self.seen["helped"] += 1
        for run_id in [each for each, until in self.held.items() if until < time.monotonic()]:
            del self.held[run_id]
            self._resume(run_id)

    def _resume(self, run_id: str) -> None:
        run = self.orchestrator.get(run_id)
        if run.status is RunStatus.PAUSED:
            with suppress(RunError):  # it was cancelled, or goes on already
                run.resume()

    def _answer(self) -> None:
        for row in self.orchestrator.waiting():
            asked = (row.run_id, row.node, row.since)
            if asked not in self.answered:
                self.answered.add(asked)
                play = self.by_flow[row.flow]
                with suppress(SignalRefused, ApprovalRefused, StaleCallback):  # it ends, in the same moment
                    self._answer_one(play, row)
                    self.seen[row.kind] += 1

    def _answer_one(self, play: Play, row: WaitingRow) -> None:
        if row.kind == "callback":
            value, _, callback = str(self.ledger.client.get(f"callback {row.run_id} {row.node}")).partition(" ")
            self.orchestrator.complete(callback, int(value))
            return
        gate = next(each for each in nodes_of(play.flows[row.flow].parts) if each.name == row.node)
        assert isinstance(gate, Gate)
        run = self.orchestrator.get(row.run_id)
        if row.kind == "approval":
            if gate.answer == "no" and not play.is_mended:
                run.reject(gate.name, by="ann", reason="chance")
                return
            for person in range(gate.quorum):
                run.approve(gate.name, by=f"person-{person}")
        elif gate.answer in {"early", "late"}:
            for _ in range(2):  # as a webhook that is delivered twice
                run.signal(gate.name, answer_to(gate), key=f"again {len(self.answered)}")

    # What is checked.

    def _end(self, play: Play, status: str) -> None:
        """Check a run that has ended, and do with it what is to follow."""
        self._read_ledger()
        tree = self._read_tree(play, play.run.id)
        try:
            self._check(play, tree)
        except AssertionError as error:
            error.add_note(f"SEED={self.seed}, flow {play.recipe.name}, ends {play.ends}, now {status}: {play.recipe}")
            for branch in tree.all():
                story = "\n".join(
                    f"  {event.event} {event.node} {event.attempt} {event.detail}" for event in branch.events
                )
                error.add_note(f"run {branch.id} of {branch.recipe.name} is {branch.record.status}:\n{story}")
            error.add_note("\n".join(map(str, self._lines_of(play))))
            self.wrong.append(error)
            play.is_over = True
            return
        play.ends.append(status)
        self.seen[status] += 1
        play.was_cancelled, play.first_line = False, len(self.lines)
        if status == "compensation_failed":
            play.verdicts = play.verdicts or (play.allowed() | {"cancelled"}) - {"succeeded"}
            self._mend(play)
        elif status == "succeeded" and play.recipe.is_undone and not play.was_undone:
            play.verdicts, play.was_undone = {"cancelled"}, True
            play.run.undo("chance")
        elif (
            status in {"failed", "cancelled"} and play.recipe.is_resumed and not play.was_undone and len(play.ends) < 4
        ):
            play.verdicts = set()
            self._mend(play)
        else:
            play.is_over = True

    def _mend(self, play: Play) -> None:
        play.is_mended = True
        self.ledger.client.set(f"mended {play.recipe.name}", 1)
        play.run.resume()

    def _read_tree(self, play: Play, run_id: str) -> Branch:
        record, store = self.store.run(run_id), self.store
        children = [self._read_tree(play, each) for each in store.children(run_id)]
        return Branch(record, play.flows[record.flow], store.nodes(run_id), store.history(run_id), children)

    def _lines_of(self, play: Play) -> list[tuple[str, ...]]:
        """What its nodes have written since it was started or taken up."""
        return [line for line in self.lines[play.first_line :] if line[1] in play.flows]

    def _check(self, play: Play, tree: Branch) -> None:
        status = tree.record.status.value
        has_missed = any(
            record["state"] == "compensation_failed" for branch in tree.all() for record in branch.nodes.values()
        )
        assert status in play.allowed() - ({"succeeded"} if has_missed else set()) or (
            status == "compensation_failed" and has_missed
        ), f"it may end {play.allowed()}"
        if status == "succeeded" and (not play.is_mended or not loses_outputs(play.recipe)):
            assert play.run.result(int) == play.natural
        for branch in tree.all():
            self._check_branch(branch, is_root_succeeded=status == "succeeded")
        check_undone(tree, self._lines_of(play))
        if self.is_calm:
            check_starts(tree, self.lines)
        self._check_invariants([tree])  # children are kept until the leader has seen to them

    def _check_branch(self, branch: Branch, *, is_root_succeeded: bool) -> None:
        """One run of the tree has ended as its root has, with nothing left of it."""
        status = branch.record.status.value
        assert status in ENDED, f"{branch.id} is {status}"
        left = {name: record["state"] for name, record in branch.nodes.items() if record["state"] in UNDER_WAY}
        assert not left, f"{branch.id} has ended with {left}"
        check_story(branch)
        for child in branch.children:
            name = child.record.fields["parent_node"]
            member = branch.member(name)
            assert isinstance(member, Child)
            if status == "succeeded":
                mine = [each for each in branch.children if each.record.fields["parent_node"] == name]
                if child in mine[-max(member.repeats, 1) :]:  # the others were undone, and are followed by these
                    has_output = name not in branch.nodes or branch.has_output(name)
                    assert (child.record.status.value == "succeeded") == has_output, f"{child.id} of {name}"
            elif not member.has_undo:
                assert child.record.status.value != "succeeded", f"{child.id} of {name} outlived the rollback"

    def _check_invariants(self, branches: Iterable[Branch]) -> None:
        for branch in branches:
            plan = self.store.plan(branch.record.plan)
            assert plan is not None
            # Items, pages and iterations are too many for the history: of them it does not tell every start.
            if not plan.maps and not any(node.paged for node in plan.nodes.values()):
                view = look_at(self.store, {branch.id: plan})
                check_run(view, view.runs[branch.id])

    def check_nothing_left(self) -> None:
        """Every key of an ended run has a TTL, and no index, timer, claim or line holds anything of one."""
        client, keys = self.store.client, self.store.keys
        wait_until(lambda: not client.zcard(keys.live), "no run is live")
        await_children(client)
        assert lasting_keys(client, "orchestrator:run:*") == {}
        wait_until(lambda: not client.zcard(keys.timers), "no timer is left")
        wait_until(lambda: not list(client.scan_iter("orchestrator:holders:*")), "no claims are left")
        indexes = [keys.by_status(family + group) for family in ("", CHILD) for group in ("open", "paused")]
        for name in (*indexes, *map(keys.waiting, KINDS), keys.bucket("random-api")[1]):
            assert client.zcard(name) == 0, name
        for name in client.scan_iter(keys.plan("*")):
            assert int(client.hget(name, "live") or 0) == 0, name
        for play in self.plays.values():
            self._check_invariants(self._read_tree(play, play.run.id).all())


UNDER_WAY = {"ready", "running", "parked", "waiting", "paused", "pending"}


def loses_outputs(recipe: Recipe) -> bool:
    """Whether a step goes on without an output that is there after mending: what stands behind it keeps its own."""
    return any(getattr(part, "goes_on", False) for flow in flows_of(recipe) for part in parts_of(flow.parts))


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
    for branch in tree.all():
        told = Counter(event.node for event in branch.events if event.event == "started")
        for node in nodes_of(branch.recipe.parts):
            if isinstance(node, Call) and node.name in told and not node.repeats:
                assert called[branch.id, node.name] == told[node.name], f"{node.name} of {branch.id}"
