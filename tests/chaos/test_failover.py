"""Let another server take over while runs are at work, through Sentinel: none is lost, and none is counted twice."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from orchestrator import UnknownRun
from tests.harness import Ledger, wait_until, workers
from tests.integration.test_connections import PROGRAM, both, connected
from tests.servers import HOST, Sentinel, ServerWith

MASTER = {"master_name": "main"}


@pytest.fixture
def pair(tmp_path):
    """A master, its replica, and the Sentinel that decides between them."""
    with (
        ServerWith(tmp_path / "master") as master,
        ServerWith(tmp_path / "replica", "--replicaof", HOST, str(master.port)) as replica,
        Sentinel(tmp_path / "sentinel", master) as sentinel,
    ):
        sentinel.wait_for_replicas(1)
        yield master, replica, sentinel


def vanish(master, _sentinel):
    """Let the master die."""
    os.kill(master.process.pid, signal.SIGKILL)


def give_way(master, sentinel):
    """Let the replica take over from a master that lives, and takes no write until it is told seconds later."""
    master.client.config_set("min-replicas-to-write", 1)
    sentinel.client.execute_command("SENTINEL", "FAILOVER", "main")


@pytest.mark.chaos_long
@pytest.mark.parametrize("fail", [vanish, give_way])
@pytest.mark.timeout(300)
def test_a_failover_loses_no_run_and_counts_none_twice(pair, server, tmp_path, fail):
    count = 100
    master, replica, sentinel = pair
    url = f"sentinel://{HOST}:{sentinel.port}/0"
    options = {"broker_transport_options": MASTER, "result_backend_transport_options": MASTER}
    ledger = Ledger(server.url)
    ledger.clear()
    with (
        connected(server, both(url, **options)) as program,
        workers(PROGRAM, server.url, tmp_path, count=2, options=["-c", "4"], lease="4"),
    ):
        runs = [program.orchestrator.start("connected-work") for _ in range(count)]
        assert master.client.wait(1, 5000) == 1, "replication is asynchronous: what is not copied may be lost"
        wait_until(lambda: ledger.client.hlen("work") > count, "the runs are at work")
        with ThreadPoolExecutor(1) as thread:
            waits = thread.submit(asyncio.run, results(runs[::2]))
            fail(master, sentinel)
            wait_until(lambda: _role(replica) == "master", "the replica has taken over", timeout=30)
            assert [run.result(int, timeout=120) for run in runs[1::2]] == [4] * (count // 2)
            assert waits.result() == [4] * (count // 2)
        for run in runs:
            done = [event.node for event in run.history() if event.event == "succeeded"]
            assert sorted(done) == sorted(set(done)), "each node is stored once"
        assert program.orchestrator.start("connected-work").result(int, timeout=60) == 4
    repeats = sum(map(int, ledger.client.hgetall("work").values())) - 4 * (count + 1)
    assert repeats <= 16 + count // 10, "what was at work at the failover, and commits that were not copied yet"


async def results(runs):
    """Results that are waited for on an event loop, together."""
    return await asyncio.gather(*(run.result_async(int, timeout=120) for run in runs))


@pytest.mark.chaos_long
@pytest.mark.timeout(300)
def test_a_failover_that_lost_writes_loses_whole_runs_and_is_told(pair, server, tmp_path):
    master, replica, sentinel = pair
    url = f"sentinel://{HOST}:{sentinel.port}/0"
    options = {"broker_transport_options": MASTER, "result_backend_transport_options": MASTER}
    Ledger(server.url).clear()
    with (
        connected(server, both(url, **options)) as program,
        workers(PROGRAM, server.url, tmp_path, count=2, options=["-c", "4"], lease="4") as running,
    ):
        start = program.orchestrator.start
        kept = [start("connected-work") for _ in range(30)]
        assert master.client.wait(1, 5000) == 1, "all of them are copied"
        master.client.execute_command("ACL", "SETUSER", "default", "-psync", "-sync")
        assert master.client.client_kill_filter(_type="replica") == 1, "the replica gets nothing more"
        until, lag = time.monotonic() + 2, []
        while time.monotonic() < until:
            lag.append(start("connected-work"))
            time.sleep(0.1)
        vanish(master, sentinel)
        wait_until(lambda: _role(replica) == "master", "the replica has taken over", timeout=60)
        assert [run.result(int, timeout=120) for run in kept] == [4] * len(kept)
        for run in kept:
            done = [event.node for event in run.history() if event.event == "succeeded"]
            assert sorted(done) == sorted(set(done)), "each node is stored once"
        assert [run for run in (*kept, *lag) if _is_unknown(run)] == lag
        assert start("connected-work").result(int, timeout=60) == 4, (
            "whoever was at work with a run that is gone goes on"
        )
        keys = " ".join(replica.client.scan_iter("*", count=1000))
        assert [run.id for run in lag if run.id in keys] == [], "none is half alive"
        logs = [worker.log.read_text() for worker in running]
        assert sum("are gone, with" in log for log in logs) == 1
        lost = program.orchestrator._engine.store.upkeep.loss()
        assert 1000 <= lost.span_ms <= 6000
        assert lost.events >= 1


def _is_unknown(run):
    try:
        return not run.status
    except UnknownRun:
        return True


def _role(server):
    try:
        return server.client.info("replication")["role"]
    except redis.RedisError:
        return ""
