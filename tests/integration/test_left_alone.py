"""A worker that consumes no queue of a flow has nothing of the engine, until it is asked to consume one."""

from __future__ import annotations

import re
import threading
from collections import Counter
from contextlib import contextmanager

import pytest
import redis

from tests.harness import WorkerProcess, environment_for, load_program, wait_until

THREADS = ["orchestrator-leases", "orchestrator-sweep", "orchestrator-timers", "orchestrator-watchdog"]
NOTHING = {"threads": [], "patched": False, "limits": [], "retries": 100}
TASKS = 100


@pytest.fixture(scope="module")
def server(pooled_server):
    return pooled_server


@contextmanager
def working(server, folder, *options, program="pooled", **variables):
    environment = environment_for(server.url) | variables
    folder.mkdir(exist_ok=True)
    made = WorkerProcess(
        f"tests.programs.{program}",
        "w0",
        folder / "worker.log",
        environment=environment,
        options=["-c", "2", "--without-gossip", "--without-mingle", "--without-heartbeat", *options],
    )
    try:
        wait_until(made.is_up, "the worker is up", timeout=60)
        yield made
    finally:
        made.stop()


def test_a_worker_takes_flows_from_when_it_consumes_a_queue_of_one(server, tmp_path):
    pooled = load_program("pooled", server.url)
    control = pooled.app.control

    def parts():
        (found,) = control.inspect(timeout=10, limit=1)._request("engine_parts").values()
        return found

    with working(server, tmp_path, "-Q", "own") as worker:
        assert pooled.own.delay(1).get(timeout=30) == 1
        assert parts() == NOTHING
        assert pooled.orchestrator._engine.store.workers() == []
        (stats,) = control.inspect(timeout=10, limit=1).stats().values()
        assert stats["prefetch_count"] == 2 * 4
        run = pooled.orchestrator.start("line", 1)
        assert parts() == NOTHING, "a run that waits for others does not switch it on"

        control.add_consumer("flows", reply=True, timeout=10, limit=1)
        assert run.wait(timeout=30) == "succeeded"
        found = parts()
        assert found["threads"] == THREADS
        assert found["patched"]
        assert "socket_timeout" in found["limits"]
        assert found["retries"] is None
        assert pooled.own.delay(1).get(timeout=30) == 1
        # A process that dies is seen by the lease thread, although it began before there was one.
        assert pooled.orchestrator.start("dies").wait(timeout=30) == "succeeded"
        assert "this worker takes flows from now on, it consumes flows, own" in worker.log.read_text()
    assert pooled.orchestrator._engine.store.workers() == []


def commands_of_own_tasks(server, folder, *, flows):
    """The broker's commands for tasks of an app's own, by name and key, in a worker that takes flows too or not."""
    seen: Counter[str] = Counter()
    is_watching, is_over = threading.Event(), threading.Event()

    def watch():
        with redis.Redis.from_url(server.url) as client, client.monitor() as monitor:
            is_watching.set()
            for entry in monitor.listen():
                words = entry["command"].split(" ")
                if words[0] == "ECHO":
                    break
                if entry["db"] == 0 and re.search(r"unacked|kiosk|celery-task-meta|LPUSH|HSET|ZADD", entry["command"]):
                    key = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d{6,}", "", " ".join(words[:2]))
                    seen[key] += 1
        is_over.set()

    with working(server, folder, "-Q", "kiosk", program="beside", TEST_FLOWS="1" if flows else ""):
        beside = load_program("beside", server.url)
        client = redis.Redis.from_url(server.url)
        assert beside.add.delay(0, 0).get(timeout=30) == 0
        wait_until(lambda: not client.hlen("unacked"), "what happens once is over")
        thread = threading.Thread(target=watch)
        thread.start()
        assert is_watching.wait(10)
        for number in range(TASKS):
            assert beside.add.delay(number, 1).get(timeout=30) == number + 1
        wait_until(lambda: not client.hlen("unacked"), "all are acknowledged")
        client.echo("over")
        assert is_over.wait(10)
        thread.join(10)
        client.close()
    # As often as the time lets them, or as the one who waits for a result comes before it or after it.
    for changing in ("BRPOP", "SET unacked_mutex", "EVALSHA", "ZADD _kombu", "GET", "HLEN", "SUBSCRIBE", "UNSUBSCRIBE"):
        for key in [key for key in seen if key.startswith(changing)]:
            del seen[key]
    return seen


def test_own_tasks_beside_flows_have_the_same_commands(server, tmp_path):
    without = commands_of_own_tasks(server, tmp_path / "without", flows=False)
    assert sum(without.values()) > 5 * TASKS
    assert commands_of_own_tasks(server, tmp_path / "with", flows=True) == without
