"""A fleet with nothing to do asks Redis little, and what comes is noticed all the same: recovery does not grow."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest
import redis

from orchestrator.server import EmbeddedServer
from tests.harness import load_program, wait_until, workers

PROGRAM = "tests.programs.rested"
COUNTED_S = 6
LEADERS, FOLLOWERS = 10, 1
"""Commands a second at most, of the worker that leads and of another one."""
WAITING = 1_000


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def rested(server):
    return load_program("rested", server.url)


@pytest.fixture(scope="module")
def fleet(rested, server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rested")
    options = ["-c", "4", "-Q", "rested", "--without-gossip"]
    with workers(PROGRAM, server.url, folder, count=2, options=options) as running:
        yield running


def commands_of(server, seconds):
    """Commands of ours in so many seconds, by client; those within scripts are not sent by any."""
    found: Counter[str] = Counter()
    names: Counter[str] = Counter()
    client = redis.Redis.from_url(server.url)
    with client.monitor() as monitor:
        threading.Timer(seconds, lambda: client.set("stop", 1)).start()
        for entry in monitor.listen():
            if entry["command"].startswith("SET stop"):
                break
            is_ours = "orchestrator:" in entry["command"] or entry["command"].startswith("INFO")
            if entry["client_type"] != "lua" and is_ours:
                found[f"{entry['client_address']}:{entry['client_port']}"] += 1
                names[" ".join(entry["command"].split()[:4])[:100]] += 1
    return found, names


def test_a_fleet_at_rest_sends_few_commands(rested, fleet, server):
    assert rested.orchestrator.start("rested-now").result(int, timeout=30) == 1
    time.sleep(6)  # workers that were busy just now look for lost claims
    found, names = commands_of(server, COUNTED_S)
    assert sum(found.values()) / COUNTED_S <= LEADERS + FOLLOWERS, names.most_common(20)


def test_a_timer_is_exact_although_its_leader_waits(rested, fleet):
    late = []
    for _ in range(5):
        run = rested.orchestrator.start("rested-again")
        assert run.result(int, timeout=30) == 2
        events = {(event.event, event.attempt): event.at for event in run.history() if event.node == "again"}
        late.append((events["started", 2] - events["retrying", 1]).total_seconds() - rested.AGAIN_S)
    assert sorted(late)[2] < 0.3, late  # 100 ms are promised; a busy machine takes longer


def test_a_lost_message_is_replaced_beside_many_runs_that_wait(rested, fleet, server):
    for _ in range(WAITING):
        rested.orchestrator.start("rested-later")
    client = redis.Redis.from_url(server.url)
    wait_until(lambda: client.zcount("orchestrator:timers", "-inf", "+inf") >= WAITING, "all of them wait", timeout=120)
    began, run = time.monotonic(), rested.orchestrator.start("rested-elsewhere")
    client.delete("rested-lost")
    wait_until(lambda: client.llen("rested-lost"), "its message is sent again", timeout=15)
    assert time.monotonic() - began < 5
    run.cancel()
