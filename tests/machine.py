"""Runs of many shapes under every operation in any order: what the state machine of the scripts is made of.

`SHAPES` are the plans. A `Player` is one run with what its clients know of it; `finish` brings live runs to their end
with nothing but what a reconciler sees.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from orchestrator import Node, RetryPolicy, RunError, SharedRateLimiter, approval, signal, sleep
from orchestrator.store.scripts.commit_and_claim import Claim, Commit
from orchestrator.store.scripts.results import Started
from tests.invariants import RunView, View, check_all, look_at
from tests.scripts_fork import Fork
from tests.scripts_world import FAILURE, LEASE_MS, Run, act, always, flow, node, plan_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator import FlowBuilder
    from orchestrator.definition.plan import Plan
    from orchestrator.store.scripts.results import Claimed, Moved
    from tests.scripts_world import World

API = SharedRateLimiter("api", 2, per=timedelta(minutes=1))
SLOW = SharedRateLimiter("slow", 1, per=timedelta(minutes=1))
FAR_MS = 10_000_000
GATES = {"signal", "approval", "sleep"}


def limited_undo(name: str) -> Node[Any, Any]:
    """A node whose compensation takes tokens."""
    undo: Node[Any, Any] = Node(
        f"undo-{name}", act, retry=RetryPolicy(maximum_attempts=2), shared_rate_limit=(API, SLOW)
    )
    return node(name, attempts=2).on_error(undo, when="started")


def _shapes() -> list[FlowBuilder]:
    line = flow("line").with_timeout(timedelta(hours=1)).then(node("a", undone="succeeded"))
    line.then(node("b", attempts=2, undone="started")).then(node("c", attempts=1))
    fan = flow("fan").then(node("first", undone="started", attempts=2))
    fan.then_parallel("all", *[node(f"m-{n}", attempts=2, undone="succeeded") for n in range(3)])
    fan.then(node("last", attempts=1))
    lenient = flow("lenient").then_parallel(
        "some", *[node(f"m-{n}", attempts=2, undone="started") for n in range(3)], on_failure="continue", require=1
    )
    lenient.then_parallel("both", node("x", attempts=1), node("y", undone="succeeded")).then(node("z", attempts=1))
    choice = flow("choice").then(node("a", undone="succeeded")).when(always)
    choice.then(node("b", undone="succeeded")).then_parallel("cd", node("c", undone="started"), node("d", attempts=1))
    choice.else_when(always).then(node("e", attempts=1)).end_when().then(node("f", attempts=2))
    choice.when(always).then(node("g", attempts=1)).end_when()
    queue = flow("queue").then_parallel(
        "limited", *[node(f"m-{n}", attempts=2, undone="started", shared_rate_limit=API) for n in range(3)]
    )
    queue.then(node("slow", attempts=1, shared_rate_limit=(SLOW, API)))
    rollback = flow("rollback").with_timeout(timedelta(hours=1))
    rollback.then_parallel("pair", limited_undo("a"), limited_undo("b"), on_failure="continue")
    rollback.then(node("c", attempts=1, undone="succeeded")).then(node("d", attempts=1))
    gates = (
        flow("gates")
        .then(node("a", undone="succeeded"))
        .then_parallel(
            "both", signal("paid", str, default="late").with_timeout(timedelta(hours=1)), node("b", undone="started")
        )
    )
    gates.then(approval("ok", quorum=2).with_timeout(timedelta(hours=2))).then(sleep("cool", timedelta(hours=1)))
    gates.then(node("c", attempts=2, undone="started")).then(signal("again", str, of="paid"))
    gates_alone = flow("gates-alone").then(signal("paid", str)).then_parallel("both", approval("ok"), node("a"))
    return [line, fan, lenient, choice, queue, rollback, gates, gates_alone]


SHAPES = [plan_of(builder) for builder in _shapes()]


@dataclass
class Player:
    """One run, and what its clients know.

    Attributes:
        run: The run.
        singles: Every message is a single one: whoever makes a node ready has to publish it.
        key: Idempotency key, if it was started with one.
        tokens: Every claim that was granted, newest last.
        stored: What was committed, by node.
        promised: Nodes that were to be published since they became ready.
        portions: How many were left of transitions.
    """

    run: Run
    singles: bool
    key: str | None
    tokens: list[tuple[str, str]] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)
    promised: set[str] = field(default_factory=set)
    portions: int = 0

    @property
    def id(self) -> str:
        return self.run.id

    @property
    def plan(self) -> Plan:
        return self.run.plan

    def promise(self, moved: Moved) -> Moved:
        """Take note of what a transition left to publish, at its end; of a saga the first, the rest follows from it."""
        moved = self.run.complete(moved, between=self._count_portion)
        self.promised.update(moved.work.names[:1] if moved.work.kind == "saga" else moved.work.names)
        return moved

    def _count_portion(self) -> None:
        self.portions += 1

    def claim(self, name: str, token: str, **options: Any) -> Claimed:
        claimed = self.run.claim(name, token, **options)
        if claimed.outcome == "run":
            self.tokens.append((name, token))
        if claimed.outcome in {"run", "parked"}:
            self.promised.discard(name)
        return claimed

    def commit(self, name: str, token: str, *, choice: int = 0, follows: bool = False) -> Moved:
        facts = self.plan.nodes[name]
        ways = len(self.plan.steps[facts.step].branches)
        output = json.dumps(token).encode() if facts.key else b""
        moved = self.run.commit(
            name, token, output, choice=choice % ways if ways else None, follows=follows and not self.singles
        )
        assert moved.outcome == "stored", f"commit of {name}: {moved.outcome}"
        if facts.key:
            self.stored[facts.key] = output
        return self.promise(moved)

    def answer(self, name: str, record: dict[str, Any], *, kindly: bool = True) -> None:
        """Give a node that waits what it waits for; of a sleep nothing."""
        outside, key = self.run.scripts.outside, self.plan.nodes[name].key
        if record["waits"] == "signal":
            sent = outside.send_signal(self.id, self.plan.hash, "paid", b'"sent"', is_checked=True)
            assert self.promise(sent).outcome in {"taken", "kept"}
        elif record["waits"] == "approval":
            by = f"person-{len(record.get('votes', ()))}"
            verb = "approve" if kindly else "reject"
            voted = outside.vote(self.id, self.plan.hash, name, verb=verb, by=by, reason="")
            assert self.promise(voted).outcome in {"ended", "counted"}
        elif record["waits"] == "callback":
            verb, text = ("complete", b'"called"') if kindly else ("fail", FAILURE.encode())
            ended = outside.end_callback(
                self.id,
                self.plan.hash,
                name,
                verb=verb,
                text=text,
                secret=record["secret"],
                generation=record["generation"],
            )
            assert self.promise(ended).outcome == "ended"
            if kindly and key:
                self.stored[key] = text

    def defer(self, name: str, token: str, lasts_ms: int) -> Moved:
        """Let an attempt's node wait for its callback."""
        outside = self.run.scripts.outside
        outside.open_callback(self.id, self.plan.hash, name, token, "secret")
        options: dict[str, Any] = {"waits": "callback", "lasts_ms": lasts_ms, "delay_ms": FAR_MS}
        return self.promise(outside.wait(self.id, self.plan.hash, name, token, **options))

    def fork(self, at: str, *, singles: bool, given: Mapping[str, Any]) -> Player | None:
        """Fork the run, which has ended; None if that is refused."""
        world = self.run.world
        made = Fork(world, self.plan, world.store.run(self.id), at, given)
        try:
            copied = made.take_over()
        except RunError:
            return None
        moved = made.begin(copied, chords=not singles)
        assert moved.outcome == "started"
        with world.unchanged():
            assert made.begin(copied).outcome == "exists"
        run = Run(world, self.plan, made.id, Started("started", made.id, moved.work))
        player = Player(
            run, singles, None, stored=self.stored | {key: json.dumps(given[key]).encode() for key in given}
        )
        player.promise(moved)
        return player

    def go_onward(self, name: str, token: str) -> bool:
        """Commit a node and claim the one behind it as one plain step; False if that is refused."""
        (behind,) = self.plan.steps[self.plan.steps[self.plan.nodes[name].step].next].nodes
        stored, wanted = (
            Commit(name, token, json.dumps(token).encode()),
            Claim(behind, f"next-{len(self.tokens)}-{behind}"),
        )
        holder, epoch = self.run.node(name).get("holder", ""), self.run.epoch
        _, claimed = self.run.scripts.commit_and_claim(
            self.id, self.plan, [stored], [wanted], epoch=epoch, holder=holder, lease_ms=LEASE_MS, follows=True
        )
        if claimed[0].outcome != "run":
            return False
        self.tokens.append((behind, wanted.token))
        self.stored[self.plan.nodes[name].key] = stored.output
        return True


