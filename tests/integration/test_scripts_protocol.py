"""The scripts together, with the real compiler and a made-up Celery: runs end by their messages alone.

Messages are delivered in any order, some of them twice; attempts raise, get lost and come back as zombies; replies get
lost; runs are cancelled and resumed. No reconciler repeats anything, so a wakeup that the scripts lose is a run that
stands still. Every write of a node's record is seen, and only the edges of the table below may occur.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import pytest

from orchestrator import FlowBuilder, SharedConcurrency, SharedRateLimiter
from orchestrator.messaging.canvas import ADVANCE, BEGIN_SAGA, Target, compile_work
from orchestrator.store.keys import bucket_of
from tests.harness import wait_until
from tests.scripts_world import ENDED, Run, World, always, flow, new_token, node, paged, plan_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from orchestrator.definition.plan import Plan
    from orchestrator.store.scripts.results import Claimed, Moved, Work

LIMITER = SharedRateLimiter("shared", 500, per=timedelta(seconds=1), burst=2)
KEYED = SharedRateLimiter("keyed", 500, per=timedelta(seconds=1), burst=1, key=str)
BUCKETS = [bucket_of("keyed", key) for key in "ab"]
SLOTS = SharedConcurrency("slots", 1)
LINES = ["shared", "@slots", *BUCKETS]
RUNS = 20
STEPS_AT_MOST = 3000

NODE_EDGES = {
    "absent": {"ready"},
    "pending": {"pending", "ready"},
    "ready": {"ready", "running", "parked", "skipped", "failed", "unknown"},
    "running": {"running", "parked", "ready", "succeeded", "failed", "unknown", "skipped"},
    "parked": {"parked", "ready", "running", "skipped", "failed", "unknown"},
    "succeeded": {"compensating"},
    "failed": {"compensating", "pending", "ready"},
    "unknown": {"compensating", "pending", "ready"},
    "skipped": {"pending", "ready"},
    "compensating": {"compensated", "compensation_failed"},
    "compensated": {"pending", "ready"},
    "compensation_failed": {"compensating"},
}
"""The states of a node and its legal edges; ready to ready is a repeated message, running to running a report or an
admission, running to skipped one that came too late, pending to pending a second resume before the run came to it. What
a resume finds where it goes on is ready in the same step.
"""
COMPENSATION_EDGES = {
    "absent": {"ready"},
    "ready": {"ready", "running", "parked"},
    "running": {"running", "parked", "ready", "succeeded", "failed", "unknown"},
    "parked": {"parked", "ready", "running"},
    "succeeded": {"absent"},
    "failed": {"ready", "absent"},
    "unknown": {"ready", "absent"},
}
"""The states of a compensation: a resume makes a failed one ready again, or, forward, drops its record."""


@dataclass
class Chord:
    """A chord as Celery counts it: each member once, whoever returned for it."""

    size: int
    body: Mapping[str, Any]
    returned: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Message:
    """One message: a task with its arguments, the rest of its chain, the chord it belongs to."""

    task: str
    args: tuple[Any, ...]
    rest: tuple[Any, ...] = ()
    chord: Chord | None = None

    @property
    def follows(self) -> bool:
        return bool(self.rest) or self.chord is not None


class FakeCelery:
    """What Celery and the workers do with the messages of one run, step by step in an order drawn by chance."""

    def __init__(self, run: Run, chance: random.Random, *, storm: bool) -> None:
        self.run = run
        self.world = run.world
        self.chance = chance
        self.storm = storm
        self.queue: list[Message] = []
        self.running: list[tuple[Message, str, str]] = []
        self.zombies: list[tuple[str, str]] = []
        self.sent = self.doubled = self.steps = 0
        self.done: Counter[str] = Counter()
        self.undone: dict[int, int] = {}  # by epoch: the place of the last node that a compensation began to undo

    def is_luck(self, share: float) -> bool:
        return self.chance.random() < share

    # --- publishing ---

    def publish(self, work: Work, *, epoch: int | None = None) -> None:
        if work.names:
            target = Target(None, self.run.plan, self.run.id, epoch or self.run.epoch)
            for signature in compile_work(target, work):
                self.send(signature)

    def publish_first(self) -> None:
        work = self.run.started.work
        if self.run.plan.steps[work.position].kind == "parallel":
            self.send(Target(None, self.run.plan, self.run.id, 1).engine(ADVANCE, work.position))
        else:
            self.publish(work)

    def send(self, signature: Any, rest: tuple[Any, ...] = (), chord: Chord | None = None) -> None:
        kind = signature.get("subtask_type")
        if kind == "chain":
            first, *others = signature.tasks
            self.send(first, tuple(others))
        elif kind == "group":
            for member in signature.tasks:
                self.send(member)
        elif kind == "chord":
            counted = Chord(len(signature.tasks), signature.body)
            for member in signature.tasks:
                self.send(member, chord=counted)
        else:
            self.sent += 1
            self.queue.append(Message(signature["task"], tuple(signature["args"]), rest, chord))

    # --- one step ---

    def step(self) -> None:
        """Deliver a message, end an attempt, let a timer fire, or do harm."""
        self.steps += 1
        assert self.steps < STEPS_AT_MOST, "messages multiply"
        if self.storm and self.is_luck(0.004):
            self.publish(self.run.cancel().work)
        elif self.zombies and self.is_luck(0.3):
            name, token = self.zombies.pop()
            assert self.run.commit(name, token, b'"zombie"').outcome == "fenced"
        elif self.queue and (not self.running or self.is_luck(0.6)):
            self.deliver(self.queue.pop(self.chance.randrange(len(self.queue))))
        elif self.running:
            self.end(*self.running.pop(self.chance.randrange(len(self.running))))
        elif not self.fire_due():
            self.wait()

    def deliver(self, message: Message) -> None:
        if self.storm and self.is_luck(0.1):
            self.doubled += 1
            self.queue.append(message)
        _, epoch, _, *position = message.args
        if message.task in {ADVANCE, BEGIN_SAGA}:
            self.publish(self.run.announce(position[0] if position else "saga", epoch=epoch).work, epoch=epoch)
            return
        name = message.task.split(".", 1)[1]
        token = new_token()
        claimed = self.claim(name, token, epoch)
        if claimed.outcome == "run":
            self.check_start(name, claimed)
            self.running.append((message, name, token))
        elif claimed.outcome == "done" and message.chord is not None:
            self.returned(message)

    def claim(self, name: str, token: str, epoch: int) -> Claimed:
        claimed = self.run.claim(name, token, epoch=epoch, may_sleep=True)
        while claimed.outcome == "sleep":
            claimed = self.run.claim(name, token, epoch=epoch, may_sleep=False, arrived=claimed.arrived)
        if self.storm and self.is_luck(0.1):
            assert self.run.claim(name, token, epoch=epoch).outcome in {claimed.outcome, "not ready"}
        return self.admit(name, token, claimed) if claimed.outcome == "admit" else claimed

    def admit(self, name: str, token: str, claimed: Claimed) -> Claimed:
        """Let a node start whose buckets depend on its input, or lose it before."""
        if self.storm and self.is_luck(0.1):
            self.publish(self.run.cancel().work if self.is_luck(0.1) else self.run.lose(name, token).work)
        limits = self.run.plan.nodes[name].limits
        key = BUCKETS[len(name) % 2 if self.is_luck(0.9) else 0]
        buckets = [key if limit == "keyed" else limit for limit in limits]
        call = partial(self.run.admit, name, token, *buckets, may_sleep=self.is_luck(0.5))
        admitted = call()
        while admitted.outcome == "sleep":
            admitted = call()
        if self.storm and self.is_luck(0.1):
            assert call().outcome == admitted.outcome
        self.publish(admitted.work)
        return claimed._replace(outcome=admitted.outcome)

    def check_start(self, name: str, claimed: Claimed) -> None:
        facts = self.run.plan.nodes[name]
        assert 1 <= claimed.attempt <= facts.attempts
        if facts.kind == "compensation":
            assert self.run.field("running") == "1", "compensations run one by one"
            undoes = self.run.node(facts.undoes)
            assert undoes["state"] == "compensating"
            assert undoes["seq"] <= self.undone.get(self.run.epoch, undoes["seq"]), "last completed first"
            self.undone[self.run.epoch] = undoes["seq"]
        else:
            assert (self.run.field("verdict"), self.run.field("position")) == ("", str(facts.step))

    def end(self, message: Message, name: str, token: str) -> None:
        how = self.chance.choices(
            ["commit", "raise", "give up", "lose", "time out"], [77, 10, 3, 8, 2] if self.storm else [86, 11, 3, 0, 0]
        )[0]
        delay_ms = self.chance.randrange(4)
        if how in {"lose", "time out"}:
            moved = self.run.lose(name, token, timed_out=how == "time out", delay_ms=delay_ms * (how == "time out"))
            assert moved.outcome in {"again", "parked", "ended"}
            self.zombies.append((name, token))
            self.publish(moved.work)
            return
        if how == "commit" and self.run.plan.nodes[name].paged:
            self.end_page(message, name, token)
            return
        if how == "commit":
            choice = self.choice(name)
            moved = self.answer(lambda: self.run.commit(name, token, choice=choice, follows=message.follows))
            assert moved.outcome == "stored"
            self.done[name] += 1
        else:
            after = delay_ms if how == "raise" else -1
            moved = self.answer(lambda: self.run.fail(name, token, delay_ms=after, follows=message.follows))
        self.publish(moved.work)
        if moved.outcome in {"stored", "excused"}:
            self.returned(message)
        elif moved.outcome == "failed" and self.run.plan.nodes[name].kind != "compensation":
            self.send(Target(None, self.run.plan, self.run.id, message.args[1]).engine(BEGIN_SAGA))

    def end_page(self, message: Message, name: str, token: str) -> None:
        """Store a page; the message may ask for the next one itself."""
        self.done[name] += 1
        if self.is_luck(0.4):
            moved = self.answer(lambda: self.run.close(name, token, follows=message.follows))
            assert moved.outcome == "stored"
            self.publish(moved.work)
            self.returned(message)
            return
        goes_on = self.is_luck(0.7)
        moved = self.answer(lambda: self.run.turn(name, token, goes_on=goes_on))
        assert moved.outcome == "turned"
        self.publish(moved.work)
        if goes_on:
            again = new_token()
            claimed = self.claim(name, again, message.args[1])
            if claimed.outcome == "run":
                self.check_start(name, claimed)
                self.running.append((message, name, again))

    def choice(self, name: str) -> int | None:
        facts = self.run.plan.nodes[name]
        return self.chance.randrange(len(self.run.plan.steps[facts.step].branches)) if facts.kind == "branch" else None

    def answer(self, call: Callable[[], Moved]) -> Moved:
        """The answer of a call whose first reply may have been lost."""
        moved = call()
        if self.storm and self.is_luck(0.1):
            again = call()
            assert again.outcome == moved.outcome
            return again
        return moved

    def returned(self, message: Message) -> None:
        """Go on as Celery does after a task that returned."""
        if message.rest:
            self.send(message.rest[0], message.rest[1:])
        if message.chord is not None and message.task not in message.chord.returned:
            message.chord.returned.add(message.task)
            if len(message.chord.returned) == message.chord.size:
                self.send(message.chord.body)

    def fire_due(self) -> bool:
        """The timer loop; whether it published anything."""
        before = self.sent
        _, timers, buckets = self.world.scripts.due_timers(at_most_ms=100, count=500)
        for bucket in buckets:
            timers += self.world.scripts.release(bucket)[1]
        for member in timers:
            self.publish(self.run.wake(member.split("|")[1]).work)
        return self.sent > before

    def wait(self) -> None:
        """Wait for a row that will be due; without one the run stands still for ever."""
        member = f"{self.run.id}|"
        waits = [name for name in self.world.members(self.world.keys.timers) if name.startswith(member)]
        waits += [name for line in LINES for name in self.world.line(line) if name.startswith(member)]
        assert waits, f"the run stands still: {self.run.states()} {self.run.events()[-8:]}"
        wait_until(self.fire_due, f"one of {waits} is due", timeout=5)

    def play(self) -> None:
        """Until the run has ended."""
        while self.run.status not in ENDED:
            self.step()

    def drain(self) -> None:
        """Deliver what is left; it changes nothing."""
        with self.world.unchanged():
            while self.queue:
                message = self.queue.pop()
                if message.task in {ADVANCE, BEGIN_SAGA}:
                    assert self.run.announce(message.args[3] if message.args[3:] else "saga").outcome == "nothing"
                else:
                    claimed = self.run.claim(message.task.split(".", 1)[1], epoch=message.args[1])
                    assert claimed.outcome in {"done", "old"}


def draw_node(chance: random.Random, names: Iterator[str]) -> Any:
    limiter = LIMITER if chance.random() < 0.1 else KEYED if chance.random() < 0.1 else None
    slots = SLOTS if chance.random() < 0.1 else None
    undone: Any = chance.choice([None, "succeeded", "started"])
    if chance.random() < 0.2:
        made = paged(next(names), undone=undone)
        return made.with_shared_rate_limit(LIMITER) if limiter is LIMITER else made
    return node(next(names), attempts=chance.randint(1, 3), undone=undone, shared_rate_limit=limiter, concurrency=slots)


def draw_steps(chance: random.Random, builder: FlowBuilder, names: Iterator[str], depth: int = 0) -> None:
    for _ in range(chance.randint(1, 4 - depth)):
        kind = chance.choices(["then", "parallel", "when"], [4, 5, 2 if depth < 2 else 0])[0]
        if kind == "then":
            builder.then(draw_node(chance, names))
        elif kind == "parallel":
            members = [draw_node(chance, names) for _ in range(chance.randint(1, 4))]
            go_on = chance.random() < 0.5
            require = chance.randint(1, len(members)) if go_on and chance.random() < 0.5 else None
            builder.then_parallel(
                f"fan-{next(names)}", *members, on_failure="continue" if go_on else "fail", require=require
            )
        else:
            builder.when(always, name=f"when-{next(names)}")
            draw_steps(chance, builder, names, depth + 1)
            if chance.random() < 0.5:
                builder.else_()
                draw_steps(chance, builder, names, depth + 1)
            builder.end_when()


def draw_plan(chance: random.Random) -> Plan:
    builder = flow()
    draw_steps(chance, builder, (f"n{number}" for number in range(1000)))
    return plan_of(builder)


def check_end(run: Run, celery: FakeCelery) -> None:
    """What an ended run must look like, whatever happened to it."""
    states, plan = run.states(), run.plan
    records = run.world.store.nodes(run.id)
    nodes = {name: state for name, state in states.items() if plan.nodes[name].kind != "compensation"}
    assert run.field("running") == "0"
    assert not celery.running
    assert run.world.claims() == []
    outputs = run.outputs()
    for name, facts in plan.nodes.items():
        if facts.paged and states.get(name) == "succeeded":
            pages = json.loads(outputs[facts.key])
            assert pages["page_count"] == pages["total_items"] == len(pages["items"]) >= 1
    if run.status == "succeeded":
        excused = {name for step in plan.steps if step.go_on for name in step.nodes}
        assert {name for name, state in nodes.items() if state != "succeeded"} <= excused
        assert run.field("error") == ""
        return
    ended = {"succeeded", "failed", "unknown", "skipped", "compensated", "compensation_failed", "pending"}
    assert set(nodes.values()) <= ended
    assert json.loads(run.field("error"))["message"]
    for name, undo, when in plan.sagas:
        state = states.get(name)
        assert state != "succeeded", "what succeeded is undone"
        if state in {"failed", "unknown"}:
            assert when != "started" or not records[name]["attempt"]
        if state == "compensated":
            assert states[undo] == "succeeded"
    assert ("compensation_failed" in states.values()) == (run.status == "compensation_failed")


class Edges:
    """Every write of a node's record under a prefix, as Redis tells it."""

    def __init__(self, world: World) -> None:
        self.world = world

    def __enter__(self) -> Self:
        self.monitor = self.world.client.monitor().__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.monitor.__exit__(None, None, None)

    def read(self) -> dict[tuple[str, str], list[str]]:
        """Run and node to the states that its record had, in order."""
        mark = new_token()
        self.world.client.echo(mark)
        found: dict[tuple[str, str], list[str]] = defaultdict(lambda: ["absent"])
        while mark not in (command := self.monitor.next_command()["command"]):
            if told := re.fullmatch(rf"(HSET|HDEL) {self.world.prefix}:run:(\w+):nodes (.*)", command):
                verb, run_id, rest = told.groups()
                while rest:
                    name, _, rest = rest.partition(" ")
                    state = "absent"
                    if verb == "HSET":
                        record, end = json.JSONDecoder().raw_decode(rest)
                        state, rest = record["state"], rest[end:].lstrip()
                    found[run_id, name].append(state)
        return found


