"""One worker with the hostile program, and runs of it that are held at work."""

from __future__ import annotations

import os

import pytest
import redis
from celery import Celery

from orchestrator import (
    Orchestrator,
)
from orchestrator.server import EmbeddedServer
from tests.harness import load_program, workers
from tests.hostile_world import Held


@pytest.fixture(scope="package")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="package")
def gate(tmp_path_factory):
    """The file that holds back the nodes of `holds` and `talks`."""
    path = tmp_path_factory.mktemp("gate") / "shut"
    os.environ["TEST_GATE"] = str(path)
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture(scope="package")
def worker(server, gate, tmp_path_factory):
    with workers(
        "tests.programs.hostile",
        server.url,
        tmp_path_factory.mktemp("hostile"),
        count=1,
        options=["-c", "3"],
        lease="3",
        reconcile_every="0.5",
    ) as (running,):
        yield running


@pytest.fixture(scope="package")
def hostile(server, worker):
    return load_program("hostile", server.url)


@pytest.fixture(scope="package")
def stranger(server, hostile):
    """A client without the flows' code."""
    return Orchestrator(Celery("stranger", broker=server.url, backend=server.url))


@pytest.fixture
def client(server):
    with redis.Redis.from_url(server.url) as connection:
        yield connection


@pytest.fixture
def hold(hostile, worker, ledger, gate):
    """Start a run of a flow that is held back, and wait until its first node is at work."""

    def start(flow):
        gate.touch()
        run = hostile.orchestrator.start(flow)
        ledger.wait_for("start", run.id)
        return Held(run, gate, ledger, worker.log)

    yield start
    gate.unlink(missing_ok=True)


@pytest.fixture(autouse=True)
def _worker_goes_on(worker, hostile):
    """After every test: the same worker process takes fresh work."""
    yield
    assert worker.process.poll() is None, worker.log.read_text()[-4000:]
    assert hostile.orchestrator.start("fresh").result(int, timeout=30)
