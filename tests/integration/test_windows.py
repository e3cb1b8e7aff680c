"""Start runs where there is no fork and no signal, as on Windows; a worker there says what it needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from orchestrator.server import EmbeddedServer
from tests.harness import ROOT, environment_for


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as own:
        yield own


def test_a_client_and_a_pool_of_threads_work(server):
    ran = subprocess.run(
        [sys.executable, "-m", "tests.programs.windows"],
        cwd=ROOT,
        env=environment_for(server.url),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.stdout.splitlines() == [
        "pending",
        "2",
        "2",
        "ConfigurationError: a worker on Windows runs flows with --pool=threads or --pool=solo only",
    ], ran.stderr[-4000:]
