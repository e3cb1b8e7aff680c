"""The guide's worker, one for all pages, and the client by which each page starts its flow."""

from __future__ import annotations

import pytest
from celery import Celery

from orchestrator import Orchestrator
from orchestrator.server import EmbeddedServer
from tests.harness import workers


@pytest.fixture(scope="package")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="package")
def orchestrator(server, tmp_path_factory):
    """A client, with a worker of four processes on the other side of Redis."""
    folder = tmp_path_factory.mktemp("guide")
    with workers("tests.guide.app", server.url, folder, count=1, options=["-c", "4"]):
        yield Orchestrator(Celery("client", broker=server.url, backend=server.url))
