"""Commits of several threads: nobody waits for company, and what comes meanwhile goes as one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from orchestrator.scripts.answers import Call, Moved, moved_of
from orchestrator.together import Together
from tests.harness import wait_until

LATER = 5


class Slow:
    """Scripts whose first call is under way until it is let go."""

    def __init__(self):
        self.sent: list[list[str]] = []
        self.go_on = threading.Event()
        self.refuses = False

    def send_all(self, calls):
        self.sent.append([call.script for call in calls])
        assert self.go_on.wait(30)
        if self.refuses and len(self.sent) > 1:
            raise redis.ConnectionError("gone")
        return [Moved(call.script) for call in calls]


def call(number):
    return Call(f"call-{number}", (), (), moved_of)


@pytest.fixture
def scripts():
    return Slow()


@pytest.fixture
def pool():
    with ThreadPoolExecutor(LATER + 1) as made:
        yield made


def send_beside(scripts, pool):
    """One call that is under way, and others that come meanwhile: the promises of all."""
    together = Together(scripts)
    promised = [pool.submit(together.send, call(0))]
    wait_until(lambda: scripts.sent, "the first is under way")
    promised += [pool.submit(together.send, call(number)) for number in range(1, LATER + 1)]
    wait_until(lambda: len(together._waiting) == LATER, "the others wait")
    scripts.go_on.set()
    return promised


def test_the_first_goes_alone_and_the_others_go_together(scripts, pool):
    promised = send_beside(scripts, pool)
    assert [each.result(30).outcome for each in promised] == [f"call-{number}" for number in range(LATER + 1)]
    assert scripts.sent[0] == ["call-0"]
    assert len(scripts.sent) == 2
    assert sorted(scripts.sent[1]) == [f"call-{number}" for number in range(1, LATER + 1)]


def test_an_error_is_everybody_s_who_was_sent_with_it_and_nobody_else_s(scripts, pool):
    scripts.refuses = True
    first, *others = send_beside(scripts, pool)
    assert first.result(30).outcome == "call-0"
    for each in others:
        with pytest.raises(redis.ConnectionError, match="gone"):
            each.result(30)
