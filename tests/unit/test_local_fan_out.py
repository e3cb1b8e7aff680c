"""A local step: functions in threads, and whoever has returned is stored with all that have by then."""

from __future__ import annotations

import threading
import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from orchestrator.execution import local_fan_out as module
from orchestrator.execution.attempt import Ended
from orchestrator.execution.local_fan_out import Together
from orchestrator.liveness import pool_processes
from orchestrator.liveness.pool_processes import tokens_of
from orchestrator.store.scripts.connection import Wire
from orchestrator.store.scripts.results import Claimed, Moved
from tests.harness import wait_until

LATER = 5


class Slow:
    """Scripts whose first call is under way until all others have returned; whether the short way does is chosen."""

    def __init__(self, *, is_plain: bool):
        self.is_plain = is_plain
        self.sent: list[list[str]] = []
        self.go_on = threading.Event()
        self.refuses = False
        client: Any = SimpleNamespace()
        self.wire = Wire(client)

    def commit_and_claim(self, _run_id, _plan, done, _wanted, *, holder):
        assert holder
        return self.carry_out([each.node for each in done]) and []

    def send_all(self, calls):
        return [Moved(f"stored {name}") for name in self.carry_out(list(calls))]

    def carry_out(self, names):
        self.sent.append(names)
        assert self.go_on.wait(30)
        if self.refuses and len(self.sent) > 1:
            raise redis.ResponseError("NOREPLICAS")
        return names


class Member:
    """As much of an attempt as counts here."""

    run_id, epoch, claimed = "run", 1, Claimed("run", 1)

    def __init__(self, scripts, number, *, does=lambda: (b"1", None)):
        self.name = f"m-{number}"
        self.token = f"{number:032x}"
        self.does = does
        self.store = SimpleNamespace(scripts=scripts)
        self.facts = SimpleNamespace(name=self.name, kind="node", key=self.name)
        self.reading = SimpleNamespace(read=lambda _answered: {})
        self.plan = SimpleNamespace(plain={self.name} if scripts.is_plain else set())

    def make(self):
        assert self.token in tokens_of(pool_processes._state["place"]), "it is known to be worked on"
        return self.does()

    def surely(self, call):
        return call()

    def leave(self, moved, ended):
        assert self.token in tokens_of(pool_processes._state["place"]), "until it is stored"
        assert moved.outcome == ended.kind
        return ended

    def commit_call(self, output):
        assert output == b"1"
        return self.name


@pytest.fixture(params=[True, False], ids=["plain", "long"])
def scripts(request):
    made = Slow(is_plain=request.param)
    made.go_on.set()
    return made


def work(members: Any, told: dict[str, Ended] | None = None) -> dict[str, Ended]:
    """Do them all; how each ended."""
    told = {} if told is None else told
    Together(members, lambda: ()).work(lambda member, ended: told.update({member.name: ended}))
    return told


def stored(scripts, names):
    return {name: Ended("stored" if scripts.is_plain else f"stored {name}") for name in names}


def beside(scripts):
    """A member that is under way to the store while the others return."""
    scripts.go_on.clear()

    def later(number):
        assert wait_until(lambda: scripts.sent, "the first is under way")
        if number == LATER:
            scripts.go_on.set()
        return b"1", None

    others = [Member(scripts, number, does=partial(later, number)) for number in range(1, LATER + 1)]
    return [Member(scripts, 0), *others]


def test_the_first_is_stored_alone_and_the_others_together(scripts):
    members = beside(scripts)
    names = [member.name for member in members]
    assert work(members) == stored(scripts, names)
    assert scripts.sent[0] == names[:1]
    assert sorted(name for company in scripts.sent[1:] for name in company) == names[1:]
    assert len(scripts.sent) < len(names)
    assert tokens_of(None) == frozenset()


def test_members_that_wait_for_each_other_get_a_thread_each(scripts):
    meeting = threading.Barrier(LATER)

    def meets():
        meeting.wait(30)
        return b"1", None

    members = [Member(scripts, number, does=meets) for number in range(LATER)]
    assert work(members).keys() == {member.name for member in members}


def test_who_returns_at_once_leaves_its_thread_to_the_next(scripts, monkeypatch):
    monkeypatch.setattr(module, "ANOTHER_AFTER_S", 30)
    seen = set()

    def notes():
        seen.add(threading.get_ident())
        return b"1", None

    assert len(work([Member(scripts, number, does=notes) for number in range(LATER)])) == LATER
    assert len(seen) == 1
    assert seen != {threading.get_ident()}


def test_a_member_is_known_to_be_worked_on_before_a_thread_begins_with_it(scripts, monkeypatch):
    monkeypatch.setattr(module, "ANOTHER_AFTER_S", 30)
    members: Any = [Member(scripts, number) for number in range(LATER)]
    known: list[frozenset[str]] = []

    def looks():
        known.append(tokens_of(None))
        return b"1", None

    members[0].does = looks
    work(members)
    assert known == [{member.token for member in members}]


def test_in_a_pool_process_each_has_its_place_until_it_is_stored(scripts, monkeypatch):
    monkeypatch.setitem(pool_processes._state, "place", 0)
    free, empty = sorted(pool_processes._free), pool_processes.tokens_of(0)

    def limited():
        pool_processes.set_limit(time.monotonic() - 1)
        assert pool_processes.is_overdue(0)
        pool_processes.set_limit(0)
        return b"1", None

    members: Any = [Member(scripts, number, does=limited) for number in range(pool_processes.AT_ONCE)]
    assert len(work(members)) == pool_processes.AT_ONCE
    assert sorted(pool_processes._free) == free
    assert pool_processes.tokens_of(0) == empty
    assert not pool_processes.is_overdue(0)


def test_who_ended_without_an_output_is_told_and_not_stored(scripts):
    parked = Ended("parked", ValueError("no"))
    assert work([Member(scripts, 0), Member(scripts, 1, does=lambda: parked)])["m-1"] == parked
    assert scripts.sent == [["m-0"]]


def test_an_error_of_the_store_is_raised_when_all_have_ended(scripts):
    scripts.refuses = True
    told: dict[str, Ended] = {}
    with pytest.raises(redis.ResponseError, match="NOREPLICAS"):
        work(beside(scripts), told)
    assert told == stored(scripts, ["m-0"])
    assert tokens_of(None) == frozenset()


def test_an_error_of_a_thread_is_raised_when_all_have_ended(scripts):
    raised = threading.Event()

    def fails():
        raised.set()
        raise redis.ResponseError("WRONGTYPE")

    def waits():
        assert raised.wait(30)
        return b"1", None

    told: dict[str, Ended] = {}
    members = [Member(scripts, 0, does=fails), Member(scripts, 1, does=waits)]
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        work(members, told)
    assert told == stored(scripts, ["m-1"])


def test_an_error_that_strikes_who_waits_is_raised_when_all_have_ended(scripts):
    """Such as Celery's soft time limit, between two members."""
    struck = []

    def strikes(member, _ended):
        struck.append(member.name)
        raise TimeoutError("soft limit")

    members: Any = [Member(scripts, number) for number in range(LATER)]
    with pytest.raises(TimeoutError, match="soft limit"):
        Together(members, lambda: ()).work(strikes)
    assert sum(map(len, scripts.sent)) == LATER
    assert tokens_of(None) == frozenset()


def test_without_a_thread_it_is_done_where_it_is_waited_for(scripts, monkeypatch):
    def refuses(_work):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(module, "_threads", lambda _process: SimpleNamespace(submit=refuses))
    assert work([Member(scripts, number) for number in range(3)]) == stored(scripts, ["m-0", "m-1", "m-2"])
