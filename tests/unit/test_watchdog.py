"""Limit how long a shutdown takes, also a cold one, of which Celery says nothing before its pool has ended."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker import state

from orchestrator.liveness.watchdog import Watchdog


@pytest.mark.parametrize("exit_code", [True, 0, 1])
def test_the_grace_of_a_cold_shutdown_begins_with_it(monkeypatch, exit_code):
    monkeypatch.setattr(state, "should_terminate", None)
    is_over, begun = threading.Event(), []

    def begin() -> None:
        begun.append(1)
        watchdog.begin_grace(0.1)

    renewer: Any = SimpleNamespace(known={})
    watchdog = Watchdog(renewer, begin, is_over.set)
    watchdog.start()
    try:
        assert not is_over.wait(1)
        monkeypatch.setattr(state, "should_terminate", exit_code)
        assert is_over.wait(30)
        assert begun == [1]
    finally:
        watchdog.end()
        watchdog.join(30)