def rewind(world: World, run: RunView) -> None:
    """Let time pass: what waits for an instant has waited long enough, and the buckets are full again."""
    pipe = world.client.pipeline(transaction=False)
    now = world.store.now_ms()
    for name, record in run.nodes.items():
        earlier: dict[str, int] = {stamp: 1 for stamp in ("since", "again") if stamp in record}
        if record["state"] == "parked" or "due" in record:
            earlier["due"] = 1
            pipe.zadd(world.keys.timers, {f"{run.id}|{name}": 1}, xx=True)
        if record["state"] in {"parked", "ready", "waiting"}:
            pipe.hset(world.keys.nodes(run.id), name, json.dumps(record | earlier))
    for bucket in run.plan.limits:
        pipe.delete(world.keys.bucket(bucket)[0])
        for member in world.released(bucket):
            pipe.zadd(world.keys.bucket(bucket)[2], {member: now * 1000 - 10_000_000}, xx=True)
        pipe.zadd(world.keys.wait_queues, {bucket: 1}, xx=True)
    pipe.execute()


def view_of(world: World, players: list[Player]) -> View:
    return look_at(world.store, {player.id: player.plan for player in players})


def check(world: World, players: list[Player]) -> View:
    """Every invariant, and what only the clients know: what was stored, and that ready nodes were to be published."""
    view = view_of(world, players)
    check_all(view)
    for player in players:
        run = view.runs[player.id]
        gates = {gate.key for gate in player.plan.nodes.values() if gate.kind in GATES}  # nobody commits them
        stored = {name: output for name, output in run.outputs.items() if name not in {":input", *gates}}
        assert stored == {name: output for name, output in player.stored.items() if name in stored}
        if player.singles:
            assert set(run.in_state("ready")) <= player.promised, "nobody was told to publish a ready node"
    return view


