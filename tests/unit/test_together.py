"""Commits of several threads: nobody waits for company, and what comes meanwhile goes as one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import redis

from orchestrator.scripts.answers import Claimed, Moved
from orchestrator.together import Together
from tests.harness import wait_until

LATER = 5


class Slow:
    """Scripts whose first call is under way until it is let go; whether the short way does for all is chosen."""

    def __init__(self, *, is_plain: bool):
        self.is_plain = is_plain
        self.sent: list[list[str]] = []
        self.go_on = threading.Event()
        self.refuses = False

    def onward(self, _run_id, _plan, done, _wanted, *, holder):
        assert holder
        return self.carry_out([each.node for each in done]) and []

    def send_all(self, calls):
        return [Moved(f"stored {name}") for name in self.carry_out(list(calls))]

    def carry_out(self, names):
        self.sent.append(names)
        assert self.go_on.wait(30)
        if self.refuses and len(self.sent) > 1:
            raise redis.ConnectionError("gone")
        return names


class Member:
    """As much of an attempt as counts here."""

    run_id, epoch, token, claimed = "run", 1, "token", Claimed("run", 1)

    def __init__(self, scripts, number):
        self.name = f"m-{number}"
        self.store = SimpleNamespace(scripts=scripts)
        self.facts = SimpleNamespace(name=self.name, kind="node", key=self.name)
        self.reading = SimpleNamespace(read=lambda _answered: {})
        self.plan = SimpleNamespace(plain={self.name} if scripts.is_plain else set())

    def commit_call(self, output):
        assert output == b"1"
        return self.name


@pytest.fixture(params=[True, False], ids=["plain", "long"])
def scripts(request):
    return Slow(is_plain=request.param)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(LATER + 1) as made:
        yield made


def send_beside(scripts, pool):
    """One commit that is under way, and others that come meanwhile: the promises of all."""
    together = Together(lambda: ())
    promised = [pool.submit(together.commit, Member(scripts, 0), b"1")]
    wait_until(lambda: scripts.sent, "the first is under way")
    promised += [pool.submit(together.commit, Member(scripts, number), b"1") for number in range(1, LATER + 1)]
    wait_until(lambda: len(together._waiting) == LATER, "the others wait")
    scripts.go_on.set()
    return promised


def test_the_first_goes_alone_and_the_others_go_together(scripts, pool):
    promised = send_beside(scripts, pool)
    names = [f"m-{number}" for number in range(LATER + 1)]
    expected = ["stored"] * len(names) if scripts.is_plain else [f"stored {name}" for name in names]
    assert [each.result(30).outcome for each in promised] == expected
    assert scripts.sent[0] == names[:1]
    assert len(scripts.sent) == 2
    assert sorted(scripts.sent[1]) == names[1:]


def test_an_error_is_everybody_s_who_was_sent_with_it_and_nobody_else_s(scripts, pool):
    scripts.refuses = True
    first, *others = send_beside(scripts, pool)
    assert first.result(30).outcome.startswith("stored")
    for each in others:
        with pytest.raises(redis.ConnectionError, match="gone"):
            each.result(30)
