"""Command `watch` into a pipe: each event of a run once, however long its history is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.cli import watch
from orchestrator.cli.inspection import event_line
from orchestrator.definition.state import RunStatus
from orchestrator.store.history import Event

if TYPE_CHECKING:
    from collections.abc import Iterator

BEGAN = datetime(2026, 5, 1, tzinfo=UTC)


class LongRun:
    """A run whose history keeps `kept` entries while it grows by `step` from look to look."""

    def __init__(self, *, kept: int, step: int, total: int) -> None:
        self.events = [Event(BEGAN + timedelta(seconds=at // 3), "page", f"node-{at}", 1, "") for at in range(total)]
        self.kept = kept
        self.ends: Iterator[int] = iter(range(step, total + step, step))

    @property
    def status(self) -> RunStatus:
        self.end = next(self.ends)
        return RunStatus.SUCCEEDED if self.end >= len(self.events) else RunStatus.RUNNING

    def history(self) -> list[Event]:
        return self.events[: self.end][-self.kept :]


@pytest.mark.parametrize(("kept", "step"), [(10, 3), (10, 10), (100, 7)])
def test_a_history_that_loses_its_oldest_entries_is_printed_to_its_end(kept, step, capsys, monkeypatch):
    monkeypatch.setattr(watch, "LOOK_EVERY_S", 0)
    run: Any = LongRun(kept=kept, step=step, total=50)
    watch._follow(run, is_json=True)
    out = capsys.readouterr().out.splitlines()
    assert [f'"node-{at}"' in line for at, line in enumerate(out)] == [True] * 50


def test_events_that_were_dropped_unseen_are_said(capsys, monkeypatch):
    monkeypatch.setattr(watch, "LOOK_EVERY_S", 0)
    run: Any = LongRun(kept=5, step=20, total=40)
    watch._follow(run, is_json=True)
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 10
    assert "dropped unseen" in captured.err


def test_the_delay_before_the_next_attempt_is_said_with_its_unit():
    event = Event(BEGAN, "retrying", "pay", 1, "811", "w1/77", "builtins.OSError: away")
    assert "attempt 1  again in 0.8s  builtins.OSError: away" in event_line(event)
