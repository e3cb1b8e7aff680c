"""Fixtures of the tests of the scripts."""

from __future__ import annotations

import pytest

from tests.scripts_world import opened


@pytest.fixture
def world(server):
    """A prefix of its own on the common server."""
    with opened(server.url) as made:
        yield made