def finish(world: World, players: list[Player]) -> Counter[str]:
    """Bring every live run to its end as reconcilers and workers would; returns how often each means was needed."""
    by_id = {player.id: player for player in players}
    used: Counter[str] = Counter()
    most = 2 + 3 * max((len(player.plan.nodes) for player in players), default=0)
    for _ in range(most):
        view = check(world, players)
        if all(run.has_ended for run in view.runs.values()):
            return used
        _end_claims(world, by_id, view, used)
        for run in view_of(world, players).runs.values():
            rewind(world, run)
        _fire_due(world, by_id, used)
        for run_id in world.members(world.keys.live):
            _look_at(by_id[run_id], used)
        for run in view_of(world, players).runs.values():
            for name in run.in_state("waiting")[:1]:
                by_id[run.id].answer(name, run.nodes[name])
    raise AssertionError(f"runs did not end in {most} rounds: { {p.id: p.run.states() for p in players} }")


def _end_claims(world: World, by_id: dict[str, Player], view: View, used: Counter[str]) -> None:
    for holder in view.holders:
        for claim in world.store.claims(holder):
            player = by_id[claim.run_id]
            assert player.promise(player.run.lose(claim.node, claim.token)).outcome in {"again", "ended"}
            used["lost"] += 1
        assert world.scripts.forget_holder(holder, only_late=False)


def _fire_due(world: World, by_id: dict[str, Player], used: Counter[str]) -> None:
    _, timers, buckets = world.scripts.due_timers(at_most_ms=100, count=500)
    for bucket in buckets:
        timers += world.scripts.release(bucket)[1]
    for member in timers:
        run_id, _, name = member.partition("|")
        if name:
            player = by_id[run_id]
            player.promise(player.run.wake(name))
            used["woken"] += 1


def _look_at(player: Player, used: Counter[str]) -> None:
    for seen in player.run.look():
        used[seen.kind] += 1
        if seen.kind == "awake":
            player.promise(player.run.wake(seen.node))
        elif seen.kind == "ready":
            moved = player.run.republish(seen.node)
            assert moved.work.names in {(), (seen.node,)}
            player.promise(moved)
            token = f"end-{len(player.tokens)}-{seen.node}"
            claimed = player.claim(seen.node, token, holder="w/last")
            assert claimed.outcome in {"run", "parked"}, f"{seen.node} is ready, but its claim says {claimed.outcome}"
            if claimed.outcome == "run":
                player.commit(seen.node, token)
