"""Leave nothing behind of Celery's worker for tests, and the process of the tests alive."""

from __future__ import annotations

import json

import pytest

from orchestrator.server import EmbeddedServer
from tests.harness import environment_for
from tests.warm import run_python


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as own:
        yield own


NOTHING = {"threads": [], "loops": 0, "workers": [], "patched": False, "variables": []}


def test_a_worker_in_a_thread_leaves_nothing_behind(server):
    """Each of three workers is stopped while a node goes on for longer than the grace of a shutdown."""
    ran = run_python(["-m", "tests.programs.tested"], environment_for(server.url, shutdown_grace="0.5"), timeout=100)
    assert ran.returncode == 0, ran.stderr[-4000:]
    *reports, last = ran.stdout.splitlines()
    assert last == "lives on"
    assert [json.loads(line) for line in reports] == [NOTHING] * 3
