"""The worlds that chaos tests share: each starts once in a test process, and is whole again for every test.

Only what a world says from its start on cannot be shared: settings of the workers and of their app. Faults, the pace
of nodes and what becomes of messages are told to workers that run.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from kombu.transport import redis as redis_transport

from tests.chaos.world import World
from tests.post import ORDERS, VARIABLE, close_office, open_office

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="package")
def plain_world(tmp_path_factory):
    """Two workers of the load's flows."""
    with World(tmp_path_factory.mktemp("plain")) as made:
        made.start_workers()
        yield made


@pytest.fixture
def world(plain_world):
    with plain_world.lent():
        yield plain_world


@pytest.fixture(scope="package")
def network_world(tmp_path_factory):
    """Two workers behind a proxy, on an app that says nothing about sockets."""
    with World(tmp_path_factory.mktemp("network"), program="tests.programs.network", proxied=True) as made:
        made.start_workers()
        yield made


@pytest.fixture(scope="package")
def office_world(tmp_path_factory):
    """Two workers that send through a post office."""
    settings: dict[str, Any] = {VARIABLE: "open"}
    with World(tmp_path_factory.mktemp("office"), **settings) as made:
        made.start_workers()
        yield made


@pytest.fixture
def office(office_world, monkeypatch):
    """The world whose workers and whose client send through a post office, with orders of one's own."""

    @contextmanager
    def opened(orders: str, *, work_s: float = 0.01) -> Iterator[World]:
        with office_world.lent(work_s=work_s) as world, monkeypatch.context() as patch:
            world.ledger.client.set(ORDERS, orders)
            patch.setattr(redis_transport.Channel, "_put", redis_transport.Channel._put)  # undone with the context
            open_office(world.ledger)
            try:
                yield world
            finally:
                close_office()

    return opened
