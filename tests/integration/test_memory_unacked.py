"""Delivered messages of nodes are kept in the worker's memory alone, and given back when it shuts down."""

from __future__ import annotations

import uuid

import pytest
import redis

from orchestrator.server import EmbeddedServer
from tests.harness import WorkerProcess, environment_for, load_program, wait_until

QUEUE, UNACKED = "lean", "unacked"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def lean(server):
    return load_program("lean", server.url)


@pytest.fixture
def broker(server, lean):
    lean.LEDGER.client.delete(lean.LET_GO)
    with redis.Redis.from_url(server.url) as client:
        yield client


@pytest.fixture
def worker(server, lean, broker, tmp_path):
    """One that takes four messages for its one process."""
    environment = environment_for(server.url, lease="3", reconcile_every="0.5")
    options = ["-c", "1"]
    made = WorkerProcess("tests.programs.lean", "w0", tmp_path / "w0.log", environment=environment, options=options)
    try:
        wait_until(made.is_up, "the worker is up", timeout=60)
        yield made
    finally:
        lean.LEDGER.client.set(lean.LET_GO, 1)
        made.stop()


def test_only_messages_of_other_tasks_are_kept_in_redis(lean, worker, broker):
    run, name = lean.orchestrator.start("lean"), uuid.uuid4().hex
    lean.LEDGER.wait_for("start", f"{run.id}/held")
    assert broker.llen(QUEUE) == broker.hlen(UNACKED) == 0
    lean.plain.apply_async((name,), ignore_result=True)
    wait_until(lambda: broker.hlen(UNACKED) == 1, "the other task's message is taken")
    lean.LEDGER.client.set(lean.LET_GO, 1)
    assert run.wait(timeout=30) == "succeeded"
    wait_until(lambda: broker.hlen(UNACKED) == 0, "it is done")


def test_what_a_worker_has_not_begun_is_given_back_when_it_shuts_down(lean, worker, broker):
    runs = [lean.orchestrator.start("lean") for _ in range(4)]
    lean.LEDGER.wait_for("start", f"{runs[0].id}/held")
    wait_until(lambda: broker.llen(QUEUE) == 0, "the worker has taken all of them")
    worker.terminate()
    wait_until(lambda: "Warm shutdown" in worker.log.read_text(), "it shuts down")
    lean.LEDGER.client.set(lean.LET_GO, 1)
    assert worker.process.wait(30) == 0
    assert runs[0].status == "succeeded"
    assert broker.llen(QUEUE) == 3
    assert [run.status for run in runs[1:]] == ["pending"] * 3
