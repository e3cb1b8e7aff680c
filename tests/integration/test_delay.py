"""Runs that begin later, on real workers: not before their instant or their turn, explained meanwhile, cancelled."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from orchestrator import InvalidInput
from tests.harness import wait_until

LATER = timedelta(seconds=1)
NEVER = timedelta(days=3)


def is_running(run):
    return run.status == "running"


def begin_of(run):
    return next(event.at for event in run.history() if event.event == "started")


@pytest.mark.parametrize("flow", ["line", "two-fans"])
def test_a_run_begins_when_its_delay_is_over(sample, flow):
    run = sample.orchestrator.start(flow, {"value": 5}, delay=LATER)
    assert run.status == "pending"
    assert run.wait(timeout=30) == "succeeded"
    assert timedelta(seconds=0.999) <= begin_of(run) - run.created_at <= 3 * LATER + timedelta(seconds=2)


def test_a_run_begins_at_its_instant(sample):
    instant = datetime.now(UTC) + LATER
    run = sample.orchestrator.start("line", {"value": 5}, at=instant)
    assert run.result(int, timeout=30) == 35
    assert begin_of(run) >= instant - timedelta(milliseconds=2)
    assert sample.orchestrator.start("line", {"value": 5}, at=instant).result(int, timeout=30) == 35


def test_a_run_that_has_not_begun_says_until_when_and_can_be_cancelled(sample, ledger):
    run = sample.orchestrator.start("line", {"value": 5}, delay=NEVER, idempotency_key="later")
    (first, *_) = run.explain()
    assert (first.node, first.reason) == ("step-0", "waits for the instant at which its run begins")
    assert abs(first.until - run.created_at - NEVER) < timedelta(milliseconds=2)
    assert sample.orchestrator.start("line", {"value": 5}, idempotency_key="later").id == run.id
    run.cancel("not wanted any more")
    assert run.wait(timeout=30) == "cancelled"
    run.resume()
    assert run.result(int, timeout=30) == 35


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delay": LATER, "at": datetime.now(UTC)}, "a start has a delay or an instant, not both"),
        ({"delay": -LATER}, "the delay is -1 s"),
        ({"delay": 5}, "the delay is 5; use a timedelta"),
        ({"at": datetime(2030, 1, 1)}, "give an aware datetime"),  # noqa: DTZ001 - that is what is wrong with it
        ({"at": "tomorrow"}, "at is 'tomorrow'; give an aware datetime"),
    ],
)
def test_what_is_no_delay_is_refused(sample, options, message):
    with pytest.raises(InvalidInput, match=message):
        sample.orchestrator.start("line", {"value": 5}, **options)


def test_runs_of_one_key_go_on_one_after_the_other(sample):
    given = [{"tenant": each} for each in "aaba"]
    first, second, other, third = sample.orchestrator.start_many("one-at-a-time", given)
    assert [run.status for run in (first, second, other, third)] == ["running", "pending", "running", "pending"]
    (waiting,) = third.explain()
    assert (waiting.node, waiting.state) == ("", "pending")
    most = "at most 1 run of flow one-at-a-time at a time for each tenant"
    assert waiting.reason == f"is number 2 of those that wait for their turn: {most}"

    second.cancel("not wanted any more")
    for run in (first, third, other):
        wait_until(partial(is_running, run), "its turn")
        run.signal("go", "on")
        assert run.wait(timeout=30) == "succeeded"
    assert second.status == "cancelled"
    assert third.history()[1].event == "admitted"


def test_a_start_names_the_part_of_the_input_that_its_key_lacks(sample):
    with pytest.raises(InvalidInput, match="has no tenant, by which its runs are limited"):
        sample.orchestrator.start("one-at-a-time", {"customer": "a"})


def test_a_deadline_ends_an_attempt_and_none_follows(sample, ledger):
    run = sample.orchestrator.start("overdue")
    assert run.wait(timeout=30) == "failed"
    assert run.error.type == "orchestrator.errors.NodeTimeout"
    assert run.error.message.startswith("it was not done within its deadline of 1 s")
    assert run.finished_at - run.created_at < timedelta(seconds=10)
    assert [event.event for event in run.history()].count("started") == 1


def test_an_attempt_lives_as_long_as_it_reports_and_the_next_one_has_the_last_report(sample):
    run = sample.orchestrator.start("beating")
    assert run.result(timeout=30) == {"done": 7}
    began, failed = (next(each for each in run.history() if each.event == event) for event in ("started", "retrying"))
    assert failed.at - began.at > timedelta(seconds=2), "each report gives it a second"
    assert "reported no heartbeat for 1 s" in failed.error