def check_edges(plans: Mapping[str, Plan], seen: Mapping[tuple[str, str], list[str]]) -> set[tuple[str, str]]:
    """Only legal edges occurred; returns those of nodes."""
    occurred = set()
    for (run_id, name), states in seen.items():
        is_undo = plans[run_id].nodes[name].kind == "compensation"
        edges = set(pairwise(states))
        table = COMPENSATION_EDGES if is_undo else NODE_EDGES
        assert {(one, other) for one, other in edges if other not in table[one]} == set(), (run_id, name, states)
        occurred |= set() if is_undo else edges
    return occurred


@pytest.mark.parametrize("storm", [False, True], ids=["quiet", "storm"])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.chaos_long) for seed in range(1, 8))])
def test_drawn_runs_end_by_their_messages_alone(world, seed, storm):
    plans: dict[str, Plan] = {}
    ends: Counter[str] = Counter()
    with Edges(world) as edges:
        for number in range(RUNS):
            chance = random.Random(f"{seed}/{number}/{storm}")
            run = world.run(draw_plan(chance), chords=chance.random() < 0.7, key=str(number))
            plans[run.id] = run.plan
            celery = FakeCelery(run, chance, storm=storm)
            celery.publish_first()
            for _ in range(3):
                celery.play()
                check_end(run, celery)
                ends[run.status] += 1
                if run.status == "succeeded" or chance.random() < 0.3:
                    break
                celery.publish(run.resume().work)
            if run.status in ENDED:
                celery.drain()
            assert celery.sent <= 4 * (sum(celery.done.values()) + len(run.plan.nodes)) + 3 * celery.doubled + 40
        seen = edges.read()
    occurred = check_edges(plans, seen)
    assert ends.keys() >= {"succeeded", "failed"}
    assert len(occurred) > 8, "the runs were too tame"
    assert world.members(world.keys.timers) == []
    assert world.members(world.keys.held("@slots")) == []
    for line in LINES:
        assert world.line(line) == world.released(line) == []
        world.scripts.release(line)
    assert world.members(world.keys.wait_queues) == []
