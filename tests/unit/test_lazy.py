"""A property that is computed once, also in a process that is forked while it is computed."""

from __future__ import annotations

import os
import signal
import threading

from orchestrator.lazy import lazy


class Thing:
    """Something whose value takes its time in one thread."""

    def __init__(self):
        self.computed = 0
        self.under_way, self.go_on = threading.Event(), threading.Event()

    @lazy
    def value(self):
        """The value."""
        self.computed += 1
        if threading.current_thread() is not threading.main_thread():
            self.under_way.set()
            assert self.go_on.wait(30)
        return self.computed


def test_it_is_computed_once_for_each_object():
    thing, other = Thing(), Thing()
    assert [thing.value, thing.value, other.value, thing.computed] == [1, 1, 1, 1]


def test_a_process_that_is_forked_meanwhile_waits_for_nobody():
    slow = Thing()
    thread = threading.Thread(target=lambda: slow.value)
    thread.start()
    assert slow.under_way.wait(30)
    try:
        if (child := os.fork()) == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(10)
            os._exit(Thing().value - 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        slow.go_on.set()
        thread.join(30)
