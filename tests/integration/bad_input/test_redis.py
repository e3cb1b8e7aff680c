"""A Redis that is full or silent: a clear error in bounded time, and what runs is kept."""

from __future__ import annotations

import signal
import time
from datetime import timedelta

import pytest
from celery import Celery

from orchestrator import (
    Orchestrator,
    Settings,
    StoreFull,
    StoreUnavailable,
)
from tests.harness import wait_until
from tests.hostile_world import MOVING


# --- Redis full, and Redis away --------------------------------------------------------------------
def test_a_full_redis_refuses_a_start_and_keeps_what_runs(server, hostile, stranger, client, hold):
    held = hold("talks")
    keys = set(client.scan_iter("*"))
    client.config_set("maxmemory", 1)
    try:
        for orchestrator in (hostile.orchestrator, stranger):
            with pytest.raises(StoreFull) as caught:
                orchestrator.start("fresh", None, idempotency_key="full", tags={"a": "b"})
            assert type(caught.value) is StoreFull
            assert str(caught.value).startswith(f"Redis at 127.0.0.1:{server.port}/0 is full: ")
            assert str(caught.value).endswith(". Nothing was written; free memory or raise maxmemory")
        assert [key for key in client.scan_iter("*") if key not in keys and not MOVING.match(key.decode())] == []
        held.let_go()
        refused = f"run {held.run.id} node talk: waits until Redis is back: Redis at 127.0.0.1:{server.port}/0 is full"
        wait_until(lambda: refused in held.log.read_text(), "the end of the node is refused")
        assert held.run.status == "running"
    finally:
        client.config_set("maxmemory", 0)
    held.assert_undisturbed()
    assert hostile.orchestrator.start("fresh", None, idempotency_key="full").result(int, timeout=30)


def test_a_redis_that_does_not_answer_is_named_in_bounded_time(server, hold):
    held = hold("talks")
    settings = Settings(socket_timeout=timedelta(seconds=0.5))
    hasty = Orchestrator(Celery("hasty", broker=server.url, backend=server.url), settings=settings)
    server.process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match=f"Redis at 127.0.0.1:{server.port}/0 did not answer: "):
            hasty.start("fresh")
        assert time.monotonic() - began < 3 * 3, "three tries of half a second and their waits"
    finally:
        server.process.send_signal(signal.SIGCONT)
    held.let_go()
    held.assert_undisturbed()
