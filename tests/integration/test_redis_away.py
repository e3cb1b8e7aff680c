"""A Redis that is away refuses a start in bounded time, and a wait outlasts it."""

from __future__ import annotations

import threading
import time

import pytest
from celery import Celery

from orchestrator import FlowBuilder, Node, Orchestrator, StoreUnavailable, manual
from orchestrator.server import EmbeddedServer

flow = FlowBuilder("away").triggered_by(manual("test")).then(Node("one", lambda: 1)).build()


def test_a_start_is_refused_and_a_wait_goes_on_when_redis_is_back(tmp_path):
    with EmbeddedServer(tmp_path) as server:
        orchestrator = Orchestrator(Celery("away", broker=server.url, backend=server.url, set_as_current=False))
        run = orchestrator.start(flow)
        server.stop()
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="did not answer"):
            orchestrator.start(flow)
        assert time.monotonic() - began < 30
        seen: list[str] = []
        waiting = threading.Thread(target=lambda: seen.append(run.wait(timeout=60)), daemon=True)
        waiting.start()
        server.start()
        run.cancel("enough")
        waiting.join(timeout=60)
        assert seen == ["cancelled"]
