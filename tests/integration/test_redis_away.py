"""Redis away or full: a start is refused in bounded time, a wait outlasts it, a worker stays alive or ends in time."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from celery import Celery

from orchestrator import FlowBuilder, Node, Orchestrator, StoreUnavailable, manual
from orchestrator.server import EmbeddedServer
from tests.harness import Ledger, wait_until, workers

flow = FlowBuilder("away").triggered_by(manual("test")).then(Node("one", lambda: 1)).build()


def test_a_start_is_refused_and_a_wait_goes_on_when_redis_is_back(tmp_path):
    with EmbeddedServer(tmp_path) as server:
        orchestrator = Orchestrator(Celery("away", broker=server.url, backend=server.url, set_as_current=False))
        run = orchestrator.start(flow)
        server.stop()
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="did not answer"):
            orchestrator.start(flow)
        assert time.monotonic() - began < 30
        seen: list[str] = []
        waiting = threading.Thread(target=lambda: seen.append(run.wait(timeout=60)), daemon=True)
        waiting.start()
        server.start()
        run.cancel("enough")
        waiting.join(timeout=60)
        assert seen == ["cancelled"]


@pytest.fixture
def own_server(tmp_path):
    """One of this test's own, as it is stopped."""
    with EmbeddedServer(tmp_path / "server") as running:
        yield running


@pytest.fixture
def gate(tmp_path, monkeypatch):
    """The file that holds back the node of `talks`."""
    path = tmp_path / "gate"
    path.touch()
    monkeypatch.setenv("TEST_GATE", str(path))
    return path


@pytest.fixture
def worker(own_server, gate, tmp_path):
    options = {"lease": "3", "reconcile_every": "0.5", "shutdown_grace": "5"}
    with workers("tests.programs.hostile", own_server.url, tmp_path, count=1, options=["-c", "2"], **options) as (
        running,
    ):
        yield running


def start_held(own_server):
    """A client, and a run whose first node is at work until the gate is gone."""
    orchestrator = Orchestrator(Celery("away", broker=own_server.url, backend=own_server.url, set_as_current=False))
    run = orchestrator.start("talks")
    Ledger(own_server.url).wait_for("start", run.id)
    return orchestrator, run


def test_redis_away_refuses_a_start_and_a_wait_outlasts_it(own_server, worker, gate):
    orchestrator, run = start_held(own_server)
    message = f"Redis at 127.0.0.1:{own_server.port}/0 did not answer: "
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(run.wait, 60)
        own_server.stop()
        try:
            calls = [
                lambda: orchestrator.start("fresh", None, idempotency_key="away"),
                lambda: orchestrator.get(run.id),
                lambda: orchestrator.runs(flow="talks"),
                lambda: run.status,
                run.cancel,
                run.resume,
            ]
            began = time.monotonic()
            for call in calls:
                with pytest.raises(StoreUnavailable, match=message) as caught:
                    call()
                assert type(caught.value) is StoreUnavailable
            assert time.monotonic() - began < 3 * len(calls)
            gate.unlink()  # the node ends while nobody can store it
            with pytest.raises(StoreUnavailable, match=message):
                run.wait(timeout=1)
        finally:
            own_server.restart()
        assert waiting.result(timeout=60) == "succeeded"
    assert run.result(str) == "held"
    assert [event.attempt for event in run.history() if event.event == "started"] == [1, 1]
    assert orchestrator.start("fresh", None, idempotency_key="away").result(int, timeout=60)
    assert worker.process.poll() is None, worker.log.read_text()[-4000:]


def test_a_worker_that_is_told_to_end_while_redis_is_away_ends_within_its_grace(own_server, worker):
    start_held(own_server)
    own_server.stop()
    wait_until(lambda: "Trying again in" in worker.log.read_text(), "the worker has lost its connection")
    assert "(1/None)" in worker.log.read_text(), "it would give up after some tries"
    began = time.monotonic()
    worker.terminate()
    assert worker.process.wait(timeout=60) == 0
    assert time.monotonic() - began < 3 * 5 + 10, "a grace of 5 s, and the time to kill and give back"


def test_a_worker_that_cannot_go_on_ends_within_its_grace_whatever_still_runs(own_server, worker, gate):
    _, run = start_held(own_server)
    with redis.Redis.from_url(own_server.url) as client:
        client.lpush("celery", "not JSON")  # ends kombu's consumer
    assert worker.process.wait(timeout=3 * 5 + 10) == 1
    assert "Unrecoverable error" in worker.log.read_text()
    assert run.history()[-1].event == "lost", "its claim was not given back"
    assert gate.exists()


def test_a_worker_that_loses_its_connection_to_a_full_redis_connects_again(own_server, worker):
    orchestrator = Orchestrator(Celery("full", broker=own_server.url, backend=own_server.url, set_as_current=False))
    with redis.Redis.from_url(own_server.url) as client:
        client.config_set("maxmemory", 1)
        try:
            assert client.client_kill_filter(_type="normal")
            wait_until(lambda: "Trying to reconnect..." in worker.log.read_text(), "a reconnect is refused")
        finally:
            client.config_set("maxmemory", 0)
    assert orchestrator.start("fresh").result(int, timeout=60)
    assert worker.process.poll() is None, worker.log.read_text()[-4000:]
