"""Fast paths of the scripts: in any game they store, push and answer what the library of the transitions would.

Hypothesis plays the same runs under two prefixes, with and without the fast paths, and compares everything after each
step. `TEST_TWINS_EXAMPLES` plays that many games with new seeds instead of the fixed ones.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from functools import partial
from operator import methodcaller
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from orchestrator.definition.plan import node_of
from orchestrator.definition.step_plan import END
from orchestrator.store.scripts.assembly import script_text
from orchestrator.store.scripts.commit_and_claim import Claim, Commit
from orchestrator.store.scripts.results import PageEnd
from tests.scripts_world import FAILURE, HOLDER, LEASE_MS, fan_plan, line_plan, new_token
from tests.twins import BUCKETS, PLANS, Twins, fast_text, same_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.store.scripts.results import Claimed, Moved
    from tests.scripts_world import Run, World
    from tests.twins import Pair

    Answers = tuple[list[Moved], list[Claimed]]

EXAMPLES = int(os.environ.get("TEST_TWINS_EXAMPLES", "0"))
SETTINGS = settings(
    max_examples=EXAMPLES or 10,
    stateful_step_count=40,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    print_blob=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
AT_ONCE = 32
HOLDERS = (HOLDER, HOLDER, HOLDER, "worker/2")
STALE = "0" * 32
HOWS = ("goes on", "goes on", "goes on", "celery", "message", "alone")
DISTURBANCES = (*["fail"] * 3, "throttle", "lose", *["admit"] * 2, "report", "ask", *["repeat"] * 2, "cancel", "resume")
STEPS = (*["work"] * 7, *["commit"] * 3, *["claim"] * 2, *["disturb"] * 6, *["reconcile"] * 2, "start")
WEIGHTS = (5, 4, 8, 4, 2, 2, 2, *[1] * (len(PLANS) - 7))
ENDED = {"failed", "cancelled", "compensation_failed"}


def release(world: World, *, bucket: str) -> list[str]:
    return world.scripts.release(bucket)[1]


class Machine(RuleBasedStateMachine):
    """Clients, workers and reconcilers of the same runs in two worlds."""

    url: ClassVar[str]
    seen: ClassVar[Counter[str]]
    change: ClassVar[Callable[[str], str]]

    def __init__(self) -> None:
        super().__init__()
        self.twins = Twins(self.url, type(self).change)
        self.last: Callable[[], Any] | None = None
        self.chance = Random(0)

    def one_of(self, pair: Pair, *states: str) -> tuple[str, dict[str, Any]] | None:
        """A node in one of the states, and its record."""
        found = list(self.twins.nodes(pair, *states).items())
        return self.chance.choice(found) if found else None

    def do(self, call: Callable[[], Any]) -> Any:
        """Make a call, which a client whose answer was lost makes again."""
        self.last = call
        answer = call()
        self.twins.compare()
        return answer

    @initialize(seed=st.integers(0, 2**62))
    def begin(self, seed: int) -> None:
        """Let chance play: of rules with choices of their own, hypothesis makes games in which nothing gets on."""
        self.chance = Random(seed)
        self._start()

    @rule()
    def play(self) -> None:
        """Make one step."""
        step, pair = self.chance.choice(STEPS), self.chance.choice(self.twins.runs)
        status = self.twins.fields(pair)["status"]
        self.seen[status] += 1
        if step == "start" or status == "succeeded":
            self._start()
        elif status in ENDED and self.chance.random() < 0.7:
            self._resume(pair)
        else:
            getattr(self, f"_{step}")(pair)

    def _start(self) -> None:
        if len(self.twins.runs) < 3:
            (plan,) = self.chance.choices(PLANS, WEIGHTS)
            key = self.chance.choice([None, f"key-{len(self.twins.runs)}"])
            scheduled = self.chance.choice([None, 1])
            self.twins.start(plan, chords=self.chance.random() < 0.5, key=key, scheduled_ms=scheduled)
            self.twins.compare()

    # Workers.

    def _claim(self, pair: Pair) -> None:
        """Claim something that is ready, else whatever the plan has."""
        found = self.one_of(pair, "ready", "parked")
        name = found[0] if found else self.chance.choice(list(pair.plan.nodes))
        sleeps, is_late = self.chance.random() < 0.5, self.chance.random() < 0.1
        self._claim_node(pair, name, holder=self.chance.choice(HOLDERS), may_sleep=sleeps, is_late=is_late)

    def _commit(self, pair: Pair) -> None:
        """Store what nodes returned, and go on with what is behind them or leave it to others."""
        if found := self.one_of(pair, "running"):
            self._commit_node(pair, *found, how=self.chance.choice(HOWS), stale=self.chance.random() < 0.1)

    def _work(self, pair: Pair) -> None:
        """Make several nodes one after the other."""
        how = self.chance.choice(HOWS)
        for _ in range(self.chance.randrange(2, 8)):
            if found := self.one_of(pair, "running"):
                self._commit_node(pair, *found, how=how)
            elif found := self.one_of(pair, "ready"):
                self._claim_node(pair, found[0])
            elif self.twins.fields(pair)["status"] == "running" and (node := self._map(pair)):
                self._claim_node(pair, node)

    def _disturb(self, pair: Pair) -> None:
        """Do what is not on the way to the end of a run."""
        what, delay = self.chance.choice(DISTURBANCES), self.chance.choice([-1, -1, -1, 0, 5, 10**9])
        if what in {"cancel", "resume"}:
            getattr(self, f"_{what}")(pair)
        elif what == "repeat" and self.last is not None:
            self.do(self.last)
        elif what != "repeat" and (found := self.one_of(pair, "running")):
            getattr(self, f"_{what}")(pair, found[0], found[1]["token"], delay)

    def _map(self, pair: Pair) -> str:
        """The node of the map that a run stands at; empty if it stands at none."""
        step = pair.plan.steps[int(self.twins.fields(pair)["position"])]
        return step.nodes[0] if step.kind == "map" else ""

    def _claim_node(
        self, pair: Pair, name: str, *, holder: str = HOLDER, may_sleep: bool = False, is_late: bool = False
    ) -> None:
        is_item = pair.plan.nodes[node_of(name)].kind == "item"
        reads = () if is_item else (":input", *[key for key in ("a", "b", "none") if key != name])
        claim, epoch = Claim(node_of(name) if is_item else name, new_token(), reads), pair.slow.epoch - is_late

        def ask(run: Run) -> Claimed:
            return run.scripts.claim(
                run.id, run.plan, claim, epoch=epoch, holder=holder, lease_ms=LEASE_MS, may_sleep=may_sleep
            )

        self.do(lambda: self.twins.on(pair, ask))

    def _commit_node(self, pair: Pair, name: str, record: dict[str, Any], *, how: str, stale: bool = False) -> None:
        count, choice = self.chance.randrange(1, 4), self.chance.randrange(3)
        plan, node = pair.plan, pair.plan.nodes[node_of(name)]
        step = plan.steps[node.step]
        running = {each: row for each, row in self.twins.nodes(pair, "running").items() if node_of(each) in step.nodes}
        together = [name, *[each for each in running if each != name][: count - 1]] if step.local else [name]
        rows = {**running, name: record}
        commits = [self._commit_of(pair, each, rows[each], choice, stale=stale) for each in together]
        follower = plan.next_position(node, commits[0].choice)
        behind = step.next if step.local else follower
        claims: list[Claim] = []
        message = ""
        if how == "goes on" and node.kind != "compensation":
            names = () if behind == END else plan.steps[behind].nodes[:AT_ONCE]
            if node.kind == "item" or commits[0].has_more:
                names = (node.name,)
            claims = [Claim(each, new_token(), () if node.kind == "item" else (":input", node.key)) for each in names]
        elif how == "message" and follower != END and plan.steps[follower].rules.is_single:
            message = plan.steps[follower].nodes[0]
        epoch, holder, follows = pair.slow.epoch, record["holder"], bool(claims) or how == "celery"

        def send(run: Run) -> Answers:
            queue = f"{run.world.prefix}:queue"
            pushed = (message, queue, "made since @since@") if message else ("", "", "")
            options = {"epoch": epoch, "holder": holder, "lease_ms": LEASE_MS, "follows": follows, "message": pushed}
            return run.scripts.commit_and_claim(run.id, run.plan, commits, claims, **options)

        self.do(lambda: (self.twins.on(pair, send), self.twins.pushed()))

    def _commit_of(self, pair: Pair, name: str, record: dict[str, Any], choice: int, *, stale: bool) -> Commit:
        plan, node = pair.plan, pair.plan.nodes[node_of(name)]
        token = STALE if stale else record["token"]
        if node.paged:
            return Commit(name, token, b"[1]", page=PageEnd(1, json.dumps(f"c{choice}")), has_more=choice > 0)
        if node.kind == "expand":
            for run in (pair.fast, pair.slow):
                run.world.store.stage_items(pair.id, token, [b"0", b"1", b"2"][: choice + 1])
            return Commit(name, token, choice=choice + 1)
        ways = len(plan.steps[node.step].branches)
        output = json.dumps([name, choice]).encode() if node.key else b""
        return Commit(name, token, output, choice % ways if node.kind == "branch" else None)

    def _cancel(self, pair: Pair) -> None:
        self.do(lambda: self.twins.on(pair, lambda run: run.cancel()))

    def _resume(self, pair: Pair) -> None:
        token = new_token()
        moved = self.do(lambda: self.twins.on(pair, lambda run: run.scripts.resume(run.id, run.plan.hash, token=token)))
        if moved.outcome == "resumed":
            pair.fast.epoch = pair.slow.epoch = pair.slow.epoch + 1
            self.seen["resumed"] += 1

    def _fail(self, pair: Pair, name: str, token: str, delay: int, most: int | None = None) -> None:
        def fail(run: Run) -> Moved:
            options: Any = {"failure": FAILURE, "delay_ms": delay, "follows": delay == 0, "max_throttle_ms": most}
            return run.scripts.fail(run.id, run.plan.hash, name, token, **options)

        self.do(lambda: self.twins.on(pair, fail))

    def _throttle(self, pair: Pair, name: str, token: str, delay: int) -> None:
        """The other side tells the whole fleet to wait."""
        self._fail(pair, name, token, abs(delay), 10**10)

    def _lose(self, pair: Pair, name: str, token: str, delay: int) -> None:
        self.do(
            lambda: self.twins.on(pair, lambda run: run.lose(name, token, timed_out=delay > 0, delay_ms=max(delay, 0)))
        )

    def _admit(self, pair: Pair, name: str, token: str, delay: int) -> None:
        self.do(lambda: self.twins.on(pair, lambda run: run.admit(name, token, BUCKETS[delay % 2])))

    def _report(self, pair: Pair, name: str, token: str, delay: int) -> None:
        self.twins.on(pair, lambda run: run.report(name, token, str(delay)))

    def _ask(self, pair: Pair, name: str, token: str, _delay: int) -> None:
        self.twins.on(pair, lambda run: run.scripts.take_token(run.id, run.plan.hash, name, token, "calls"))

    def _reconcile(self, pair: Pair) -> None:
        """Time passes; what is due is woken, what is missing is published."""
        self.twins.pass_time(self.chance.choice([0, 20, 1100, 70_000, 10**7]))
        _, members = self.twins.both(lambda world: world.scripts.due_timers(at_most_ms=100, count=500)[:2])
        members = list(members)
        for bucket in {*pair.plan.limits, *(BUCKETS if pair.plan.keyed else ())}:
            members += self.twins.both(partial(release, bucket=bucket))
        for member in members:
            run_id, _, node = member.partition("|")
            for each in self.twins.runs if node else ():
                if each.id == run_id:
                    self.twins.on(each, methodcaller("wake", node))
        self.twins.on(pair, methodcaller("look"))
        for position in (*range(len(pair.plan.steps)), "saga"):
            self.twins.on(pair, methodcaller("announce", position))
        self.twins.on(pair, lambda run: run.republish(*run.plan.nodes))
        self.twins.compare()

    def teardown(self) -> None:
        try:
            self.seen.update(self.twins.counted())
        finally:
            self.twins.close()


def play(server: Any, change_text: Callable[[str], str] = same_text, **options: Any) -> Counter[str]:
    """Play games; returns what happened in them."""
    played: Counter[str] = Counter()

    class Game(Machine):
        url = server.url
        seen = played

    Game.change = staticmethod(change_text)
    run_state_machine_as_test(Game, settings=settings(SETTINGS, **options))
    return played


@pytest.mark.timeout(3600 if EXAMPLES else 240)
def test_a_fast_path_does_what_the_library_does(server):
    played = play(server)
    assert not {"succeeded", "failed", "cancelled", "compensating", "resumed"} - played.keys(), played
    for kind in ("claim", "commit", "commit and claim", "several", "items"):
        assert played[f"fast {kind}"], (kind, played)
        assert played[f"slow {kind}"], (kind, played)


FAULTS = {
    "another token": ("rec.token ~= token or ", ""),
    "a second attempt": ("or rec.attempt ~= 1 ", ""),
    "an attempt that was held back": ("or rec.attempt ~= 1 or rec.throttled", "or rec.attempt ~= 1"),
    "another epoch": ("own_epoch ~= epoch or ", ""),
    "a run that is resumed": ("or epoch ~= '1' then", "then"),
    "a run that is ending": ("status ~= 'running' and status ~= 'pending' or ", ""),
    "another position": ("at ~= position or ", ""),
    "members that failed": ("won + commits ~= tonumber(size) or ", ""),
    "another holder": (" or rec.holder ~= (owner or rec.holder)", ""),
    "a node that waits for a token": ("rec.arrived or ", ""),
    "items to be repeated": ("or redis.call('EXISTS', RUN .. ':again') == 1", ""),
    "the last item": ("tonumber(open) < 2 or ", ""),
    "the width of a map": ("or tonumber(running) > tonumber(size) ", ""),
    "the order of commits": ("seq + number", "seq + 1"),
    "the claim that ends": ("redis.call('HDEL', HOLDERS .. ':' .. owner, unpack(closed))", ""),
    "the lease of a holder": ("redis.call('ZADD', HOLDERS, 'NX', NOW + lease, holder)", ""),
    "whether it is published": ("continues and '-1' or behind", "behind"),
    "whether the store joins": ("local mode = fast_path == 'local' and '1' or '0'", "local mode = '0'"),
    "the status in the index": (
        "local before, after = 'pending', 'running'",
        "local before, after = 'running', 'running'",
    ),
    "the message": ("push(KEYS[17], string.sub(message, #message_node + 2))", ""),
    "the next look": ("redis.call('ZADD', LIVE, NOW + 1000, RUN_ID)", "redis.call('ZADD', LIVE, NOW + 2000, RUN_ID)"),
    "the number of those that run": ("running - commits + begun", "running - commits"),
    "the values": ("sizes[number] = value and #value or -1", "sizes[number] = value and #value or 0"),
}


@pytest.mark.chaos_long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_fast_path_is_found(server, fault):
    right, wrong = FAULTS[fault]

    def change(text: str) -> str:
        return text.replace(right, wrong)

    assert fast_text("commit_and_claim", change) != script_text("commit_and_claim")
    with pytest.raises((AssertionError, redis.ResponseError, BaseExceptionGroup)):
        play(server, change, max_examples=2000)


def test_a_call_for_a_run_of_another_plan_is_refused(world):
    run, other = world.run(line_plan("a", "b")), line_plan("a", "b", "c")
    token = run.hold("a")
    with world.unchanged():
        (moved,), (claimed,) = run.scripts.commit_and_claim(
            run.id, other, [Commit("a", token, b"1")], [Claim("b", new_token())], epoch=1, holder=HOLDER, follows=True
        )
        assert (moved.outcome, claimed.outcome) == ("unknown", "unknown")
        assert run.scripts.claim(run.id, other, Claim("a", new_token()), epoch=1, holder=HOLDER).outcome == "unknown"


def test_the_plan_rules_out_what_is_unusual_by_definition():
    assert PLANS[0].fast_commits == {"a", "m-0", "m-1", "m-2", "n-0", "n-1", "b", "c"}
    assert line_plan("a", "b").fast_commits == {"a", "b"}
    assert fan_plan(2).fast_commits == {"after"}, "members that Celery joins are no case for it"
