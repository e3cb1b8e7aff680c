"""What the tests of the scripts share."""

from __future__ import annotations

import pytest

from tests.scripts_world import World


@pytest.fixture
def world(server):
    """A prefix of its own on the common server; at the end its keys are checked, then deleted."""
    made = World(server.url)
    try:
        yield made
        made.check()
    finally:
        made.close()
