"""Fixtures that several modules share."""

from __future__ import annotations

import pytest

from orchestrator.server import EmbeddedServer
from tests.full_server import free
from tests.scripts_tree import Tree
from tests.scripts_world import opened


@pytest.fixture(scope="session")
def pooled_server(tmp_path_factory):
    """The server of the program `pooled`: nothing else is on it, so that its tests may flush it."""
    with EmbeddedServer(tmp_path_factory.mktemp("pooled")) as running:
        yield running


@pytest.fixture
def world(server):
    """A prefix of its own on the common server."""
    with opened(server.url) as made:
        yield made


@pytest.fixture(scope="module")
def small_server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("small")) as running:
        yield running


@pytest.fixture
def small(small_server):
    """A prefix on a server that can be full."""
    with opened(small_server.url) as world:
        try:
            yield world
        finally:
            free(world)


@pytest.fixture
def tree(world):
    made = Tree(world)
    yield made
    made.tend()
