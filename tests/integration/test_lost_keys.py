"""Any key of a live run may be lost: the run ends all the same, and says so where it cannot be whole; others go on."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from celery.exceptions import Ignore

from orchestrator import (
    FlowBuilder,
    Node,
    Orchestrator,
    RetryPolicy,
    Settings,
    SharedConcurrency,
    SharedRateLimiter,
    manual,
)
from orchestrator.engine import engine_of
from orchestrator.errors import RunError
from orchestrator.liveness.leases import LeaseRenewer
from orchestrator.maintenance.reconciler import Reconciler
from tests.harness import wait_until
from tests.scripts_world import FAILURE, World, new_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator.definition.plan import Plan

FINAL = {"succeeded", "failed", "cancelled", "compensation_failed"}
ROUNDS = 30
GONE = "dead/1"
"""The process that holds claims; its lease is over when time passes."""
AGAIN = RetryPolicy(maximum_attempts=3, initial_interval=timedelta(seconds=1), jitter=False)
ONCE = RetryPolicy(maximum_attempts=1)
HURT = (":nodes", ":outputs", ":items", ":results")
"""Parts of a run that nothing can put back."""


def act() -> int:
    return 1


def double(item: int) -> int:
    return 2 * item


def undo() -> None:
    """Undo nothing."""


def fail() -> None:
    raise ValueError("no")


def undone(name: str) -> Node[Any, Any]:
    return Node(name, act, retry=AGAIN).on_error(Node(f"undo-{name}", undo))


def flows() -> list[FlowBuilder]:
    line = FlowBuilder("line").with_timeout(timedelta(hours=1)).then(undone("a")).then(undone("b"))
    line.then(Node("c", act, retry=AGAIN))
    bad = FlowBuilder("bad").then(undone("a")).then(undone("b")).then(Node("c", fail, retry=ONCE))
    api, seats = SharedRateLimiter("api", 1, per=timedelta(minutes=1)), SharedConcurrency("seats", 1)
    fan = FlowBuilder("fan").then(undone("a"))
    fan.then_parallel("both", Node("x", act, shared_rate_limit=api), Node("y", act, shared_rate_limit=api))
    room = FlowBuilder("room").then_parallel(
        "both", Node("x", act, concurrency=seats), Node("y", act, concurrency=seats)
    )
    all_of = FlowBuilder("map").then(undone("a"))
    all_of.then_map("all", Node("item", double, retry=AGAIN), over=lambda _state: [1, 2, 3, 4, 5]).then(Node("z", act))
    return [flow.triggered_by(manual("test")) for flow in (line, bad, fan, room, all_of)]


class Game:
    """One process that starts runs and is their worker and their reconciler; time passes when it says so."""

    def __init__(self, url: str) -> None:
        self.world = World(url)
        self.app = Celery("lost", broker="memory://", set_as_current=False)
        self.settings = Settings(prefix=self.world.prefix)
        self.orchestrator = Orchestrator(self.app, redis_url=url, settings=self.settings)
        for flow in flows():
            self.orchestrator.register(flow.build())
        self.engine = engine_of(self.app)
        self.reconciler = self.new_reconciler()

    def new_reconciler(self) -> Reconciler:
        monitor: Any = SimpleNamespace(forward=lambda: None, is_watched=lambda: False)
        return Reconciler(self.engine, monitor)

    def plan(self, name: str) -> Plan:
        return self.engine.registry.flows[name].plan

    def seats(self) -> list[str]:
        """Who holds a slot."""
        return self.world.members(self.world.keys.held("@seats"))

    def run(self, name: str) -> Any:
        return self.world.run(self.plan(name), input_json=b"null")

    def work(self, run_id: str, plan: Plan) -> None:
        """Call the task of every node that is ready, as their messages would."""
        record = self.engine.store.run(run_id)
        names = [name for name, node in self.engine.store.nodes(run_id).items() if node["state"] == "ready"]
        for name in [*names, *plan.maps]:
            task = self.app.tasks[plan.nodes[name.partition("[")[0]].task]
            with suppress(Ignore, ValueError, Exception):
                task.run(run_id, record.epoch, plan.hash)

    def pass_time(self, run_id: str) -> None:
        """Let everything be due, and every lease over."""
        client, keys = self.world.client, self.world.keys
        for name, node in self.world.store.nodes(run_id).items():
            client.hset(
                keys.nodes(run_id), name, json.dumps(node | {at: 1 for at in ("since", "again", "due") if at in node})
            )
        for key in (keys.live, keys.wait_queues, keys.holders):
            for member in client.zrange(key, 0, -1):
                client.zadd(key, {member: 1}, xx=True)
        for member in client.zrange(keys.timers, 0, -1):
            if not member.endswith(b"|"):
                client.zadd(keys.timers, {member: 1}, xx=True)
        if client.hexists(keys.run(run_id), "map_again"):
            client.hset(keys.run(run_id), mapping={"map_again": 0, "map_pulled": 1})
        client.delete(*keys.bucket("api")[:1], keys.bucket("api")[2])
        for field, text in client.hgetall(keys.aside).items():
            client.hset(keys.aside, field, json.dumps(json.loads(text) | {"since": 1}))

    def end(self, run_id: str, plan: Plan) -> str:
        """Go on until the run has ended; returns its status, or "" if it is gone."""
        for _ in range(ROUNDS):
            is_known = self.world.client.exists(self.world.keys.run(run_id))
            if is_known and self.engine.store.run(run_id).status in FINAL:
                return str(self.engine.store.run(run_id).status)
            self.pass_time(run_id)
            self.reconciler.sweep()
            self.reconciler.fire_due()
            if not is_known:
                return ""
            self.work(run_id, plan)
        raise AssertionError(f"the run does not end: {self.engine.store.run(run_id)} {self.engine.store.nodes(run_id)}")


@pytest.fixture(scope="module")
def game(server) -> Iterator[Game]:
    made = Game(server.url)
    yield made
    made.world.close()


def ready(game: Game) -> Any:
    return game.run("line")


def running(game: Game) -> Any:
    run = game.run("line")
    run.do("a")
    run.hold("b", holder=GONE)
    return run


def parked(game: Game) -> Any:
    run = game.run("line")
    run.do("a")
    run.break_off("b", delay_ms=60_000)
    return run


def ending(game: Game) -> Any:
    run = running(game)
    run.cancel()
    return run


def undoing(game: Game) -> Any:
    run = game.run("bad")
    for name in "ab":
        run.do(name)
    run.break_off("c")
    return run


def undoing_further(game: Game) -> Any:
    run = undoing(game)
    run.do("undo-b")
    run.hold("undo-a", holder=GONE)
    return run


def in_line(game: Game) -> Any:
    run = game.run("fan")
    run.do("a")
    run.hold("x", holder=GONE)
    assert run.claim("y").outcome == "parked"
    return run


def for_a_slot(game: Game) -> Any:
    run = game.run("room")
    run.hold("x", holder=GONE)
    assert run.claim("y").outcome == "parked"
    return run


def in_a_map(game: Game) -> Any:
    run = game.run("map")
    run.do("a")
    token = run.hold("all.over")
    game.world.store.stage_items(run.id, token, [b"1", b"2", b"3", b"4", b"5"])
    run.commit("all.over", token, choice=5)
    tokens = [new_token() for _ in range(4)]
    for token in tokens:
        assert run.claim("item", token, holder=GONE).outcome == "run"
    run.commit("item[0]", tokens[0], b"2")
    run.fail("item[1]", tokens[1], delay_ms=60_000)
    run.lose("item[2]", tokens[2])
    return run


STATES = [ready, running, parked, ending, undoing, undoing_further, in_line, for_a_slot, in_a_map]


@pytest.fixture
def clean(game: Game) -> Game:
    game.world.client.delete(*game.world.names() or ["-"])
    game.reconciler = game.new_reconciler()
    return game


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_a_run_ends_whatever_key_is_lost(clean: Game, state: Callable[[Game], Any]):
    client, prefix = clean.world.client, clean.world.prefix
    run = state(clean)
    names = clean.world.names()
    stored = {name: client.dump(name) for name in names}
    whole = ""
    for lost in ["", *names]:
        client.delete(*clean.world.names())
        for name, value in stored.items():
            client.restore(name, 0, value)
        client.delete(lost or "-")
        clean.reconciler = clean.new_reconciler()
        status = clean.end(run.id, run.plan)
        part = lost.removeprefix(f"{prefix}:run:{run.id}")
        if not lost:
            whole = status
        elif part == "":
            assert status == "", "the run itself is gone"
            assert clean.world.claims(GONE) == []
            assert not client.exists(clean.world.keys.live)
        elif part.startswith(HURT):
            check_hurt(clean, run, status, whole, lost)
        else:
            assert status == whole, lost
        lasting = [name for name in clean.world.names() if f"{prefix}:run:" in name and client.ttl(name) == -1]
        assert lasting == [] or part == "", lost
        assert clean.orchestrator.set_aside() == [] or part == "", lost
        assert clean.seats() == [], lost


def check_hurt(game: Game, run: Any, status: str, whole: str, lost: str) -> None:
    """A run of which something is gone for ever: it is not taken for whole, unless nothing needed what is gone."""
    failure = game.orchestrator.get(run.id).error
    is_whole = status == "succeeded" == whole and set(run.states()) <= set(run.outputs()) | {"all.over", "item"}
    assert is_whole or status in {"failed", "cancelled", "compensation_failed"}, lost
    assert is_whole or status == whole or (failure is not None and "gone" in failure.message), lost


def forget(game: Game, run: Any) -> None:
    """Let the plan of a run be gone from Redis, and let no process have it."""
    game.world.client.delete(game.world.keys.plan(run.plan.hash))
    game.engine.store._plans.clear()


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (ready, "failed"),
        (running, "compensation_failed"),
        (undoing, "compensation_failed"),
        (for_a_slot, "failed"),
    ],
)
def test_a_run_whose_plan_nobody_has_ends_after_one_lease(
    clean: Game, state: Callable[[Game], Any], expected: str, monkeypatch: pytest.MonkeyPatch
):
    run = state(clean)
    handle = clean.orchestrator.get(run.id)
    forget(clean, run)
    monkeypatch.setattr(clean.engine.registry, "flows", {})
    clean.world.client.zadd(clean.world.keys.live, {run.id: 1})
    clean.reconciler.sweep()
    (part,) = clean.orchestrator.set_aside()
    assert (part.kind, part.name) == ("plan", run.plan.hash)
    assert [
        found.what for found in clean.orchestrator.doctor() if found.name == "set-aside" and part.name in found.what
    ]
    assert run.plan.hash in handle.explain()[0].reason
    assert str(handle.status) not in FINAL, "somebody may put it back"
    clean.pass_time(run.id)
    clean.reconciler._calm_until = float("inf")
    clean.reconciler.sweep()
    assert str(handle.status) not in FINAL, "after a gap, workers have one lease to come back"
    clean.reconciler._calm_until = 0.0
    clean.pass_time(run.id)
    clean.reconciler.sweep()
    assert str(handle.status) == expected
    assert handle.error is not None
    assert f"plan {run.plan.hash} are gone" in handle.error.message
    assert (clean.world.claims(GONE), clean.seats()) == ([], [])
    with pytest.raises(RunError, match="its plan is gone"):
        handle.resume()


def test_a_worker_puts_back_a_plan_that_a_leader_misses(clean: Game, monkeypatch: pytest.MonkeyPatch):
    run = running(clean)
    forget(clean, run)
    with monkeypatch.context() as patched:
        patched.setattr(clean.engine.registry, "flows", {})
        clean.world.client.zadd(clean.world.keys.live, {run.id: 1})
        clean.reconciler.sweep()
    assert [part.kind for part in clean.orchestrator.set_aside()] == ["plan"]
    LeaseRenewer(clean.engine)._put_back_plans()
    assert clean.orchestrator.set_aside() == []
    assert clean.end(run.id, run.plan) == "succeeded"


def test_a_run_without_its_plan_can_be_cancelled(clean: Game, monkeypatch: pytest.MonkeyPatch):
    run = ready(clean)
    forget(clean, run)
    monkeypatch.setattr(clean.engine.registry, "flows", {})
    handle = clean.orchestrator.get(run.id)
    handle.cancel("no longer wanted")
    assert (str(handle.status), handle.error and handle.error.message) == ("cancelled", "no longer wanted")


def test_an_error_in_one_part_of_a_sweep_keeps_no_other_from_being_done(clean: Game, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object, **__: object) -> None:
        raise ValueError("broken")

    forwards: list[bool] = []
    monkeypatch.setattr(clean.engine.store.scripts, "mend_indexes", broken)
    monkeypatch.setattr(clean.reconciler._looks, "mend_index", broken)
    monkeypatch.setattr(clean.reconciler.monitor, "forward", lambda: forwards.append(True))
    run, lost = running(clean), ready(clean)
    clean.pass_time(run.id)
    clean.world.client.zrem(clean.world.keys.live, lost.id)
    clean.reconciler.sweep()
    told = {(part.kind, part.name) for part in clean.orchestrator.set_aside()}
    assert told == {("index", "open"), ("index", "unfinished")}
    assert (run.node("b")["state"], forwards) == ("ready", [True])


def test_an_error_beside_the_sweep_ends_neither_it_nor_its_thread(clean: Game, monkeypatch: pytest.MonkeyPatch):
    looks: list[bool] = []

    def look(*, leads: bool) -> None:
        looks.append(leads)
        raise AssertionError("broken")

    monkeypatch.setattr(clean.reconciler, "_period_s", 0.05)
    monkeypatch.setattr(clean.reconciler.evictions, "look", look)
    monkeypatch.setattr(clean.reconciler.monitor, "note_watching", lambda: look(leads=False), raising=False)
    clean.reconciler.start()
    try:
        wait_until(lambda: looks.count(True) > 1, "the sweep goes on, and leads")
    finally:
        clean.reconciler.stop()


def test_a_broken_run_keeps_no_other_waiting_and_can_be_cancelled(clean: Game, caplog: pytest.LogCaptureFixture):
    broken, others = running(clean), [running(clean) for _ in range(5)]
    clean.world.client.hset(clean.world.keys.nodes(broken.id), "b", "{")
    clean.world.client.zadd(clean.world.keys.timers, {"no run at all": 1, f"{broken.id}|b": 1})
    for key in (clean.world.keys.live, clean.world.keys.holders):
        for member in clean.world.client.zrange(key, 0, -1):
            clean.world.client.zadd(key, {member: 1}, xx=True)
    clean.reconciler.sweep()
    clean.reconciler.fire_due()
    assert (
        "node b: attempt 1 has ended: its worker did not renew its lease; attempt 2 of 3 follows at once" in caplog.text
    )
    assert {other.node("b")["state"] for other in others} == {"ready"}, "their claims are ended"
    told = {(part.kind, part.name) for part in clean.orchestrator.set_aside()}
    assert {("run", broken.id), ("timer", "no run at all"), ("timer", f"{broken.id}|b")} <= told
    handle = clean.orchestrator.get(broken.id)
    assert handle.explain()[0].state == "broken"
    assert len([record for record in caplog.records if f"run {broken.id} is set aside" in record.getMessage()]) == 1
    handle.cancel()
    assert str(handle.status) == "compensation_failed", "a cannot be undone any more"
    for other in others:
        assert clean.end(other.id, other.plan) == "succeeded"


def test_what_mends_and_ends_has_no_second_effect(clean: Game):
    run, scripts, client = in_a_map(clean), clean.world.scripts, clean.world.client
    client.delete(clean.world.keys.plan(run.plan.hash), f"{clean.world.keys.run(run.id)}:open")
    assert [scripts.restore_plan(run.plan) for _ in range(2)] == [True, False]
    for _ in range(2):
        scripts.note_open_items(run.id, run.plan.hash, [f"item[{number}]" for number in range(4)])
        assert client.scard(f"{clean.world.keys.run(run.id)}:open") == 3
    (claim,) = clean.world.store.claims(GONE)
    assert not scripts.drop_claim(GONE, run.id, claim.node, new_token()), "it is another claim's"
    assert [scripts.drop_claim(GONE, run.id, claim.node, claim.token) for _ in range(2)] == [True, False]
    names = clean.world.store.node_names(run.id)
    options = {"verdict": "failed", "failure": FAILURE}
    told = [
        scripts.abandon(run.id, run.plan.hash, names, **options, is_last=is_last)
        for is_last in (False, False, True, True)
    ]
    assert told == ["ending", "ending", "ended", "too late"]
    assert run.status == "compensation_failed"
    assert run.count("unknown", claim.node) == 1
