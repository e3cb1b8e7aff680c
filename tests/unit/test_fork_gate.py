"""A fork waits until no thread of the engine is at work, but not for ever."""

from __future__ import annotations

import threading

import pytest

from orchestrator.liveness import fork_gate
from orchestrator.liveness.fork_gate import ForkGate
from tests.harness import wait_until


@pytest.fixture
def gate():
    return ForkGate()


class AtWork:
    """A thread that is in a block until it is told to leave it."""

    def __init__(self, gate: ForkGate, *, gives_way: bool = False) -> None:
        self.entered, self.may_leave = threading.Event(), threading.Event()
        self._gate, self._gives_way = gate, gives_way
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        with self._gate.closed():
            self.entered.set()
            while not self.may_leave.wait(0.001):
                if self._gives_way:
                    self._gate.give_way()

    def leave(self) -> None:
        self.may_leave.set()
        self._thread.join(5)
        assert not self._thread.is_alive()


def forking(gate: ForkGate) -> tuple[threading.Thread, threading.Event]:
    """A thread that is about to fork, and whether it may."""
    may = threading.Event()

    def fork() -> None:
        gate.before_fork()
        may.set()

    thread = threading.Thread(target=fork, daemon=True)
    thread.start()
    return thread, may


def test_a_fork_waits_for_the_end_of_a_block(gate, monkeypatch):
    monkeypatch.setattr(fork_gate, "PATIENCE_S", 30.0)
    busy = AtWork(gate)
    assert busy.entered.wait(5)
    thread, may = forking(gate)
    wait_until(lambda: gate._is_forking, "the fork waits")
    assert not may.is_set()
    busy.leave()
    thread.join(5)
    assert may.is_set()


def test_no_block_begins_while_the_process_forks(gate, monkeypatch):
    monkeypatch.setattr(fork_gate, "PATIENCE_S", 30.0)
    gate.before_fork()
    late = AtWork(gate)
    assert not late.entered.wait(0.05)
    gate.after_fork()
    assert late.entered.wait(5)
    late.leave()


@pytest.mark.parametrize(("patience_s", "gives_way"), [(30.0, True), (0.05, False)])
def test_a_fork_waits_neither_for_the_end_of_a_block_that_gives_way_nor_for_ever(
    gate, monkeypatch, patience_s, gives_way
):
    monkeypatch.setattr(fork_gate, "PATIENCE_S", patience_s)
    busy = AtWork(gate, gives_way=gives_way)
    assert busy.entered.wait(5)
    thread, may = forking(gate)
    thread.join(5)
    assert may.is_set()
    gate.after_fork()
    busy.leave()


def test_a_thread_that_forks_in_its_own_block_does_not_wait_for_itself(gate, monkeypatch):
    monkeypatch.setattr(fork_gate, "PATIENCE_S", 30.0)
    with gate.closed():
        gate.before_fork()
        gate.after_fork()


def test_a_child_has_nobody_in_a_block(gate, monkeypatch):
    monkeypatch.setattr(fork_gate, "PATIENCE_S", 30.0)
    busy = AtWork(gate)
    assert busy.entered.wait(5)
    before = gate._changed
    with before:  # as a lock of the parent that a thread held
        gate.begin()
        gate.before_fork()
        gate.after_fork()
    busy.leave()
