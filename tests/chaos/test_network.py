"""A network that breaks and a Redis that is a nuisance, under load: every run ends right, and every worker goes on.

The workers' app says nothing about sockets, so that what is seen is what the engine does for any app.
"""

from __future__ import annotations

import re
import signal
import time
import uuid
from collections import Counter

import pytest

from tests.chaos.test_load import start_surely
from tests.chaos.world import LEASE_S, World, check_keys, check_run
from tests.harness import child_pids, wait_until

PROGRAM = "tests.programs.network"
DEAF_S = 30.0
"""Twice of what is aimed at, for a busy machine; with Celery's own settings it is a minute or without end."""
CUTS, CUT_S, HOLE_S, DELAY_S = 3, 2.0, 6.0, 0.15


WORK_S = 0.2


@pytest.fixture
def world(network_world):
    with network_world.lent(work_s=WORK_S) as lent:
        yield lent
        lent.proxy.delay(0)


def start_load(orchestrator, count):
    about = uuid.uuid4().hex
    return [start_surely(orchestrator, "fan" if n % 3 == 0 else "chain", f"{about}-{n}") for n in range(count)]


def started_often(world):
    """How each node began that did so more than once."""
    calls = Counter(name.rsplit("/", 1)[0] for name in world.ledger.names("start"))
    return {name: count for name, count in calls.items() if count > 1}


def check_load(world, runs):
    """Every run ended right, and no node began more often than its attempts say."""
    for run in runs:
        run.wait(timeout=90)
        check_run(run, "succeeded")
    fans = sum(run.flow_name == "fan" for run in runs)
    assert Counter(run.result(int) for run in runs) == {5: len(runs) - fans, 37: fans}
    check_keys(world.client)


def check_workers(world):
    """No worker ended."""
    assert world.deaths == 0, [worker.log.read_text()[-3000:] for worker in world.workers]


def is_working(world):
    return world.client.zcard("orchestrator:live") > 0


def deaf_for(world):
    """Seconds until every worker has begun a node of a run that is started from now on."""
    orchestrator = world.orchestrator(world.server.url)  # which itself is not deaf
    began = time.monotonic()
    probes: set[str] = set()
    heard: dict[str, float] = {}
    while len(heard) < len(world.workers):
        assert time.monotonic() < began + 90, f"only {heard} are not deaf"
        probes |= {orchestrator.start("telling").id for _ in range(3)}
        time.sleep(0.5)
        starts = [(name.split("/")[0], pid) for event, name, _, pid in world.ledger.lines() if event == "start"]
        pids = {pid for run_id, pid in starts if run_id in probes}
        for worker in world.workers:
            if pids.intersection(child_pids(worker.pid)):
                heard.setdefault(worker.name, time.monotonic() - began)
    for run_id in probes:
        assert orchestrator.get(run_id).wait(timeout=60) == "succeeded"
    return max(heard.values())


@pytest.mark.timeout(180)
def test_cuts_under_load_lose_nothing(world):
    orchestrator = world.orchestrator()
    runs = start_load(orchestrator, 15)
    for _ in range(CUTS):
        wait_until(lambda: world.ledger.names("start"), "a node works")
        assert is_working(world)
        assert world.proxy.cut(CUT_S) > 0
        world.ledger.clear()
    assert deaf_for(world) < DEAF_S
    check_load(world, runs)
    check_workers(world)


@pytest.mark.timeout(180)
@pytest.mark.chaos_long
@pytest.mark.parametrize("forget", [True, False])
def test_a_black_hole_makes_no_worker_deaf_for_long(forget, world):
    runs = start_load(world.orchestrator(), 6)
    wait_until(lambda: world.ledger.names("start"), "a node works")
    assert world.proxy.stall(HOLE_S, forget=forget) > 0
    assert is_working(world)
    assert deaf_for(world) < DEAF_S
    check_load(world, runs)
    check_workers(world)


@pytest.mark.timeout(180)
@pytest.mark.chaos_long
def test_a_slow_network_repeats_nothing(world):
    world.proxy.delay(DELAY_S)
    check_load(world, start_load(world.orchestrator(), 3))
    assert started_often(world) == {}
    check_workers(world)


@pytest.mark.timeout(180)
@pytest.mark.chaos_long
def test_flushed_scripts_and_killed_connections_have_no_effect(world):
    client = world.client
    runs = start_load(world.orchestrator(), 9)
    killed = flushed = 0
    while is_working(world) and flushed < 200:
        client.script_flush()
        flushed += 1
        if flushed % 5 == 0:
            killed += client.client_kill_filter(_type="normal", skipme=True)
        time.sleep(0.1)
    assert (flushed > 3, killed > 0) == (True, True)
    check_load(world, runs)
    assert started_often(world) == {}
    check_workers(world)


@pytest.mark.timeout(180)
def test_a_pause_longer_than_the_lease_ends_no_lease(network_world):
    with network_world.lent(work_s=0.4, nap_s=6) as world:
        orchestrator = world.orchestrator()
        naps = [orchestrator.start("naps") for _ in range(2)]
        for run in naps:
            world.ledger.wait_for("start", f"{run.id}/nap/1")
        runs = start_load(orchestrator, 2)
        wait_until(lambda: any("/link" in name for name in world.ledger.names("start")), "the other slots work too")
        world.server.process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(LEASE_S + 2)
        finally:
            world.server.process.send_signal(signal.SIGCONT)
        assert not any(run.status.is_final for run in [*naps, *runs])
        for run in naps:
            assert run.wait(timeout=60) == "succeeded"
            check_run(run, "succeeded")
        check_load(world, runs)
        for run in [*naps, *runs]:
            assert not {event.event for event in run.history()} & {"lost", "timed-out", "retrying"}
        assert started_often(world) == {}
        check_workers(world)


@pytest.mark.timeout(120)
def test_a_node_that_runs_for_longer_than_the_visibility_timeout_is_not_delivered_again(tmp_path):
    with World(tmp_path, program=PROGRAM, workers=1, TEST_VISIBILITY_S="1") as world:
        world.start_workers()
        world.ledger.client.set("nap_s", 4)
        run = world.orchestrator().start("naps")
        assert run.wait(timeout=60) == "succeeded"
        received = re.findall(r"Task naps\.nap\[(\S+)\] received", world.workers[0].log.read_text())
        assert len(received) == 1
        assert check_run(run, "succeeded") == {"before": 1, "nap": 1, "afterwards": 1}
        assert started_often(world) == {}
        check_keys(world.client)
        check_workers(world)
