"""The scripts under every operation in any order: whatever clients, workers and reconcilers do, the invariants hold.

Hypothesis plays several runs at once on the real server and checks tests/invariants.py after every step; at the end
every run has to end. `make chaos` plays `TEST_MACHINE_EXAMPLES` games that are drawn anew, 200 if nothing is said.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from orchestrator.definition.step_plan import END
from tests.machine import FAR_MS, SHAPES, Player, check, finish, rewind, view_of
from tests.scripts_world import LEASE_MS, World, new_token
from tests.story import ENDED

if TYPE_CHECKING:
    from tests.invariants import RunView, View

GAMES, NEW_GAMES = 16, int(os.environ.get("TEST_MACHINE_EXAMPLES", "200"))
SETTINGS = settings(
    max_examples=GAMES,
    stateful_step_count=40,
    derandomize=True,
    database=None,
    deadline=None,
    print_blob=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
MOST_RUNS, MOST_RUNS_AND_FORKS = 3, 4
numbers = st.integers(0, 23)
"""Picks one of what there is, modulo how many there are, so that a choice never depends on the instant."""
holders = st.integers(1, 3)


class Machine(RuleBasedStateMachine):
    """Clients, workers and reconcilers, one operation at a time."""

    url: ClassVar[str]
    seen: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.url)
        self.players: list[Player] = []
        self.view: View | None = None

    # What there is to choose from.

    def player(self, number: int) -> Player:
        return self.players[number % len(self.players)]

    def run_view(self, player: Player) -> RunView:
        assert self.view is not None
        return self.view.runs[player.id]

    def one_of(self, player: Player, number: int, *states: str) -> tuple[str, dict[str, Any]] | None:
        """A node in one of the states, and its record."""
        run = self.run_view(player)
        names = sorted(run.in_state(*states))
        return (names[number % len(names)], run.nodes[names[number % len(names)]]) if names else None

    # Clients.

    @precondition(lambda self: len(self.players) < MOST_RUNS)
    @rule(shape=st.sampled_from(range(len(SHAPES))), singles=st.booleans(), key=st.booleans())
    def start(self, *, shape: int, singles: bool, key: bool) -> None:
        if not self.players and shape % 2:  # half of the games are played in portions
            self.world.use_small_portions()
        name = f"key-{len(self.players)}" if key else None
        run = self.world.run(SHAPES[shape], run_id=new_token(), key=name, chords=not singles)
        self.players.append(Player(run, singles, name, promised=set(run.started.work.names)))

    @precondition(lambda self: self.players)
    @rule(which=numbers, late=st.booleans())
    def end(self, *, which: int, late: bool) -> None:
        """A cancel, or the end of the run's time."""
        player = self.player(which)
        run = self.run_view(player)
        if run.has_ended or "verdict" in run.fields or (late and "deadline" not in run.fields):
            return
        if late:
            self.world.client.hset(self.world.keys.run(player.id), "deadline", 1)
        verdict = "failed" if late else "cancelled"
        assert player.promise(player.run.cancel(verdict=verdict, only_late=late)).outcome == "ending"
        with self.world.unchanged():
            assert player.run.cancel().outcome == "too late"

    @precondition(lambda self: self.view and any(run.status in ENDED[1:] for run in self.view.runs.values()))
    @rule(which=numbers)
    def resume(self, which: int) -> None:
        ended = [player for player in self.players if self.run_view(player).status in ENDED[1:]]
        player = ended[which % len(ended)]
        player.promised.clear()
        assert player.promise(player.run.resume()).outcome == "resumed"
        with self.world.unchanged():
            assert player.run.resume().outcome == "not ended"

    @precondition(lambda self: self.view and any(run.has_ended for run in self.view.runs.values()))
    @rule(which=numbers, pick=numbers, singles=st.booleans(), gives=st.booleans())
    def fork(self, *, which: int, pick: int, singles: bool, gives: bool) -> None:
        """A fork at any node, with outputs in place of those that are missing or were undone."""
        if len(self.players) >= MOST_RUNS_AND_FORKS:
            return
        ended = [player for player in self.players if self.run_view(player).has_ended]
        player = ended[which % len(ended)]
        names = [name for name, facts in player.plan.nodes.items() if not facts.undoes]
        at, records = sorted(names)[pick % len(names)], self.run_view(player).nodes
        lacking = [
            facts.key
            for facts in player.plan.nodes.values()
            if facts.key
            and facts.step < player.plan.nodes[at].step
            and records.get(facts.name, {}).get("state", "succeeded") != "succeeded"
        ]
        made = player.fork(at, singles=singles, given=dict.fromkeys(lacking, "given") if gives else {})
        self.seen["forked" if made else "not forked"] += 1
        if made:
            self.players.append(made)

    # Workers.

    def running(self, which: int, pick: int, holder: int) -> tuple[Player, str, dict[str, Any]] | None:
        """An attempt to end: one that runs, or else one of a node that is claimed for it."""
        player = self.player(which)
        found = self.one_of(player, pick, "running")
        if not found and self._claim(player, pick, holder):
            self.view = view_of(self.world, self.players)
            found = self.one_of(player, pick, "running")
        return (player, *found) if found else None

    @precondition(lambda self: self.players)
    @rule(which=numbers, pick=numbers, holder=holders)
    def claim(self, which: int, pick: int, holder: int) -> None:
        self._claim(self.player(which), pick, holder)

    def _claim(self, player: Player, pick: int, holder: int) -> bool:
        """Claim a node that is ready, or parked and due although nobody has woken it."""
        run = self.run_view(player)
        names = [name for name in sorted(player.plan.nodes) if self.refusal(run, name) is None]
        if not names:
            return False
        name = names[pick % len(names)]
        claimed = player.claim(name, new_token(), holder=f"w/{holder}")
        has_limits = bool(player.plan.nodes[name].limits)
        assert claimed.outcome == "run" or (has_limits and claimed.outcome == "parked"), (name, claimed.outcome)
        return claimed.outcome == "run"

    def refusal(self, run: RunView, name: str) -> str | None:
        """Why a node may not be claimed, or None if it may be, or if a bucket decides."""
        record = run.nodes.get(name)
        if record is None:
            return "done" if run.has_ended else "not ready"
        if record["state"] != "parked":
            return {"ready": None, "running": "held", "waiting": "held", "pending": "not ready"}.get(
                record["state"], "done"
            )
        assert self.view is not None
        if "bucket" in record:
            return "not ready" if f"{run.id}|{name}" in self.view.lines[record["bucket"]] else None
        return "not ready" if record["due"] > self.world.store.now_ms() + FAR_MS // 2 else None

    @precondition(lambda self: self.players)
    @rule(which=numbers, pick=numbers, holder=holders, choice=st.integers(0, 2), follows=st.booleans())
    def commit(self, *, which: int, pick: int, holder: int, choice: int, follows: bool) -> None:
        if not (found := self.running(which, pick, holder)):
            return
        player, name, record = found
        follows = follows and not player.singles
        player.commit(name, record["token"], choice=choice, follows=follows)
        with self.world.unchanged():
            again = player.run.commit(name, record["token"], b'"other"', choice=choice + 1, follows=follows)
        assert again.outcome == "stored"

    @precondition(lambda self: self.players)
    @rule(which=numbers, pick=numbers, holder=holders)
    def go_onward(self, which: int, pick: int, holder: int) -> None:
        if not (found := self.running(which, pick, holder)):
            return
        player, name, record = found
        plan, run = player.plan, self.run_view(player)
        step = plan.steps[plan.nodes[name].step]
        if name not in plan.fast_commits or step.next == END or plan.steps[step.next].nodes[0] not in plan.fast_commits:
            return
        goes_on = "verdict" not in run.fields  # by the fast path or by the library: of an ending run nothing begins
        assert player.go_onward(name, record["token"]) == goes_on
        self.seen["onward"] += goes_on
        with self.world.unchanged():
            assert not player.go_onward(name, record["token"])

    @precondition(lambda self: self.players)
    @rule(which=numbers, pick=numbers, choice=st.integers(0, 2), steps=st.integers(1, 8))
    def work(self, which: int, pick: int, choice: int, steps: int) -> None:
        """Several nodes one after the other, without a fault."""
        for _ in range(steps):
            if found := self.running(which, pick, 1):
                found[0].commit(found[1], found[2]["token"], choice=choice)
            self.view = view_of(self.world, self.players)

    @precondition(lambda self: self.players)
    @rule(
        which=numbers, pick=numbers, holder=holders, delay=st.sampled_from([-1, -1, 0, FAR_MS]), follows=st.booleans()
    )
    def fail(self, *, which: int, pick: int, holder: int, delay: int, follows: bool) -> None:
        if not (found := self.running(which, pick, holder)):
            return
        player, name, record = found
        facts, is_ending = player.plan.nodes[name], "verdict" in self.run_view(player).fields
        waits = delay >= 0 and record["attempt"] < facts.attempts and (not is_ending or facts.kind == "compensation")
        excused = facts.kind == "node" and not is_ending and player.plan.steps[facts.step].go_on
        follows = follows and not player.singles
        moved = player.promise(player.run.fail(name, record["token"], delay_ms=delay, follows=follows))
        assert moved.outcome == ("parked" if waits else "excused" if excused else "failed")
        with self.world.unchanged():
            again = player.run.fail(name, record["token"], delay_ms=FAR_MS, follows=follows)
        assert again.outcome == moved.outcome

    @precondition(lambda self: self.players)
    @rule(which=numbers, pick=numbers, holder=holders, lasts=st.sampled_from([0, FAR_MS]))
    def defer(self, *, which: int, pick: int, holder: int, lasts: int) -> None:
        found = self.running(which, pick, holder)
        if not found or found[0].plan.nodes[found[1]].kind != "node":
            return
        player, name, record = found
        is_ending = "verdict" in self.run_view(player).fields
        assert player.defer(name, record["token"], lasts).outcome == ("ended" if is_ending else "waiting")
        with self.world.unchanged():
            again = player.run.scripts.outside.wait(
                player.id, player.plan.hash, name, record["token"], waits="callback"
            )
        assert again.outcome == ("fenced" if is_ending else "waiting")

    @precondition(lambda self: self.players)
    @rule(which=numbers, pick=numbers, kindly=st.booleans())
    def answer(self, *, which: int, pick: int, kindly: bool) -> None:
        """Something comes from outside for a node that waits."""
        player = self.player(which)
        if found := self.one_of(player, pick, "waiting"):
            player.answer(*found, kindly=kindly)

    @precondition(lambda self: self.players)
    @rule(which=numbers)
    def send_early(self, which: int) -> None:
        """A signal that no gate waits for yet, or that is refused."""
        player = self.player(which)
        if "paid" in player.plan.signals:
            outside = player.run.scripts.outside
            sent = outside.send_signal(player.id, player.plan.hash, "paid", b'"sent"', is_checked=True, key="early")
            assert player.promise(sent).outcome in {"taken", "kept", "again", "no gate", "ending"}

    @precondition(lambda self: self.players)
    @rule(which=numbers, pick=numbers, holder=holders, late=st.booleans(), delay=st.sampled_from([0, 0, FAR_MS]))
    def lose(self, *, which: int, pick: int, holder: int, late: bool, delay: int) -> None:
        if not (found := self.running(which, pick, holder)):
            return
        player, name, record = found
        facts, is_ending = player.plan.nodes[name], "verdict" in self.run_view(player).fields
        again = record["attempt"] < facts.attempts and (not is_ending or facts.kind == "compensation")
        moved = player.promise(player.run.lose(name, record["token"], timed_out=late, delay_ms=delay))
        assert moved.outcome == (("parked" if delay else "again") if again else "ended")
        with self.world.unchanged():
            assert player.run.lose(name, record["token"]).outcome == "fenced"

    @precondition(lambda self: self.players)
    @rule(which=numbers, pick=numbers)
    def report(self, which: int, pick: int) -> None:
        player = self.player(which)
        found = self.one_of(player, pick, "running")
        if found:
            ending = "verdict" in self.run_view(player).fields
            assert player.run.report(found[0], found[1]["token"]).outcome == ("ending" if ending else "stored")

    # What comes twice, too early, too late or from somebody else.

    @precondition(lambda self: self.players)
    @rule(which=numbers, pick=numbers, epoch=st.sampled_from([-1, 1]))
    def say_what_changes_nothing(self, which: int, pick: int, epoch: int) -> None:
        player = self.player(which)
        run = self.run_view(player)
        has_verdict = run.has_ended or "verdict" in run.fields
        if has_verdict:
            assert player.run.cancel().outcome == "too late"  # which may drop the timer of the run's deadline
        with self.world.unchanged():
            self._start_again(player)
            self._claim_what_may_not_run(player, run, player.run.epoch + epoch)
            self._use_other_tokens(player, run, pick)
            if not run.has_ended or run.status == "succeeded":
                assert player.run.resume().outcome == "not ended"
            if has_verdict:
                assert player.run.cancel().outcome == "too late"
            elif "deadline" in run.fields:
                assert player.run.cancel(only_late=True).outcome == "too early"
            for position in (*range(len(player.plan.steps)), "saga"):
                assert player.run.announce(position, epoch=player.run.epoch + epoch).outcome == "nothing"
            assert player.run.republish(*player.plan.nodes, epoch=player.run.epoch + epoch).outcome == "nothing"

    def _start_again(self, player: Player) -> None:
        answers = [self.world.start(player.plan, run_id=player.id, input_json=b"2")]
        if player.key:
            answers.append(self.world.start(player.plan, key=player.key))
            assert self.world.start(player.plan, key=player.key, input_json=b"2").outcome == "conflict"
        assert {(answer.outcome, answer.run_id) for answer in answers} == {("exists", player.id)}

    def _claim_what_may_not_run(self, player: Player, run: RunView, other_epoch: int) -> None:
        for name in player.plan.nodes:
            assert player.run.claim(name, epoch=other_epoch).outcome == "old"
            if (expected := self.refusal(run, name)) is not None:
                assert player.run.claim(name).outcome == expected, (name, run.nodes.get(name))
            if (record := run.nodes.get(name, {})).get("state") == "running":
                again = player.run.claim(name, record["token"])
                assert (again.outcome, again.attempt) == ("run", record["attempt"])

    def _use_other_tokens(self, player: Player, run: RunView, pick: int) -> None:
        """Tokens of earlier attempts, of other nodes, and nobody's."""
        tokens = [token for _, token in player.tokens]
        for name in {name for name, _ in player.tokens[-1:] + player.tokens[pick::24]}:
            record = run.nodes.get(name, {})
            for token in {"nobody's", *tokens[-2:], *tokens[pick::24]} - {record.get("token")}:
                outcome = player.run.commit(name, token, b'"late"').outcome
                assert outcome == ("stored" if token == record.get("stored") else "fenced")
                outcome = player.run.fail(name, token, delay_ms=0).outcome
                assert outcome == (record["outcome"] if token == record.get("dropped") else "fenced")
                assert player.run.lose(name, token).outcome == "fenced"
                assert player.run.report(name, token).outcome == "fenced"

    # Messages and reconcilers.

    @precondition(lambda self: self.players)
    @rule(which=numbers)
    def announce(self, which: int) -> None:
        player = self.player(which)
        ready = self.run_view(player).in_state("ready")
        for position in (*range(len(player.plan.steps)), "saga"):
            first = player.run.announce(position)
            assert first.outcome == "nothing" or first.work.names[0] in ready
        with self.world.unchanged():
            for position in (*range(len(player.plan.steps)), "saga"):
                assert player.run.announce(position).outcome == "nothing"

    @precondition(lambda self: self.players)
    @rule(which=numbers)
    def republish(self, which: int) -> None:
        player = self.player(which)
        moved = player.run.republish(*player.plan.nodes)
        assert set(moved.work.names) <= set(self.run_view(player).in_state("ready"))
        with self.world.unchanged():
            assert player.run.republish(*player.plan.nodes).outcome == "nothing", "within its back-off"

    @precondition(lambda self: self.players)
    @rule(which=numbers, pick=numbers)
    def wake(self, which: int, pick: int) -> None:
        player = self.player(which)
        found = self.one_of(player, pick, "parked")
        if not found:
            return
        if self.refusal(self.run_view(player), found[0]) is None:
            assert player.promise(player.run.wake(found[0])).work.names == (found[0],)
        with self.world.unchanged():
            assert player.run.wake(found[0]).outcome == "asleep"

    @precondition(lambda self: self.players)
    @rule(passes=st.booleans(), wakes=st.sampled_from([True, True, False]))
    def fire(self, *, passes: bool, wakes: bool) -> None:
        """What the timers' loop does, after time has passed or not; without `wakes` it dies after the release."""
        assert self.view is not None
        for run in self.view.runs.values() if passes else []:
            rewind(self.world, run)
        _, members, _ = self.world.scripts.due_timers(at_most_ms=100, count=500)
        for bucket in self.view.lines:
            members += self.world.scripts.release(bucket)[1]
        for player in self.players if wakes else []:
            for member in members:
                run_id, _, name = member.partition("|")
                if run_id == player.id and name:
                    player.promise(player.run.wake(name))

    @precondition(lambda self: self.players)
    @rule(which=numbers)
    def look(self, which: int) -> None:
        player = self.player(which)
        ready = [seen.node for seen in player.run.look() if seen.kind == "ready"]
        assert set(ready) <= set(self.run_view(player).in_state("ready"))

    @precondition(lambda self: self.players)
    @rule(holder=holders, renews=st.booleans())
    def forget_or_renew(self, *, holder: int, renews: bool) -> None:
        name = f"w/{holder}"
        has_claims = bool(self.world.store.claims(name))
        if has_claims and renews:
            self.world.scripts.renew([name], lease_ms=LEASE_MS)
        else:
            assert self.world.scripts.forget_holder(name, only_late=False) == (not has_claims)
        self.world.scripts.sweep_tick(lease_ms=LEASE_MS)

    # What must hold.

    @invariant()
    def holds(self) -> None:
        if self.players:
            self.view = check(self.world, self.players)

    def teardown(self) -> None:
        try:
            if self.view is not None:
                self.seen.update(finish(self.world, self.players))
                for run in view_of(self.world, self.players).runs.values():
                    self.seen.update(event for event, *_ in run.events)
                self.seen["portions"] += sum(player.portions for player in self.players)
                self.world.check()
        finally:
            self.world.close()


def play(server, settings_of_games):
    """Play games and return what happened in them, by event."""
    played: Counter[str] = Counter()

    class Game(Machine):
        url = server.url
        seen = played

    run_state_machine_as_test(Game, settings=settings_of_games)
    return played


@pytest.mark.chaos_long
@pytest.mark.timeout(3600)
def test_the_invariants_hold_in_games_that_nobody_has_played_before(server):
    play(server, settings(SETTINGS, max_examples=NEW_GAMES, derandomize=False, phases=[Phase.generate, Phase.shrink]))


@pytest.mark.timeout(300)
def test_the_invariants_hold_whatever_is_done_in_whatever_order(server):
    played = play(server, SETTINGS)
    assert played["onward"]
    assert played["portions"]
    assert played["forked"] > 5
    assert not {"run-succeeded", "run-failed", "run-cancelled", "run-compensation_failed", "resumed"} - played.keys()
    assert (
        not {"lost", "timed-out", "retrying", "waiting", "skipped", "unknown", "woken", "republished"} - played.keys()
    )
