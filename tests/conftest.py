"""The real server and the real workers that tests share, and what must hold after every test that used them."""

from __future__ import annotations

import pytest
import redis

from orchestrator.server import EmbeddedServer
from tests.harness import Ledger, lasting_keys, load_program, workers
from tests.scheduling import WorldScheduling


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return WorldScheduling(config, log)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One server for the whole session."""
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="session")
def sample(server, tmp_path_factory):
    """The sample program in this process, with two worker processes of two children behind it."""
    program = load_program("sample", server.url)
    with workers("tests.programs.sample", server.url, tmp_path_factory.mktemp("sample")):
        yield program


@pytest.fixture
def ledger(server):
    """The ledger, empty."""
    book = Ledger(server.url)
    book.clear()
    return book


@pytest.fixture(autouse=True)
def _ended_runs_expire(request):
    """After every test with a server: no key of an ended run is without a TTL."""
    yield
    if "server" not in request.fixturenames:
        return
    client = redis.Redis.from_url(request.getfixturevalue("server").url, decode_responses=True)
    for key, status in lasting_keys(client, "orchestrator:run:*").items():
        assert status in {"pending", "running", "compensating"}, f"{key} of a run that is {status!r} has no TTL"
