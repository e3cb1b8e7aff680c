"""A Flower with the Flows tab, open, with a password and read-only, that the tests of this folder share."""

from __future__ import annotations

import pytest

from orchestrator.server import EmbeddedServer
from tests.flower import flower_process
from tests.harness import load_program

MODULE = "tests.programs.tabbed"


@pytest.fixture(scope="package")
def server(tmp_path_factory):
    """A server of its own: no worker of another program must take these runs."""
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as own:
        yield own


@pytest.fixture(scope="package")
def program(server):
    return load_program("tabbed", server.url)


@pytest.fixture(scope="package")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("flower")


@pytest.fixture(scope="package")
def flower(server, program, folder):
    """On loopback, without authentication, behind a prefix."""
    with flower_process(MODULE, server.url, folder / "open", prefix="/in/here") as started:
        yield started


@pytest.fixture(scope="package")
def guarded(server, program, folder):
    """With a name and a password."""
    with flower_process(MODULE, server.url, folder / "guarded", "--basic-auth=ada:secret") as started:
        yield started


@pytest.fixture(scope="package")
def read_only(server, program, folder):
    with flower_process(MODULE, server.url, folder / "read-only", "--read-only") as started:
        yield started


@pytest.fixture
def run(program):
    return program.orchestrator.start("order", tags={"customer": "4711"})
