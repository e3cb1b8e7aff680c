"""Queue inspection: entries that say nothing of an instant must not stop the reconciler."""

from __future__ import annotations

import pytest

from orchestrator.messaging.queue_inspection import QueueHead, _since


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b"\xff not json",
        b"[]",
        b"{}",
        b'{"headers": null}',
        b'{"headers": {"orchestrator_since": null}}',
        b'{"headers": {"orchestrator_since": "soon"}}',
        b'{"headers": {"orchestrator_since": Infinity}}',
        b'{"headers": {"orchestrator_since": NaN}}',
        b"[" * 100_000,
    ],
)
def test_an_entry_without_an_instant_is_passed_over(entry):
    assert _since(entry) is None


def test_a_message_may_be_lost_unless_an_older_one_still_waits():
    assert _since(b'{"headers": {"orchestrator_since": 5}}') == 5
    assert QueueHead(3, oldest=6).may_have_lost(5, now=7)
    assert not QueueHead(3, oldest=5).may_have_lost(5, now=7)
    assert QueueHead(3, oldest=None).may_have_lost(5, now=7)
    assert QueueHead(0, oldest=None).may_have_lost(5, now=7)
    assert QueueHead(None, None).may_have_lost(5, now=7)


def test_less_urgent_messages_say_nothing_of_a_more_urgent_one():
    head = QueueHead(9, 1, by_list={3: 6, 6: 1})
    assert not head.may_have_lost(5, now=7)
    assert [head.may_have_lost(5, now=7, priority=each) for each in (0, 3, 5, 6, 9)] == [True] * 3 + [False] * 2


@pytest.mark.parametrize(
    ("length", "waited", "may"), [(0, 1, True), (None, 1, True), (3, 59_999, False), (3, 60_000, True)]
)
def test_a_message_that_nobody_can_see_may_be_lost_after_a_while(length, waited, may):
    assert QueueHead(length, None, is_opaque=True).may_have_lost(5, now=5 + waited) == may
