"""The load that raw canvas was measured with, in small, under each fault: nothing is lost and nothing counted twice."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest

from orchestrator import StoreError
from tests.chaos.world import World, check_keys, check_run, watched_power
from tests.harness import wait_until

RUNS = 60
FAULTY_S = 8.0


def kill_children(world, rng, _power):
    world.kill_child(rng)
    time.sleep(1)


def kill_workers(world, rng, _power):
    world.kill_worker(rng)
    time.sleep(3)


def stop_server(world, rng, _power):
    world.server.stop()
    time.sleep(rng.random())
    world.server.start()
    time.sleep(2)


def kill_server(world, rng, _power):
    world.server.process.kill()
    world.server.process.wait(10)
    world.server.restart()
    time.sleep(2)


def lose_power(_world, _rng, power):
    time.sleep(2.5)  # so that there is a second to lose
    assert power.lose() > 0, "nothing was lost"


def fill_memory(world, _rng, _power):
    client = world.client
    client.config_set("maxmemory", client.info("memory")["used_memory"] - 1000)
    time.sleep(2)
    client.config_set("maxmemory", 0)
    time.sleep(1)


def cut_connections(world, rng, _power):
    cut = 0
    for _ in range(5):
        cut += sum(world.client.client_kill_filter(_type=kind) for kind in ("normal", "pubsub"))
        time.sleep(rng.random() / 2)
    assert cut, "no connection was cut"
    time.sleep(1)


def cut_connections_while_full(world, rng, power):
    world.client.config_set("maxmemory", 1)
    cut_connections(world, rng, power)
    world.client.config_set("maxmemory", 0)
    time.sleep(1)


def start_surely(orchestrator, name, number):
    """Start a run as a careful client does: with an idempotency key, again until Redis answers."""

    def attempt():
        try:
            return orchestrator.start(name, idempotency_key=f"{name}-{number}")
        except StoreError:
            return None

    return wait_until(attempt, f"run {number} is started", timeout=60)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "fault",
    [
        kill_children,
        kill_workers,
        stop_server,
        kill_server,
        lose_power,
        fill_memory,
        cut_connections,
        cut_connections_while_full,
    ],
)
def test_no_run_is_lost_and_nothing_is_counted_twice(fault, tmp_path):
    rng = random.Random(7)
    with World(tmp_path) as world, watched_power(world.server, tmp_path / "server") as power:
        world.start_workers()
        orchestrator = world.orchestrator()
        runs = [start_surely(orchestrator, "fan" if number % 3 == 0 else "chain", number) for number in range(RUNS)]
        wait_until(lambda: orchestrator.runs(status="running", limit=1), "work is in progress")
        began = time.monotonic()
        fault(world, rng, power)  # this one certainly hits work in progress
        while time.monotonic() - began < FAULTY_S and world.client.zcard("orchestrator:live"):
            fault(world, rng, power)
        # A power loss may take a start with it that was acknowledged in the lost second: the same key starts it again.
        runs = [start_surely(orchestrator, "fan" if number % 3 == 0 else "chain", number) for number in range(RUNS)]
        for run in runs:
            run.wait(timeout=60)
            check_run(run, "succeeded")
        assert Counter(run.result(int) for run in runs) == {5: RUNS * 2 // 3, 37: RUNS // 3}
        check_keys(world.client)
        world.check_workers()
