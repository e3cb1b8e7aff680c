"""Random flows on real workers: start them, be the world that they wait for, and check every run that has ended.

A `Play` is one run from the top and what was done to it. A `Stage` has all of them at once, and goes by the ledger: a
node's start is what a cancel or a pause comes at, so that a seed gives the same faults at the same places.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from orchestrator import ApprovalRefused, RunError, RunStatus, SignalRefused, StaleCallback
from orchestrator.store.keys import CHILD
from orchestrator.store.waiting_rows import KINDS
from tests import random_forks
from tests.harness import Ledger, await_children, lasting_keys, wait_until
from tests.invariants import check_run, look_at
from tests.random_checks import (
    Branch,
    check_branch,
    check_lanes,
    check_priorities,
    check_starts,
    check_undone,
    loses_outputs,
)
from tests.random_recipes import AT_ONCE, Gate, Recipe, flows_of, nodes_of, recipe_of
from tests.random_results import answer_to, expected_result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from orchestrator import FlowRun, Orchestrator, WaitingRow
    from orchestrator.store.run_store import Store

ENDED = {"succeeded", "failed", "cancelled", "compensation_failed"}
MOST_OF_ONE = 2
"""Runs of one flow that are the same customer's."""
POLL_S = 0.1
HELD_S = 0.3


