"""Time limits in one process: one handler for a message, one timer from call to call, and what functions do to it."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from orchestrator.liveness.time_limit import MovableLimit, call_within, interruptible
from tests.harness import wait_until

SHORT_S, LONG_S = 0.05, 30.0


class Expired(Exception):
    """What a limit raises here."""


def has_gone_off():
    return signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_call_is_interrupted_and_the_next_one_has_its_own_limit():
    with interruptible():
        for _ in range(2):
            with pytest.raises(Expired):
                call_within(SHORT_S, Expired, lambda: time.sleep(LONG_S))
        assert call_within(LONG_S, Expired, lambda: 1) == 1


def test_between_calls_and_behind_them_nothing_is_raised():
    before = signal.getsignal(signal.SIGALRM)
    with interruptible():
        call_within(SHORT_S, Expired, int)
        wait_until(has_gone_off, "the timer goes off")
        call_within(SHORT_S, Expired, int)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) == before


def test_a_function_that_puts_back_the_default_handler_does_not_undo_the_next_limit():
    def use_the_timer():
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.alarm(5)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    with interruptible():
        call_within(LONG_S, Expired, use_the_timer)
        with pytest.raises(Expired):
            call_within(SHORT_S, Expired, lambda: time.sleep(LONG_S))


def test_a_handler_that_a_function_left_is_not_called_for_our_timer():
    called = []
    with interruptible():
        call_within(SHORT_S, Expired, lambda: signal.signal(signal.SIGALRM, lambda *_: called.append(1)))
        wait_until(has_gone_off, "the timer goes off or is taken back")
    assert called == []


def test_what_is_left_of_the_timer_before_does_not_strike_the_next_call(monkeypatch):
    """It goes off at the last moment, when the next call sets the timer."""
    arm = signal.setitimer

    def arm_late(*args):
        os.kill(os.getpid(), signal.SIGALRM)
        return arm(*args)

    with interruptible():
        monkeypatch.setattr(signal, "setitimer", arm_late)
        call_within(LONG_S, Expired, int)
        monkeypatch.undo()


def test_another_thread_is_not_interrupted():
    ended = []

    def work():
        with interruptible():
            call_within(SHORT_S, Expired, lambda: time.sleep(4 * SHORT_S))
        ended.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert ended == [1]


def test_a_limit_is_moved_from_any_thread_while_its_call_goes_on():
    limits = []

    def go_on():
        limits.append(MovableLimit())
        mover = threading.Thread(target=limits[0].move, args=(LONG_S,))
        mover.start()
        mover.join()
        return signal.getitimer(signal.ITIMER_REAL)[0]

    with interruptible():
        assert LONG_S / 2 < call_within(LONG_S / 3, Expired, go_on) <= LONG_S
        limits[0].move(LONG_S)
        assert call_within(SHORT_S, type("Other", (Expired,), {}), lambda: limits[0].move(LONG_S)) is None
        assert signal.getitimer(signal.ITIMER_REAL)[0] <= SHORT_S
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
