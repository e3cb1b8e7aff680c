"""The real server and the real workers that tests share, and what must hold after every test that used them."""

from __future__ import annotations

import os
import shutil
from collections import Counter

import pytest
import redis
from hypothesis import settings

from orchestrator.server import EmbeddedServer
from tests.fake_server import InProcessServer, why_not
from tests.harness import Ledger, await_children, lasting_keys, load_program, logs_with_stacks, workers
from tests.rabbit import find_program
from tests.scheduling import WorldScheduling

LEFT_TO_THE_REAL_SERVER = pytest.StashKey[Counter[str]]()
WITHOUT_RABBITMQ = pytest.StashKey[int]()
WITHOUT_BROWSER = pytest.StashKey[int]()
# No example is late: how long one takes is up to the other tests on this machine.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")


def pytest_addoption(parser):
    parser.addoption("--fake-server", action="store_true", help="run script tests on fakeredis, and none with workers")


def pytest_collection_modifyitems(config, items):
    if config.getoption("fake_server"):
        reasons: Counter[str] = Counter()
        config.stash[LEFT_TO_THE_REAL_SERVER] = reasons
        reasons.update(reason for item in items if (reason := why_not(item)))
        config.hook.pytest_deselected(items=[item for item in items if why_not(item)])
        items[:] = [item for item in items if not why_not(item)]
    # CI installs them and says so: there, a test that does not find what it needs fails.
    if find_program() is None and not os.environ.get("REQUIRE_RABBITMQ"):
        config.stash[WITHOUT_RABBITMQ] = leave_out(config, items, "rabbitmq")
    if shutil.which("chromedriver") is None and not os.environ.get("REQUIRE_BROWSER"):
        config.stash[WITHOUT_BROWSER] = leave_out(config, items, "browser")


def leave_out(config, items, marker):
    """Deselect the tests with a marker, and return how many."""
    without = [item for item in items if item.get_closest_marker(marker)]
    config.hook.pytest_deselected(items=without)
    items[:] = [item for item in items if item not in without]
    return len(without)


def pytest_report_collectionfinish(config):
    left = config.stash.get(LEFT_TO_THE_REAL_SERVER, {})
    lines = [f"{count} tests are left to the real server: {reason}" for reason, count in left.items()]
    if count := config.stash.get(WITHOUT_RABBITMQ, 0):
        lines.append(f"{count} tests are left to a machine with RabbitMQ: apt-get install rabbitmq-server")
    if count := config.stash.get(WITHOUT_BROWSER, 0):
        lines.append(f"{count} tests are left to a machine with a browser: apt-get install chromium chromium-driver")
    return lines


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call):
    """Behind a failure stand the logs of the workers, which say what their pool processes were doing."""
    report = yield
    if report.failed and call.when == "call":
        report.sections += [(f"log of worker {name}", text) for name, text in logs_with_stacks()]
    return report


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return WorldScheduling(config, log)


@pytest.fixture(scope="session")
def server(request, tmp_path_factory):
    """One server for the whole session."""
    if request.config.getoption("fake_server"):
        yield InProcessServer()
        return
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def sample(server, tmp_path_factory):
    """The sample program in this process, with a worker of four processes behind it.

    It ends with its module: its reconciler would send what the tests of others left, and on purpose did not send.
    """
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
    if "server" not in request.fixturenames or request.config.getoption("fake_server"):
        return  # script tests look at the keys of their own prefix
    client = redis.Redis.from_url(request.getfixturevalue("server").url, decode_responses=True)
    await_children(client)
    for key, status in lasting_keys(client, "orchestrator:run:*").items():
        assert status in {"pending", "running", "compensating"}, f"{key} of a run that is {status!r} has no TTL"
