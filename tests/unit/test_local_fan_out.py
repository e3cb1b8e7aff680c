"""A local step: functions in threads, and members that have returned by then are stored together."""

from __future__ import annotations

import threading
import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from orchestrator.execution import local_fan_out as module
from orchestrator.execution.local_fan_out import LocalFanOut
from orchestrator.execution.node_kinds import Returned
from orchestrator.liveness import pool_processes
from orchestrator.liveness.pool_memory import AT_ONCE, PoolMemory
from orchestrator.liveness.pool_processes import tokens_of
from orchestrator.middleware import End, Outcome
from orchestrator.store.scripts.connection import Wire
from tests.harness import wait_until

LATER = 5
ONE = Returned(b"1")


class Slow:
    """A store whose first call is under way until all others have returned."""

    def __init__(self):
        self.sent: list[list[str]] = []
        self.go_on = threading.Event()
        self.refuses = False
        self.strikes = False
        client: Any = SimpleNamespace()
        self.wire = Wire(client)
        self.told: dict[str, Any] = {}

    def settle(self, company):
        for member, _ in company:
            assert member.token in tokens_of(pool_processes._place), "until it is stored"
        returned = [member.name for member, made in company if isinstance(made, Returned)]
        if returned:
            self.sent.append(returned)
            assert self.go_on.wait(30)
            if self.refuses and len(self.sent) > 1:
                raise redis.ResponseError("NOREPLICAS")
        self.told |= {member.name: made for member, made in company}
        if self.strikes:
            raise TimeoutError("soft limit")
        return ("behind",) if len(self.told) > LATER else ()


class Member:
    """As much of an attempt as counts here."""

    def __init__(self, store, number, *, does=lambda: ONE):
        self.name = f"m-{number}"
        self.token = f"{number:032x}"
        self.does = does
        self.store = SimpleNamespace(scripts=store)

    def make(self):
        assert self.token in tokens_of(pool_processes._place), "it is known to be worked on"
        return self.does()


@pytest.fixture
def store():
    made = Slow()
    made.go_on.set()
    return made


def work(store, members: Any) -> dict[str, Any]:
    """Run them all; how each ended."""
    LocalFanOut(members, store.settle).run()
    told: dict[str, Any] = store.told
    return told


def beside(store):
    """A member that is under way to the store while the others return."""
    store.go_on.clear()

    def later(number):
        assert wait_until(lambda: store.sent, "the first is under way")
        if number == LATER:
            store.go_on.set()
        return ONE

    others = [Member(store, number, does=partial(later, number)) for number in range(1, LATER + 1)]
    return [Member(store, 0), *others]


def stored(names):
    return dict.fromkeys(names, ONE)


def test_what_is_behind_the_step_is_told_when_the_last_member_is_stored(store):
    members: Any = beside(store)
    behind: Any = LocalFanOut(members, store.settle).run()
    assert behind == ("behind",)


def test_the_first_is_stored_alone_and_the_others_together(store):
    members = beside(store)
    names = [member.name for member in members]
    assert work(store, members) == stored(names)
    assert store.sent[0] == names[:1]
    assert sorted(name for company in store.sent[1:] for name in company) == names[1:]
    assert len(store.sent) < len(names)
    assert tokens_of(None) == frozenset()


def test_members_that_wait_for_each_other_get_a_thread_each(store):
    meeting = threading.Barrier(LATER)

    def meets():
        meeting.wait(30)
        return ONE

    members = [Member(store, number, does=meets) for number in range(LATER)]
    assert work(store, members).keys() == {member.name for member in members}


def test_who_returns_at_once_leaves_its_thread_to_the_next(store, monkeypatch):
    monkeypatch.setattr(module, "ANOTHER_AFTER_S", 30)
    seen = set()

    def notes():
        seen.add(threading.get_ident())
        return ONE

    assert len(work(store, [Member(store, number, does=notes) for number in range(LATER)])) == LATER
    assert len(seen) == 1
    assert seen != {threading.get_ident()}


def test_a_member_is_known_to_be_worked_on_before_a_thread_begins_with_it(store, monkeypatch):
    monkeypatch.setattr(module, "ANOTHER_AFTER_S", 30)
    members: Any = [Member(store, number) for number in range(LATER)]
    known: list[frozenset[str]] = []

    def looks():
        known.append(tokens_of(None))
        return ONE

    members[0].does = looks
    work(store, members)
    assert known == [{member.token for member in members}]


def test_in_a_pool_process_each_has_its_place_until_it_is_stored(store, monkeypatch):
    monkeypatch.setattr(pool_processes, "_memory", PoolMemory.inherited())
    monkeypatch.setattr(pool_processes, "_place", 0)
    free, empty = sorted(pool_processes._free), pool_processes.tokens_of(0)

    def limited():
        pool_processes.set_limit(time.monotonic() - 1)
        assert pool_processes.is_overdue(0)
        pool_processes.set_limit(0)
        return ONE

    members: Any = [Member(store, number, does=limited) for number in range(AT_ONCE)]
    assert len(work(store, members)) == AT_ONCE
    assert sorted(pool_processes._free) == free
    assert pool_processes.tokens_of(0) == empty
    assert not pool_processes.is_overdue(0)


def test_who_ended_without_an_output_is_told_and_not_stored(store):
    parked = Outcome(End.PARKED, ValueError("no"))
    assert work(store, [Member(store, 0), Member(store, 1, does=lambda: parked)])["m-1"] == parked
    assert store.sent == [["m-0"]]


def test_an_error_of_the_store_is_raised_when_all_have_ended(store):
    store.refuses = True
    with pytest.raises(redis.ResponseError, match="NOREPLICAS"):
        work(store, beside(store))
    assert store.told == stored(["m-0"])
    assert tokens_of(None) == frozenset()


def test_an_error_of_a_thread_is_raised_when_all_have_ended(store):
    raised = threading.Event()

    def fails():
        raised.set()
        raise redis.ResponseError("WRONGTYPE")

    def waits():
        assert raised.wait(30)
        return ONE

    members = [Member(store, 0, does=fails), Member(store, 1, does=waits)]
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        work(store, members)
    assert store.told == stored(["m-1"])


def test_an_error_that_strikes_who_waits_is_raised_when_all_have_ended(store):
    """Such as Celery's soft time limit, between two members."""
    store.strikes = True
    members: Any = [Member(store, number) for number in range(LATER)]
    with pytest.raises(TimeoutError, match="soft limit"):
        work(store, members)
    assert sum(map(len, store.sent)) == LATER
    assert tokens_of(None) == frozenset()


def test_an_error_that_strikes_each_time_ends_it(store, monkeypatch):
    def refuses(_work):
        raise OSError("no")

    monkeypatch.setattr(module, "_threads", lambda: SimpleNamespace(submit=refuses))
    with pytest.raises(OSError, match="no"):
        work(store, [Member(store, number) for number in range(3)])
    assert tokens_of(None) == frozenset()


def test_without_a_thread_it_is_done_where_it_is_waited_for(store, monkeypatch):
    def refuses(_work):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(module, "_threads", lambda: SimpleNamespace(submit=refuses))
    assert work(store, [Member(store, number) for number in range(3)]) == stored(["m-0", "m-1", "m-2"])
