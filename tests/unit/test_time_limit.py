"""Time limits in one process: one handler for a message, one timer from block to block, and what functions do to it."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from orchestrator.liveness.time_limit import interruptible, time_limit
from tests.harness import wait_until

SHORT_S, LONG_S = 0.05, 30.0


class Expired(Exception):
    """What a limit raises here."""


def has_gone_off():
    return signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_block_is_interrupted_and_the_next_one_has_its_own_limit():
    with interruptible():
        for _ in range(2):
            with pytest.raises(Expired), time_limit(SHORT_S, Expired):
                time.sleep(LONG_S)
        with time_limit(LONG_S, Expired):
            pass


def test_between_blocks_and_behind_them_nothing_is_raised():
    before = signal.getsignal(signal.SIGALRM)
    with interruptible():
        with time_limit(SHORT_S, Expired):
            pass
        wait_until(has_gone_off, "the timer goes off")
        with time_limit(SHORT_S, Expired):
            pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) == before


def test_a_function_that_puts_back_the_default_handler_does_not_undo_the_next_limit():
    with interruptible():
        with time_limit(LONG_S, Expired):
            signal.signal(signal.SIGALRM, lambda *_: None)
            signal.alarm(5)
            signal.alarm(0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        with pytest.raises(Expired), time_limit(SHORT_S, Expired):
            time.sleep(LONG_S)


def test_a_handler_that_a_function_left_is_not_called_for_our_timer():
    called = []
    with interruptible():
        with time_limit(SHORT_S, Expired):
            signal.signal(signal.SIGALRM, lambda *_: called.append(1))
        wait_until(has_gone_off, "the timer goes off or is taken back")
    assert called == []


def test_what_is_left_of_the_timer_before_does_not_strike_the_next_block(monkeypatch):
    """It goes off at the last moment, when the next block sets the timer."""
    arm = signal.setitimer

    def arm_late(*args):
        os.kill(os.getpid(), signal.SIGALRM)
        return arm(*args)

    with interruptible():
        monkeypatch.setattr(signal, "setitimer", arm_late)
        with time_limit(LONG_S, Expired):
            pass
        monkeypatch.undo()


def test_another_thread_is_not_interrupted():
    ended = []

    def work():
        with interruptible(), time_limit(SHORT_S, Expired):
            time.sleep(4 * SHORT_S)
        ended.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert ended == [1]
