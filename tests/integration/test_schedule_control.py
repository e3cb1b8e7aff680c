"""Schedules under an operator's hand, with jitter, and with several beats of which some fail."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from orchestrator import schedule
from orchestrator.schedules import CronSchedule, delay_of, instants, remember_slots, run_id_of
from orchestrator.server import EmbeddedServer
from tests.clockwork import MINUTE, Clockwork

BEGIN = datetime(2026, 5, 1, 12, tzinfo=UTC)
TICKS = 30


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of its own: nobody must run what these ticks start."""
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as own:
        yield own


def set_clock(clockwork: Clockwork, at: datetime) -> None:
    """Make a process read an instant from Redis's clock."""
    clockwork.store.now_ms = lambda: round(at.timestamp() * 1000)  # type: ignore[method-assign]


def test_three_beats_of_which_one_is_killed_and_one_paused_start_a_run_for_each_tick(server):
    beats = [Clockwork(server.url, schedule("* * * * *", overlap="allow"))]
    beats += [Clockwork(server.url, schedule("* * * * *", overlap="allow"), prefix=beats[0].prefix) for _ in range(2)]
    beats[0].set_slot(BEGIN)
    paused: list[datetime] = []
    with ThreadPoolExecutor(3) as pool:
        for number in range(1, TICKS + 1):
            instant = BEGIN + number * MINUTE
            living = [beats[0]]
            if number < 10:  # then it is killed
                living.append(beats[1])
            if 10 <= number < 20:  # its messages lie in the queue meanwhile
                paused.append(instant)
            else:
                living.append(beats[2])
            for clockwork in beats:
                set_clock(clockwork, instant + timedelta(seconds=1))
            # Twice, as a beat hints twice for an instant.
            list(pool.map(lambda clockwork: (clockwork.tick(), clockwork.tick()), living))
            if number == 20:
                assert [run for _ in paused for run in beats[2].tick()] == []
    expected = {run_id_of(beats[0].prefix, beats[0].slots[0], BEGIN + n * MINUTE) for n in range(1, TICKS + 1)}
    assert len(expected) == TICKS
    assert beats[0].started() == expected


def test_a_paused_schedule_starts_nothing_and_then_follows_its_catch_up(server):
    clockwork = Clockwork(server.url, schedule("* * * * *", catch_up=timedelta(minutes=30)))
    clockwork.set_slot(clockwork.now() - 10 * MINUTE)
    clockwork.orchestrator.pause_schedule("nightly", "audit")
    (row,) = clockwork.orchestrator.schedules()
    assert (row.is_paused, row.note, row.next) == (True, "audit", None)
    remember_slots(clockwork.engine, clockwork.entry)  # as every worker does that starts
    assert clockwork.tick() == []
    clockwork.orchestrator.unpause_schedule(clockwork.slots[0])
    assert len(clockwork.tick()) == 1
    assert clockwork.tick() == []


def test_a_schedule_that_leaves_the_code_takes_its_pause_along(server):
    clockwork = Clockwork(server.url, schedule("* * * * *"), schedule("0 4 * * *"))
    remember_slots(clockwork.engine, clockwork.entry)
    clockwork.orchestrator.pause_schedule(clockwork.slots[0])
    later = Clockwork(server.url, schedule("0 4 * * *"), prefix=clockwork.prefix)
    remember_slots(later.engine, later.entry)
    assert set(later.store.upkeep.slot_rows()[0]) == set(later.slots)


def test_a_run_with_jitter_starts_after_its_delay_and_is_about_its_instant(server):
    jitter = timedelta(seconds=50)
    clockwork = Clockwork(server.url, schedule("0 * * * *", jitter=jitter))
    clockwork.set_slot(BEGIN)
    instant = BEGIN + timedelta(hours=1)
    delay = delay_of(clockwork.slots[0], instant, jitter)
    assert timedelta(0) < delay < jitter
    set_clock(clockwork, instant + delay - timedelta(milliseconds=5))
    assert clockwork.tick() == []
    set_clock(clockwork, instant + delay + timedelta(milliseconds=5))
    (run_id,) = clockwork.tick()
    assert run_id == run_id_of(clockwork.prefix, clockwork.slots[0], instant)
    assert clockwork.slot() == instant


def test_hints_of_a_schedule_with_jitter_come_after_the_delays():
    cron = CronSchedule("*/5 * * * *", "UTC", 120.0, "nightly:0")
    hints = sorted(cron._hints(BEGIN, BEGIN + timedelta(hours=2)))
    found = list(instants(cron.cron, "UTC", after=BEGIN, until=BEGIN + timedelta(hours=1)))
    delays = {instant: delay_of("nightly:0", instant, timedelta(seconds=120)) for instant in found}
    assert len(set(delays.values())) == len(found)
    for instant, delay in delays.items():
        assert any(timedelta(0) < hint - instant - delay < timedelta(seconds=1) for hint in hints)


def test_a_backfill_starts_each_instant_once_and_leaves_the_slot(server):
    clockwork = Clockwork(server.url, schedule("0 * * * *", overlap="skip", input={"region": "eu"}))
    clockwork.set_slot(BEGIN)
    since, until = BEGIN - timedelta(hours=5), BEGIN - timedelta(hours=2)
    filled = clockwork.orchestrator.backfill("nightly", since, until)
    assert [each.instant for each in filled] == [since + timedelta(hours=n) for n in range(3)]
    assert [each.run_id for each in filled] == [
        run_id_of(clockwork.prefix, clockwork.slots[0], each.instant) for each in filled
    ]
    assert not any(each.is_new for each in clockwork.orchestrator.backfill("nightly", since, until))
    assert clockwork.orchestrator.get(filled[0].run_id).state().input() == {"region": "eu"}
    assert clockwork.slot() == BEGIN
    ahead = clockwork.now() + timedelta(seconds=10)  # by a clock that is ahead of Redis's
    ticks = clockwork.orchestrator.ticks("nightly", ahead - timedelta(hours=2), ahead)
    assert ticks
    assert ticks[-1] <= clockwork.now()
    for wrong in ((until, since), (since, datetime.now(UTC) + timedelta(hours=1))):
        with pytest.raises(ValueError, match="is about the past"):
            clockwork.orchestrator.backfill("nightly", *wrong)


def test_a_name_that_is_none_or_several_is_refused_with_those_that_there_are(server):
    clockwork = Clockwork(server.url, schedule("0 * * * *"), schedule("0 4 * * *"))
    with pytest.raises(ValueError, match="names 2 schedules"):
        clockwork.orchestrator.pause_schedule("nightly")
    with pytest.raises(ValueError, match="did you mean nightly"):
        clockwork.orchestrator.pause_schedule("nigthly")
    assert clockwork.orchestrator.next_ticks(clockwork.slots[1], 2)[0].hour == 4