@dataclass
class Play:
    """One run from the top.

    Attributes:
        recipe: Its flow.
        run: The run.
        given: Its input.
        customer: Whose it is.
        known: Of a fork, what it has taken over, see `expected_result`.
        flows: The recipes of its tree, by name.
        is_mended: What failed for good does not any more.
        was_mended: It was, since this run has begun.
        was_cancelled: It was, since it was started or taken up.
        first_line: Of the ledger, since it was started or taken up.
        verdicts: How it may end, if that is not what its recipe comes to.
        ends: How it has ended so far.
    """

    recipe: Recipe
    run: FlowRun
    given: int
    customer: str
    known: Mapping[str, int | None] = field(default_factory=dict)
    flows: dict[str, Recipe] = field(default_factory=dict)
    is_mended: bool = False
    was_mended: bool = False
    was_cancelled: bool = False
    was_undone: bool = False
    first_line: int = 0
    verdicts: set[str] = field(default_factory=set)
    ends: list[str] = field(default_factory=list)
    is_over: bool = False

    @property
    def natural(self) -> int | None:
        """The result, if nobody cancels the run."""
        return expected_result(self.recipe, self.given, is_mended=self.is_mended, known=self.known)

    @property
    def input(self) -> object:
        """What the run is given."""
        lane = self.recipe.lane
        return {"given": self.given, "customer": self.customer} if lane and lane.is_keyed else self.given

    def allowed(self) -> set[str]:
        """How it may end, but for compensations that fail."""
        if self.verdicts:
            return self.verdicts
        natural = {"failed" if self.natural is None else "succeeded"}
        return natural | ({"cancelled"} if self.was_cancelled or self.may_be_skipped() else set())

    def may_be_skipped(self) -> bool:
        """Whether it may have found its lane full; a run that is taken up again waits for its turn."""
        return self.recipe.lane is not None and self.recipe.lane.skips and not self.ends


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
        """Of each what happened, the run at the top, the run, the node and the rest."""
        self.roots: dict[str, str] = {}
        self.stuck: set[str] = set()
        self.held: dict[str, float] = {}
        self.answered: set[tuple[str, str, Any]] = set()
        self.at_node: set[tuple[str, str]] = set()
        self.seen: Counter[str] = Counter()
        self.wrong: list[AssertionError] = []
        self.plays: dict[str, Play] = {}
        for number in numbers:
            recipe = recipe_of(seed, number)
            for twin in range(1 + recipe.twins):
                self._start(recipe, number + 1000 * twin, "ann" if twin < MOST_OF_ONE else "bob")

    @property
    def store(self) -> Store:
        return self.orchestrator._engine.store

    def _start(self, recipe: Recipe, given: int, customer: str) -> None:
        lane = recipe.lane
        run = self.orchestrator.start(
            recipe.name,
            {"given": given, "customer": customer} if lane and lane.is_keyed else given,
            idempotency_key=f"{recipe.name} {given}",
            priority=recipe.priority,
            delay=timedelta(milliseconds=recipe.delay_ms) if recipe.delay_ms else None,
        )
        for gate in nodes_of(recipe.parts, only_taken=True):
            if isinstance(gate, Gate) and gate.answer == "early":
                with suppress(SignalRefused):  # the run has failed already
                    run.signal(gate.name, answer_to(gate), key=gate.name)
        self._follow(Play(recipe, run, given, customer))

    def _follow(self, play: Play) -> None:
        play.flows = {flow.name: flow for flow in flows_of(play.recipe)}
        self.plays[play.run.id] = play
        self._act(play, AT_ONCE)

    def _root_of(self, run_id: str) -> str:
        if run_id not in self.roots:
            self.roots[run_id] = self.store.run(run_id).fields.get("root", run_id)
        return self.roots[run_id]

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
            _, run_id, node, rest = text.split("|")
            root = self._root_of(run_id)
            self.lines.append((event, root, run_id, node, rest))
            if event == "stuck":
                self.stuck.add(run_id)
            elif event == "start" and (root, node) not in self.at_node:
                self.at_node.add((root, node))
                self._act(self.plays[root], node.partition("[")[0])

    def _act(self, play: Play, node: str) -> None:
        """Somebody acts on the run, when it was started or at the first start of a node."""
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
                play = self.plays[self._root_of(row.run_id)]
                with suppress(SignalRefused, ApprovalRefused, StaleCallback):  # it ends, in the same moment
                    self._answer_one(play, row)
                    self.seen[row.kind] += 1

    def _answer_one(self, play: Play, row: WaitingRow) -> None:
        if row.kind == "callback":
            value, _, callback = str(self.ledger.client.get(f"callback {row.run_id} {row.node}") or "").partition(" ")
            if value:
                self.orchestrator.complete(callback, int(value))
            return  # the others are overdue
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
            self._complain(play, tree, error)
            return
        if play.may_be_skipped() and status == "cancelled" and not play.was_cancelled:
            self.seen["skipped"] += 1
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
            self._fork(play, tree)

    def _complain(self, play: Play, tree: Branch, error: AssertionError) -> None:
        error.add_note(f"SEED={self.seed}, ends {play.ends}: {play}")
        for branch in tree.all():
            story = "\n".join(
                f"  {event.at_ms} {event.event} {event.node} {event.attempt} {event.detail}" for event in branch.events
            )
            error.add_note(f"run {branch.id} of {branch.recipe.name} is {branch.record.status}:\n{story}")
        error.add_note("\n".join(map(str, self._lines_of(play))))
        self.wrong.append(error)
        play.is_over = True

    def _fork(self, play: Play, tree: Branch) -> None:
        """Fork a run that is over, if its recipe says so; what it must come to is known by what it takes over."""
        if not play.recipe.forks:
            return
        chance = random.Random(f"{self.seed}/{play.recipe.name}/{play.given}/{play.recipe.forks}")
        try:
            made = random_forks.fork(self.store, play, tree, chance)
        except AssertionError as error:
            self._complain(play, tree, error)
            return
        self.seen["forked" if made else "fork-refused"] += 1
        if made:
            run, given, known = made
            recipe = replace(play.recipe, forks=play.recipe.forks - 1)
            self._follow(Play(recipe, run, given, play.customer, known, is_mended=play.is_mended))

    def _mend(self, play: Play) -> None:
        play.was_mended = play.was_mended or not play.is_mended
        play.is_mended = True
        self.ledger.client.set(f"mended {play.run.id}", 1)
        play.run.resume()

    def _read_tree(self, play: Play, run_id: str) -> Branch:
        record, store = self.store.run(run_id), self.store
        children = [self._read_tree(play, each) for each in store.children(run_id)]
        return Branch(record, play.flows[record.flow], store.nodes(run_id), store.history(run_id), children)

    def _lines_of(self, play: Play) -> list[tuple[str, ...]]:
        """What its nodes have written since it was started or taken up."""
        return [line for line in self.lines[play.first_line :] if line[1] == play.run.id]

    def _check(self, play: Play, tree: Branch) -> None:
        status = tree.record.status.value
        has_missed = any(
            record["state"] == "compensation_failed" for branch in tree.all() for record in branch.nodes.values()
        )
        assert status in play.allowed() - ({"succeeded"} if has_missed else set()) or (
            status == "compensation_failed" and has_missed
        ), f"it may end {play.allowed()}"
        if status == "succeeded" and (not play.was_mended or not loses_outputs(play.recipe)):
            assert play.run.result(int) == play.natural
        for branch in tree.all():
            check_branch(branch)
            assert branch.record.priority == play.recipe.priority, f"{branch.id} has another priority"
        check_undone(tree, self._lines_of(play))
        check_priorities(tree, self._lines_of(play))
        if self.is_calm:
            check_starts(tree, self.lines)
        self._check_invariants([tree])  # children are kept until the leader has seen to them

    def _check_invariants(self, branches: Iterable[Branch]) -> None:
        for branch in branches:
            plan = self.store.plan(branch.record.plan)
            assert plan is not None
            # Items, pages and iterations are too many for the history: of them it does not tell every start. Nor
            # does it tell that a run ends so because a child of it could not undo everything.
            owes = any(event.event == "run-compensation_failed" for child in branch.children for event in child.events)
            if not plan.maps and not any(node.paged for node in plan.nodes.values()) and not owes:
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
        trees = [self._read_tree(play, play.run.id) for play in self.plays.values()]
        for tree in trees:
            self._check_invariants(tree.all())
        check_lanes(branch for tree in trees for branch in tree.all())
