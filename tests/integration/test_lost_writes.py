"""Writes that are gone are told: by the worker that led when they were made, and by the doctor, with how much it is."""

from __future__ import annotations

import pytest

from orchestrator.maintenance.lost_writes import SweepMemory
from orchestrator.maintenance.preflight import server_problems
from orchestrator.store.lost_writes import LostWrites, SweepMark

LEASE_MS = 30_000


@pytest.fixture
def sweep(world):
    """One sweep of a worker with a memory of its own."""
    memories: dict[str, SweepMemory] = {}

    def sweep(worker):
        memory = memories.setdefault(worker, SweepMemory(world.store))
        tick = world.scripts.sweep_tick(lease_ms=LEASE_MS, worker=worker, number=memory.next_number)
        memory.note(tick.before, tick.mark)
        return memory, tick.mark

    return sweep


def take_back(world, worker, mark, *, sweeps, span_ms, events):
    """Let the store be as it was so many sweeps before a mark."""
    older = f"{mark.number - sweeps} {mark.at - span_ms} {mark.events - events}"
    world.client.set(world.keys.sweep_mark(worker), older)


def test_nothing_is_told_while_nothing_is_gone(world, sweep, caplog):
    for worker in ("a", "a", "b", "b", "a"):
        memory, _ = sweep(worker)
        if worker == "b":
            memory.end("b")
    assert world.store.upkeep.loss() is None
    assert caplog.records == []


def test_the_leader_tells_how_much_is_gone(world, sweep, caplog):
    for _ in range(3):
        _, mark = sweep("a")
    take_back(world, "a", mark, sweeps=2, span_ms=2100, events=7)
    sweep("a")
    assert world.store.upkeep.loss() == LostWrites(mark.at, 2100, 7)
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert "the writes of 2.1 s before " in record.getMessage()
    assert "are gone, with 7 or more starts and ends of runs" in record.getMessage()
    sweep("a")
    assert len(caplog.records) == 1, "once"
    (found,) = [found for found in server_problems(world.store) if found.name == "lost-writes"]
    assert "the writes of 2.1 s before " in found.what


def test_a_worker_that_led_tells_it_when_another_one_leads_since(world, sweep):
    for _ in range(3):
        memory, mark = sweep("a")
    take_back(world, "a", mark, sweeps=1, span_ms=900, events=0)
    sweep("b")
    assert world.store.upkeep.loss() is None, "this one does not know"
    memory.end("a")
    assert world.store.upkeep.loss() == LostWrites(mark.at, 900, 0)


def test_everything_is_gone(world, sweep):
    _, mark = sweep("a")
    world.client.delete(world.keys.sweep_mark("a"))
    sweep("a")
    lost = world.store.upkeep.loss()
    assert lost == LostWrites(mark.at, None, None)
    assert lost.sentence().startswith("all writes before ")


def test_a_mark_is_read_as_it_was_written():
    assert SweepMark.of(b"3 1700000000000 -1") == SweepMark(3, 1_700_000_000_000, -1)
    assert SweepMark.of(b"") is None
