"""Transitions of many records are done in portions: right at every moment between two, none holds Redis for long."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery import Celery

from orchestrator import Orchestrator, Settings
from orchestrator.definition.plan import node_of
from orchestrator.engine import engine_of
from orchestrator.fault_points import FAULTS_VARIABLE, hits_file
from orchestrator.maintenance.reconciler import Reconciler
from orchestrator.server import EmbeddedServer
from orchestrator.store.scripts import Scripts
from orchestrator.store.scripts.results import MORE
from tests.harness import environment_for
from tests.scripts_fork import fork_of
from tests.scripts_world import World, fan_plan, flow, line_plan, mapped_run, node, opened, plan_of
from tests.warm import run_python

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.scripts_world import Run

MOST_RECORDS = 500
MANY, MOST_ITEMS = 1_500, 100_000
LONGEST_MS = 150
AT_ONCE = 1_000
CLIENT = """
import sys

from celery import Celery

from orchestrator import Orchestrator, Settings

url, prefix, run_id, what = sys.argv[1:]
app = Celery("client", broker="memory://", set_as_current=False)
run = Orchestrator(app, redis_url=url, settings=Settings(prefix=prefix)).get(run_id)
run.cancel() if what == "cancel" else run.resume()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of its own: what MONITOR and INFO tell is of all that use it."""
    with EmbeddedServer(tmp_path_factory.mktemp("portions")) as own:
        yield own


@pytest.fixture
def world(server):
    with opened(server.url) as made:
        yield made


@pytest.fixture
def small(world):
    """A world whose scripts touch two records at once, or a few more."""
    world.use_small_portions()
    return world


def undo_all(run: Run) -> list[str]:
    """Let every compensation succeed; returns them in their order."""
    while waiting := [name for name, state in run.states().items() if state == "ready" and name.startswith("undo-")]:
        (name,) = waiting
        run.complete(run.do(name))
    return run.undone()


# What is left between two portions.


def items_that_wait(world: World) -> tuple[Run, Any, str]:
    """A cancel of a map of which items wait for their next attempt."""
    run = mapped_run(world, 7, undone=True)
    tokens = [run.hold("item") for _ in range(7)]
    for number in range(5):
        run.fail(f"item[{number}]", tokens[number], delay_ms=60_000)
    for number in (6, 5):
        run.commit(f"item[{number}]", tokens[number])
    return run, run.cancel(), "cancelled"


def members_that_wait(world: World) -> tuple[Run, Any, str]:
    run = world.run(fan_plan(7, undone="succeeded"))
    for number in range(3):
        run.do(f"m-{number}")
    return run, run.cancel(), "cancelled"


def what_succeeded(world: World) -> tuple[Run, Any, str]:
    run = mapped_run(world, 7, undone=True)
    tokens = [run.hold("item") for _ in range(7)]
    for number in (3, 0, 6, 1, 5, 2, 4):
        run.commit(f"item[{number}]", tokens[number])
    return run, run.break_off("after"), "failed"


def a_rollback_that_lacks(world: World) -> tuple[Run, Any, str]:
    run = world.run(line_plan(*"abcdefg", attempts=1, undone="succeeded"))
    for name in "abcdef":
        run.do(name)
    run.complete(run.break_off("g"))
    for name in "fedcba":
        run.complete(run.do("undo-f") if name == "f" else run.break_off(f"undo-{name}"))
    assert run.status == "compensation_failed"
    return run, run.resume(), "failed"


def a_list_that_is_lost(world: World) -> tuple[Run, Any, str]:
    run = world.run(line_plan(*"abcdefg", attempts=1, undone="succeeded"))
    for name in "abcdef":
        run.do(name)
    run.complete(run.break_off("g"))
    token = run.hold("undo-f")
    world.client.delete(f"{world.keys.run(run.id)}:saga")
    return run, run.commit("undo-f", token), "failed"


STATES = [items_that_wait, members_that_wait, what_succeeded, a_rollback_that_lacks, a_list_that_is_lost]


def order_of(run: Run) -> list[str]:
    """The compensations that are left, last completed first."""
    records = run.world.store.nodes(run.id)
    compensations = {undone: undo for undone, undo, _ in run.plan.sagas}
    states = {"succeeded", "compensating", "compensation_failed"}
    left = [name for name, record in records.items() if record["state"] in states and node_of(name) in compensations]
    left.sort(key=lambda name: -records[name]["seq"])
    return [compensations[node_of(name)] + name.removeprefix(node_of(name)) for name in left]


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_between_portions_of_an_end_nothing_starts_and_the_order_holds(small, state):
    run, moved, verdict = state(small)
    assert moved.work.kind == MORE
    before, expected = run.undone(), order_of(run)
    seen = []

    def check() -> None:
        seen.append(run.status)
        assert (run.field("verdict"), run.status) == (verdict, "compensating")
        with small.unchanged(but=[small.keys.live]):
            assert run.cancel().outcome == "too late"
            assert run.resume().outcome == "not ended"
            assert run.announce("saga").outcome == "nothing"
            for name in (*run.plan.nodes, *run.states()):
                assert run.claim(name).outcome in {"ending", "done", "not ready"}
            assert [found.kind for found in run.look()] == ["unfinished"]

    moved = run.complete(moved, between=check)
    assert len(seen) > 1
    assert (moved.work.kind, moved.work.names[0]) == ("saga", expected[0])
    with small.unchanged():
        assert run.go_on().outcome == "nothing"
    assert undo_all(run)[len(before) :] == expected
    assert run.status == verdict


@pytest.mark.parametrize("part", [":order", ":listed", ":saga"])
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_between_portions_of_an_end_a_key_may_be_lost(small, state, part):
    run, moved, verdict = state(small)
    before, expected, left = run.undone(), order_of(run), list(range(12))

    def lose() -> None:
        if left and left.pop() % 3 == 0:  # not each time, or it would get no further
            small.client.delete(small.keys.run(run.id) + part)

    run.complete(moved, between=lose)
    assert undo_all(run)[len(before) :] == expected
    assert run.status == verdict


def failed_run(world: World) -> Run:
    """A run that has failed and is undone: of a map, of nodes without a compensation, and a decision."""
    builder = flow().then(node("a")).then(node("b")).then(node("c", undone="succeeded"))
    builder.then_parallel("fan", *[node(f"m-{number}") for number in range(5)])
    builder.then(node("d", undone="succeeded")).then(node("e", attempts=1)).then(node("f"))
    run = world.run(plan_of(builder), key="k")
    for name in ("a", "b", "c", *[f"m-{number}" for number in range(5)], "d"):
        run.do(name)
    run.complete(run.break_off("e"))
    assert undo_all(run) == ["undo-d", "undo-c"]
    assert run.status == "failed"
    return run


def test_between_portions_of_a_resume_nothing_starts(small):
    run = failed_run(small)
    moved, seen = run.resume(), []

    def check() -> None:
        seen.append(run.field("unfinished").split()[0])
        assert (run.field("verdict"), run.status) == ("", "running")
        with small.unchanged(but=[small.keys.live]):
            assert run.resume().outcome == "not ended"
            assert [run.announce(position).outcome for position in range(7)] == ["nothing"] * 7
            for name in run.plan.nodes:
                assert run.claim(name).outcome in {"done", "not ready"}
            assert [found.kind for found in run.look()] == ["unfinished"]

    assert run.complete(moved, between=check).work.names == ("c",)
    assert {"reset", "enter"} <= set(seen)
    assert {name: state for name, state in run.states().items() if state != "succeeded"} == {
        "c": "ready", "d": "pending", "e": "pending"
    }  # fmt: skip
    moved = run.do("c", follows=True)
    assert moved.work.kind == MORE, "it passes over what is done"
    assert run.complete(moved).work.names == ("d",)
    for name in "def":
        run.complete(run.do(name))
    assert (run.status, run.count("started", "m-0")) == ("succeeded", 1)


@pytest.mark.parametrize("after", range(7))
def test_a_cancel_between_portions_of_a_resume_ends_the_run_and_a_resume_goes_on(small, after):
    run = failed_run(small)
    moved = run.resume()
    for _ in range(after):
        assert moved.work.kind == MORE
        moved = run.go_on()
    assert moved.work.kind == MORE
    moved = run.complete(run.cancel())
    assert (moved.work.kind, run.status, run.field("verdict")) == ("", "cancelled", "cancelled")
    with small.unchanged():
        assert run.go_on().outcome == "nothing"
    assert run.complete(run.resume()).work.names == ("c",)
    for name in "cdef":
        run.complete(run.do(name))
    assert (run.status, run.count("started", "m-0")) == ("succeeded", 1)


def test_a_call_whose_reply_was_lost_is_told_to_go_on_too(small):
    run = small.run(line_plan(*"abcdef", attempts=1, undone="succeeded"))
    for name in "abcde":
        run.do(name)
    token = run.hold("f")
    first = run.fail("f", token)
    again = run.fail("f", token)
    assert (first.work.kind, again.work.kind) == (MORE, MORE)
    assert run.complete(again).work.names[0] == "undo-e"


# Processes that die in between.


@contextmanager
def playing(url: str, prefix: str) -> Iterator[Any]:
    """An orchestrator with a reconciler that this process has."""
    app = Celery("portions", broker="memory://", set_as_current=False)
    made = Orchestrator(app, redis_url=url, settings=Settings(prefix=prefix))
    monitor: Any = SimpleNamespace(forward=lambda: None, is_watched=lambda: False)
    yield SimpleNamespace(orchestrator=made, reconciler=Reconciler(engine_of(app), monitor))


@pytest.mark.parametrize(("what", "portion"), [("cancel", 3), ("resume", 4)])
def test_the_reconciler_goes_on_where_a_client_was_killed_between_portions(world, server, tmp_path, what, portion):
    run = succeeded_items(world, 600)
    if what == "resume":
        run.complete(run.cancel())
        undo_at_once(run)
    orders = tmp_path / "orders"
    orders.write_text(f"between_portions:kill9:{portion}")
    environment = environment_for(server.url) | {FAULTS_VARIABLE: str(orders)}
    killed = run_python(["-c", CLIENT, server.url, world.prefix, run.id, what], environment)
    assert (killed.returncode, hits_file(orders).stat().st_size) == (-9, portion)
    assert (run.status, bool(run.field("unfinished"))) == ("running" if what == "resume" else "compensating", True)

    with playing(server.url, world.prefix) as game:
        world.client.zadd(world.keys.live, {run.id: 1})
        game.reconciler.sweep()
    assert run.field("unfinished") == ""
    if what == "resume":
        assert (run.field("map_next"), run.field("open")) == ("0", "600")
        assert set(run.states().values()) == {"succeeded", "pending"}
    else:
        saga = [name.decode() for name in world.client.lrange(f"{world.keys.run(run.id)}:saga", 0, -1)]
        assert saga == [f"undo-item[{number}]" for number in reversed(range(600))]


# Many records. What was done before is written directly, as the scripts would.


def succeeded_items(world: World, count: int) -> Run:
    """A run whose map has so many items, all of them done; behind it stands its last node."""
    run = mapped_run(world, 1, undone=True)
    run.commit("item[0]", run.hold("item"))
    record = run.node("item[0]")
    seq = int(run.field("seq"))
    write(run, "nodes", {f"item[{n}]": json.dumps(record | {"seq": seq + n}) for n in range(1, count)})
    write(run, "results:item", dict.fromkeys(map(str, range(1, count)), "1"))
    write(run, "items:item", dict.fromkeys(map(str, range(1, count)), "1"))
    expanded = json.dumps(run.node("all.over") | {"choice": count})
    world.client.hset(world.keys.nodes(run.id), "all.over", expanded)
    world.client.hset(world.keys.run(run.id), mapping={"seq": seq + count, "map_count": count, "map_next": count})
    return run


def write(run: Run, part: str, values: dict[str, str]) -> None:
    names = list(values)
    pipe = run.world.client.pipeline(transaction=False)
    for first in range(0, len(names), AT_ONCE):
        pipe.hset(
            f"{run.world.keys.run(run.id)}:{part}", mapping={n: values[n] for n in names[first : first + AT_ONCE]}
        )
    pipe.execute()


def undo_at_once(run: Run, state: str = "compensated") -> None:
    """Let the compensations of the items end as if each had been made, the last of the saga by the scripts."""
    client, key, rows = run.world.client, run.world.keys.run(run.id), {}
    ended = {"state": "succeeded" if state == "compensated" else "failed", "attempt": 1, "seq": 10**7, "generation": 0}
    for name, record in run.world.store.nodes(run.id).items():
        if name.startswith("item[") and record["state"] == "compensating" and name != "item[0]":
            rows[name] = json.dumps(record | {"state": state, "generation": 1})
            rows[f"undo-{name}"] = json.dumps(ended)
    rows["undo-item[0]"] = json.dumps({"state": "ready", "attempt": 0, "since": 1, "generation": 0})
    write(run, "nodes", rows)
    client.hset(key, mapping={"saga_at": client.llen(f"{key}:saga"), "saga_failed": int(state != "compensated")})
    run.complete(run.do("undo-item[0]") if state == "compensated" else run.break_off("undo-item[0]"))


def parked_items(world: World, count: int) -> Run:
    """A run whose map has so many items, all of them waiting for their next attempt."""
    run = mapped_run(world, count, undone=True)
    run.fail("item[0]", run.hold("item"), delay_ms=10**8)
    record = json.dumps(run.node("item[0]"))
    names = [f"item[{number}]" for number in range(count)]
    write(run, "nodes", dict.fromkeys(names, record))
    due = json.loads(record)["due"]
    for first in range(0, count, AT_ONCE):
        part = names[first : first + AT_ONCE]
        world.client.sadd(f"{world.keys.run(run.id)}:open", *part)
        world.client.zadd(world.keys.timers, {f"{run.id}|{name}": due for name in part})
    world.client.hset(world.keys.run(run.id), mapping={"map_next": count})
    return run


def move_many(world: World, count: int) -> None:
    """Everything that a run of so many items can be brought to."""
    run = parked_items(world, count)
    assert run.look() == []
    run.complete(run.cancel())
    assert run.status == "cancelled"
    assert world.members(world.keys.timers) == []
    assert set(run.states().values()) == {"failed", "succeeded"}
    world.scripts.delete_run(run.id, run.plan.hash)
    run = succeeded_items(world, count)
    last = f"undo-item[{count - 1}]"
    assert run.complete(run.break_off("after")).work.names[0] == last
    world.client.delete(f"{world.keys.run(run.id)}:saga")
    run.look()
    while run.field("unfinished"):
        run.go_on()
    assert world.client.lindex(f"{world.keys.run(run.id)}:saga", 0).decode() == last
    undo_at_once(run, "compensation_failed")
    assert run.status == "compensation_failed"
    assert run.complete(run.resume()).work.names[0] == last
    undo_at_once(run)
    assert run.status == "failed"
    assert run.complete(run.resume()).work.names[0] == "item"
    assert (run.field("open"), run.field("map_next")) == (str(count), "0")
    run.complete(run.cancel())
    assert run.status == "cancelled"
    world.scripts.delete_run(run.id, run.plan.hash)


def fork_many(world: World, count: int) -> None:
    """Fork a run behind its map of so many items."""
    run = succeeded_items(world, count)
    write(run, "outputs", {"item": f"@item|{count}"})
    run.do("after")
    fork = fork_of(run, "after")
    assert world.client.hlen(world.keys.results(fork.id, "item")) == count
    assert fork.break_off("after").work.kind == "", "nothing is undone by the fork"
    assert fork.status == "failed"
    for each in (run, fork):
        world.scripts.delete_run(each.id, each.plan.hash)


class Touched:
    """Records that each script has read or written, by MONITOR."""

    COMMAND = re.compile(r"(HGET|HSET|HMGET|HDEL|HEXISTS|HGETALL|HSCAN|HVALS|HKEYS) (\S+):nodes ?(.*)", re.IGNORECASE)

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url)

    def read(self, monitor: Any) -> list[int]:
        """Return how many records each script has touched, of all until the word `stop` is set."""
        found: list[set[str]] = []
        for entry in monitor.listen():
            command, name = entry["command"], entry["command"].split(" ", 1)[0].upper()
            if command.startswith("SET stop"):
                return [len(each) for each in found]
            if entry["client_type"] != "lua":
                found += [set()] * (name in {"EVALSHA", "EVAL"})
            elif told := self.COMMAND.match(command):
                assert told[1].upper() in {"HGET", "HSET", "HMGET", "HDEL", "HEXISTS"}, command
                fields = told[3].split(" ")
                found[-1] |= set(fields[::2] if told[1].upper() == "HSET" else fields)
        raise AssertionError("the monitor ended")


def test_no_script_touches_more_than_so_many_records(world, server):
    touched = Touched(server.url)
    with touched.client.monitor() as monitor:
        move_many(world, MANY)
        fork_many(world, MANY)
        world.client.set("stop", 1)
        counts = touched.read(monitor)
    world.client.delete("stop")
    assert 150 < max(counts) <= MOST_RECORDS


class TimedScripts(Scripts):
    """Scripts that are timed by the processor time of the server, which other work on the machine does not change."""

    longest_ms = 0.0

    def _call(self, *args: Any, **options: Any) -> Any:
        before = self._spent()
        answer = super()._call(*args, **options)
        self.longest_ms = max(self.longest_ms, 1000 * (self._spent() - before))
        return answer

    def _spent(self) -> float:
        told = self._client.info("cpu")
        return float(told["used_cpu_user_main_thread"] + told["used_cpu_sys_main_thread"])


@pytest.fixture
def timed(world):
    world.scripts = world.store.scripts = TimedScripts(world.client, world.keys)
    yield world
    assert 0 < world.scripts.longest_ms < LONGEST_MS


def test_no_script_holds_the_server_for_long(timed):
    move_many(timed, MANY)
    fork_many(timed, MANY)


def test_a_parallel_step_of_a_thousand_is_entered_at_once(timed):
    run = timed.run(plan_of(flow().then(node("a")).then_parallel("wide", *[node(f"m-{n}") for n in range(1000)])))
    assert len(run.do("a").work.names) == 1000
    run.complete(run.cancel())
    assert run.status == "cancelled"


@pytest.mark.chaos_long
@pytest.mark.timeout(900)
def test_no_script_holds_the_server_for_long_with_as_many_items_as_a_map_may_have(timed):
    move_many(timed, MOST_ITEMS)
    fork_many(timed, MOST_ITEMS)
