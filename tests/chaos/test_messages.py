"""Messages that are lost, copied, misordered, late or damaged: runs end as ever, at a bounded cost."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.chaos.test_leaders import check_follower
from tests.chaos.world import check_keys, check_run
from tests.harness import wait_until
from tests.post import counted, deliver_again, kept

if TYPE_CHECKING:
    from orchestrator import FlowRun
    from tests.chaos.world import World


EXPECTED = {
    "chain": "succeeded",
    "ten": "succeeded",
    "fan": "succeeded",
    "saga": "failed",
    "pick": "succeeded",
    "again": "succeeded",
}
NODES = {"chain": 5, "ten": 10, "fan": 9, "saga": 6, "pick": 3, "again": 2}
MIXED = [*EXPECTED, "chain", "fan", "ten", "saga"]
REPUBLISHED = "republished"


def play(world: World, names: list[str]) -> list[FlowRun]:
    """Start runs, wait for them all, and check each."""
    orchestrator = world.orchestrator()
    runs = [orchestrator.start(name) for name in names]
    for name, run in zip(names, runs, strict=True):
        run.wait(timeout=90)
        check_run(run, EXPECTED[name])
    check_keys(world.client)
    wait_until(lambda: not world.client.llen("celery") and is_idle(world), "every message is handled")
    return runs


def is_idle(world: World) -> bool:
    """Whether what was delivered has been worked on; messages of nodes leave no other trace in Redis."""
    counts = counted(world.ledger)
    return counts["handled"] == counts["delivered"]


def executions(world: World, runs: list[FlowRun]) -> Counter[str]:
    """How often each function was called, by flow and node."""
    flows = {run.id: run.flow_name for run in runs}
    calls = [line.split("/")[:2] for line in world.ledger.names("start")]
    calls += [[run_id, f"undo-{name}"] for run_id, name, _ in (line.split("/") for line in world.ledger.names("undo"))]
    return Counter(f"{flows[run_id]}/{node}" for run_id, node in calls)


def check_calls(world: World, runs: list[FlowRun]) -> None:
    """Every function was called once for each run, as without any fault."""
    calls, played = executions(world, runs), Counter(run.flow_name for run in runs)
    assert calls == {name: played[name.split("/")[0]] for name in calls}
    assert Counter(name.split("/")[0] for name in calls) == NODES


def republished(runs: list[FlowRun]) -> int:
    """Messages that reconcilers sent because they took one for lost."""
    return sum(event.event == REPUBLISHED for run in runs for event in run.history())


@pytest.mark.parametrize("copies", [pytest.param(2, marks=pytest.mark.chaos_long), 3])
def test_copies_of_every_message_run_nothing_twice_and_do_not_multiply(office, copies):
    figures = {}
    for number in (1, copies):
        with office(f"copies={number}") as world:
            ten = play(world, ["ten"])
            figures[number] = counted(world.ledger) | {REPUBLISHED: republished(ten)}
            runs = ten + play(world, MIXED)
            check_calls(world, runs)
    one, many = figures[1], figures[copies]
    assert one["sent"] - one[REPUBLISHED] == 10, "a chain of ten nodes is ten messages"
    assert many["put"] == copies * many["sent"] > one["put"]
    assert many["sent"] <= one["sent"] + many[REPUBLISHED] + 2, figures
    assert many["delivered"] <= copies * (one["delivered"] + many[REPUBLISHED] + 2), figures


@pytest.mark.parametrize("order", ["reverse", "random"])
def test_messages_that_overtake_each_other_are_joined_right(office, order):
    with office(f"order={order}") as world:
        runs = play(world, MIXED)
        figures = counted(world.ledger)
        assert figures["turned"] > 10, figures
        check_calls(world, runs)
        assert {run.result(int) for run in runs if run.flow_name == "fan"} == {37}


@pytest.mark.timeout(240)
@pytest.mark.chaos_long
def test_every_tenth_message_lost_delays_runs_and_loses_none(office):
    with office("lose=10") as world:
        runs = play(world, MIXED)
        figures = counted(world.ledger)
        assert figures["lost"] > 5, figures
        assert republished(runs) > 0
        check_calls(world, runs)


def test_every_tenth_message_lost_and_the_others_twice_in_random_order(office):
    with office("lose=10,copies=2,order=random") as world:
        runs = play(world, MIXED)
        figures = counted(world.ledger)
        assert figures["lost"] > 5, figures
        assert figures["turned"] > 10, figures
        check_calls(world, runs)


def test_a_leader_killed_after_it_sent_lost_messages_again_is_followed_by_another(office):
    with office("lose=7", work_s=0.3) as world:
        check_follower(world, "after_republish:kill9", 2, "ten")
        assert counted(world.ledger)["lost"] > 0


def state_of(client: Any) -> dict[str, Any]:
    """Everything that belongs to runs, without the marks of reconcilers, workers and monitors."""
    read = {"hash": client.hgetall, "stream": client.xrange, "string": client.get, "set": client.smembers}
    read["list"] = lambda name: client.lrange(name, 0, -1)
    names = [name for part in ("run", "plan", "index", "idem") for name in client.scan_iter(f"orchestrator:{part}:*")]
    names += ["orchestrator:events", "orchestrator:live", "orchestrator:timers"]
    return {
        name: client.zrange(name, 0, -1, withscores=True) if kind == "zset" else read[kind](name)
        for name in names
        if (kind := client.type(name)) != "none"
    }


def test_every_message_delivered_again_after_the_end_writes_nothing(office):
    with office("keep") as world:
        runs = play(world, MIXED)
        before, calls = state_of(world.client), world.ledger.lines()
        late = kept(world.ledger)
        assert len(late) == counted(world.ledger)["sent"] > 50
        tasks = {json.loads(text)["headers"]["task"] for _, text in late}
        assert {"orchestrator.advance", "orchestrator.begin-saga", "fan.join", "saga.undo-one"} <= tasks
        delivered = counted(world.ledger)["delivered"]
        random.Random(7).shuffle(late)
        deliver_again(world.client, late)
        wait_until(lambda: counted(world.ledger)["delivered"] >= delivered + len(late), "late messages are delivered")
        wait_until(lambda: is_idle(world), "late messages are handled")
        assert state_of(world.client) == before
        assert world.ledger.lines() == calls
        for run in runs:
            check_run(run, EXPECTED[run.flow_name])


DEADLY, DROPPED = "Unrecoverable error", "Connection to broker lost"
DAMAGED = {
    "no JSON": (b"\xff\xfenot json", DEADLY),
    "no object": (b"[1, 2]", DEADLY),
    "no message": (b"{}", DROPPED),
    "no body": (json.dumps({"headers": {}, "properties": {}}).encode(), DROPPED),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_an_entry_that_is_no_message_costs_at_most_a_worker(office, kind):
    """Kombu's main process ends over some of them: whoever supervises the worker starts it again."""
    entry, told = DAMAGED[kind]
    with office("copies=1", work_s=0.3) as world:
        run = world.orchestrator().start("chain")
        world.ledger.wait_for("start", f"{run.id}/link-0/1")
        world.client.rpush("celery", entry)
        wait_until(lambda: told in world.told(), "the entry is read")
        assert run.result(int, timeout=60) == 5
        check_run(run, "succeeded")
        wait_until(lambda: world.deaths == (told == DEADLY), "the worker ended and was started again")
        assert world.orchestrator().start("chain").result(int, timeout=60) == 5
        check_keys(world.client)


def test_a_message_with_an_odd_header_of_a_megabyte_is_handled(office):
    with office("keep", work_s=0.3) as world:
        run = world.orchestrator().start("chain")
        world.ledger.wait_for("start", f"{run.id}/link-0/1")
        queue, text = kept(world.ledger)[0]
        for odd in ("x" * 1_000_000, float("inf"), None, [[1]]):
            message = json.loads(text)
            message["headers"] |= {"odd": odd, "orchestrator_since": odd}
            deliver_again(world.client, [(queue, json.dumps(message))])
        assert run.result(int, timeout=60) == 5
        assert set(check_run(run, "succeeded").values()) == {1}
        assert world.deaths == 0
        check_keys(world.client)
