"""Schedules: instants in every zone, hints of a beat process, and beat entries."""

from __future__ import annotations

import copy
import pickle
import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest
from celery import Celery
from celery.beat import PersistentScheduler, Scheduler, Service
from croniter import croniter

from orchestrator import FlowBuilder, FlowDefinitionError, Node, Orchestrator, manual, schedule
from orchestrator.definition.registry import Registered, Registry
from orchestrator.schedules import CronSchedule, add_to_beat, instants, run_id_of, slots_of

ROOT = Path(__file__).parents[2]
FOREVER = timedelta(days=36600)
MINUTE = timedelta(minutes=1)


def entry_of(*triggers, name="nightly", queue="celery") -> Registered:
    flow = FlowBuilder(name).triggered_by(manual("test"), *triggers).then(Node("only", lambda: None)).build()
    entry = Registry(queue).add(flow)
    assert entry is not None
    return entry


def fired(cron: str, zone: str, after: datetime, until: datetime) -> list[str]:
    """The instants as a wall clock of the zone shows them."""
    found = instants(cron, zone, after=after.astimezone(UTC), until=until.astimezone(UTC))
    return [instant.astimezone(ZoneInfo(zone)).strftime("%m-%d %H:%M%z") for instant in found]


def local(zone: str, *numbers: int) -> datetime:
    return datetime(*numbers, tzinfo=ZoneInfo(zone))  # type: ignore[arg-type,misc]


# --- instants -------------------------------------------------------------------------------------------------------


def test_the_beginning_is_left_out_and_the_end_is_in():
    noon = datetime(2026, 5, 1, 12, tzinfo=UTC)
    assert list(instants("0 * * * *", "UTC", after=noon, until=noon)) == []
    assert list(instants("0 * * * *", "UTC", after=noon, until=noon + timedelta(hours=1))) == [
        noon + timedelta(hours=1)
    ]
    just_before = noon - timedelta(microseconds=1)
    assert list(instants("0 * * * *", "UTC", after=just_before, until=noon)) == [noon]
    just_after = noon + timedelta(microseconds=1)
    assert list(instants("0 * * * *", "UTC", after=just_after, until=noon + 59 * MINUTE)) == []


BEFORE_GAP, AFTER_GAP = (local("Europe/Berlin", 2026, 3, 29), local("Europe/Berlin", 2026, 3, 30))
BEFORE_FOLD, AFTER_FOLD = (local("Europe/Berlin", 2026, 10, 25), local("Europe/Berlin", 2026, 10, 26))


def test_a_time_that_the_clock_leaves_out_counts_at_the_change():
    assert fired("30 2 * * *", "Europe/Berlin", BEFORE_GAP, AFTER_GAP) == ["03-29 03:00+0200"]
    assert fired("30 2,3 * * *", "Europe/Berlin", BEFORE_GAP, AFTER_GAP) == ["03-29 03:00+0200", "03-29 03:30+0200"]


def test_a_time_that_the_clock_shows_twice_counts_once():
    assert fired("30 2 * * *", "Europe/Berlin", BEFORE_FOLD, AFTER_FOLD) == ["10-25 02:30+0200"]
    assert fired("*/30 2 * * *", "Europe/Berlin", BEFORE_FOLD, AFTER_FOLD) == ["10-25 02:00+0200", "10-25 02:30+0200"]


def test_it_counts_once_for_whoever_asks_between_the_two():
    first = local("Europe/Berlin", 2026, 10, 25, 2, 30)
    assert fired("30 2 * * *", "Europe/Berlin", first, AFTER_FOLD) == []
    assert fired("30 2 * * *", "Europe/Berlin", first + timedelta(minutes=40), AFTER_FOLD) == []


def test_what_fires_in_every_hour_fires_in_the_repeated_one():
    until = local("Europe/Berlin", 2026, 10, 25, 3, 30)
    assert fired("*/30 * * * *", "Europe/Berlin", local("Europe/Berlin", 2026, 10, 25, 1, 30), until) == [
        "10-25 02:00+0200", "10-25 02:30+0200", "10-25 02:00+0100", "10-25 02:30+0100", "10-25 03:00+0100",
        "10-25 03:30+0100",
    ]  # fmt: skip
    assert len(fired("@hourly", "Europe/Berlin", BEFORE_FOLD, AFTER_FOLD)) == 25
    assert len(fired("@hourly", "Europe/Berlin", BEFORE_GAP, AFTER_GAP)) == 23


def test_a_change_of_half_an_hour_loses_no_instant():
    after, until = (local("Australia/Lord_Howe", 2026, 10, day, hour) for day, hour in ((4, 1), (4, 3)))
    found = ["10-04 01:20+1030", "10-04 01:40+1030", "10-04 02:30+1100", "10-04 02:40+1100", "10-04 03:00+1100"]
    assert fired("*/20 * * * *", "Australia/Lord_Howe", after, until) == found


def test_a_midnight_that_comes_twice_is_one_day():
    # Cuba sets its clocks back at 01:00, so that the hour from midnight comes twice.
    after, until = local("America/Havana", 2026, 10, 31, 12), local("America/Havana", 2026, 11, 2, 12)
    midnights = ["11-01 00:00-0400", "11-02 00:00-0500"]
    assert fired("@daily", "America/Havana", after, until) == midnights
    assert fired("@DAILY", "America/Havana", after, until) == midnights
    assert fired("0 0 * * *", "America/Havana", after, until) == midnights


@pytest.mark.parametrize(
    ("cron", "zone", "expected"),
    [
        ("0 9 * * mon-fri", "Europe/Berlin", "2026-01-01 08:00"),  # a Thursday
        ("0 9 * * *", "America/New_York", "2026-01-01 14:00"),
        ("0 9 * * *", "Asia/Kathmandu", "2026-01-01 03:15"),
        ("@weekly", "UTC", "2026-01-04 00:00"),
        ("@monthly", "Pacific/Auckland", "2026-01-31 11:00"),
        ("@yearly", "UTC", "2027-01-01 00:00"),
        ("0 0 29 2 *", "UTC", "2028-02-29 00:00"),
        ("0 12 L * *", "UTC", "2026-01-31 12:00"),
        ("59 23 31 12 *", "UTC", "2026-12-31 23:59"),
    ],
)
def test_the_first_instant_of_2026(cron, zone, expected):
    after = datetime(2026, 1, 1, tzinfo=UTC)
    assert next(instants(cron, zone, after=after, until=after + FOREVER)).strftime("%Y-%m-%d %H:%M") == expected


def test_leap_days_are_four_years_apart_and_eight_around_2100():
    after = datetime(2092, 1, 1, tzinfo=UTC)
    found = islice(instants("0 0 29 2 *", "UTC", after=after, until=after + FOREVER), 3)
    assert [instant.year for instant in found] == [2092, 2096, 2104]


def test_a_day_that_no_month_has_is_refused_by_build():
    with pytest.raises(FlowDefinitionError, match="never fires"):
        FlowBuilder("never").triggered_by(schedule("0 0 31 2 *")).then(Node("only", lambda: None)).build()


def walk(cron: str, zone: str, after: datetime, until: datetime) -> list[datetime]:
    """The same, minute by minute: a slow answer that needs no knowledge of clock changes."""
    found: list[datetime] = []
    every_hour = cron.split()[1].startswith("*")
    shown = after.astimezone(ZoneInfo(zone)).replace(tzinfo=None, fold=0)
    instant = after
    while (instant := instant + MINUTE) <= until:
        here = instant.astimezone(ZoneInfo(zone))
        wall = here.replace(tzinfo=None, fold=0)
        left_out = [shown + n * MINUTE for n in range(1, int((wall - shown) / MINUTE))]
        is_meant = croniter.match(cron, wall) and (every_hour or not here.fold)
        if is_meant or any(croniter.match(cron, passed) for passed in left_out):
            found.append(instant)
        shown = wall
    return found


CHANGES = [
    ("Europe/Berlin", datetime(2026, 3, 28, 22, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2026, 10, 24, 22, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 3, 8, 4, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 11, 1, 3, tzinfo=UTC)),
    ("America/Havana", datetime(2026, 3, 8, 2, tzinfo=UTC)),
    ("America/Havana", datetime(2026, 11, 1, 2, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 4, 4, 12, tzinfo=UTC)),  # half an hour
    ("Australia/Lord_Howe", datetime(2026, 10, 3, 13, tzinfo=UTC)),
    ("Pacific/Chatham", datetime(2026, 4, 4, 11, tzinfo=UTC)),  # at a quarter to
    ("Pacific/Chatham", datetime(2026, 9, 26, 11, tzinfo=UTC)),
    ("Antarctica/Troll", datetime(2026, 3, 28, 23, tzinfo=UTC)),  # two hours
    ("Antarctica/Troll", datetime(2026, 10, 24, 22, tzinfo=UTC)),
    ("Pacific/Apia", datetime(2011, 12, 30, 7, tzinfo=UTC)),  # a whole day
    ("Asia/Kathmandu", datetime(2026, 3, 8, 1, tzinfo=UTC)),  # none
]
CRONS = ["30 2 * * *", "*/30 * * * *", "0 0 * * *", "15 1,2,3 * * *", "*/10 2 * * *", "59 1 * * *", "*/20 1-3 * * *"]
CRONS += ["0 * * * *", "15 * * * *", "*/45 * * * *", "0 */2 * * *"]


# Every expression and every change several times; all pairs in the long tests.
PAIRS = [
    pytest.param(cron, *change, marks=() if (row + column) % 4 == 0 else pytest.mark.chaos_long)
    for row, cron in enumerate(CRONS)
    for column, change in enumerate(CHANGES)
]


@pytest.mark.parametrize(("cron", "zone", "after"), PAIRS)
def test_around_every_change_of_clocks_it_is_as_minute_by_minute(cron, zone, after):
    until = after + timedelta(hours=7)
    expected = walk(cron, zone, after, until)
    assert list(instants(cron, zone, after=after, until=until)) == expected
    # However the time is cut into pieces, as ticks do, nothing is lost and nothing comes twice.
    numbers = random.Random(f"{cron}{zone}{after}")
    found: list[datetime] = []
    position = after
    while position < until:
        following = min(until, position + timedelta(seconds=numbers.uniform(1, 3000)))
        found += instants(cron, zone, after=position, until=following)
        position = following
    assert found == expected


# --- names ----------------------------------------------------------------------------------------------------------


def test_a_slot_is_named_after_flow_cron_zone_and_nothing_else():
    base = schedule("0 4 * * *", "Europe/Berlin")
    (slot,) = slots_of(entry_of(base))
    same = schedule("0 4 * * *", "Europe/Berlin", overlap="allow", catch_up=timedelta(hours=1), input={"a": 1})
    assert list(slots_of(entry_of(same))) == [slot]
    assert slot.startswith("nightly:")
    others = [schedule("0 4 * * *"), schedule("0 5 * * *", "Europe/Berlin")]
    assert len({slot, *slots_of(entry_of(*others)), *slots_of(entry_of(base, name="other"))}) == 4


def test_schedules_of_the_same_instants_are_told_apart():
    triggers = [schedule("0 4 * * *", input={"region": region}) for region in ("eu", "us")]
    slots = slots_of(entry_of(*triggers))
    assert [trigger.input for trigger in slots.values()] == [{"region": "eu"}, {"region": "us"}]
    assert next(iter(slots)) == next(iter(slots_of(entry_of(triggers[0]))))


def test_a_runs_id_comes_from_schedule_and_instant():
    instant = datetime(2026, 5, 1, 12, tzinfo=UTC)
    first = run_id_of("orchestrator", "nightly:1", instant)
    assert first == run_id_of("orchestrator", "nightly:1", instant.astimezone(ZoneInfo("Asia/Tokyo")))
    assert len(first) == 32
    others = {
        run_id_of("orchestrator", "nightly:1", instant + MINUTE),
        run_id_of("orchestrator", "nightly:2", instant),
        run_id_of("another", "nightly:1", instant),
    }
    assert len(others | {first}) == 4


# --- hints of a beat ------------------------------------------------------------------------------------------------


@pytest.fixture
def app():
    with Celery("beats", broker="memory://", backend="cache+memory://", set_as_current=False) as own:
        yield own


@pytest.fixture
def clock(monkeypatch):
    """A clock that beat reads, in a process that has not beaten yet."""
    now = [datetime(2026, 5, 1, 11, 58, tzinfo=UTC)]

    def read(_) -> datetime:
        now[0] += timedelta(microseconds=1)
        return now[0]

    monkeypatch.setattr(CronSchedule, "now", read)
    monkeypatch.setattr(CronSchedule, "_awake_since", None)
    return now


def beaten(scheduler: Scheduler, clock: list[datetime], until: datetime) -> list[str]:
    """Let a scheduler tick until then; returns when it sent something."""
    sent = []

    def send(entry, **_):
        sent.append(clock[0].strftime("%H:%M:%S"))
        if scheduler.should_sync():
            scheduler._do_sync()

    scheduler.apply_async = send
    while clock[0] <= until:
        clock[0] += timedelta(seconds=min(max(scheduler.tick(), 0.001), 30))
    return sent


def test_a_beat_begins_with_a_hint_and_gives_two_for_every_instant(app, clock):
    add_to_beat(app, entry_of(schedule("0 * * * *")))
    scheduler = Scheduler(app)
    sent = beaten(scheduler, clock, datetime(2026, 5, 1, 13, 30, tzinfo=UTC))
    assert sent == ["11:58:00", "12:00:00", "12:00:20", "13:00:00", "13:00:20"]


def test_a_hint_comes_when_the_instant_has_passed_on_a_clock_that_is_a_little_late(clock):
    cron = CronSchedule("0 * * * *", "UTC")
    noon = datetime(2026, 5, 1, 12, tzinfo=UTC)
    clock[0] = noon - timedelta(seconds=1)
    assert cron.is_due(clock[0])[0]  # the first of a process
    last = clock[0] = noon + timedelta(milliseconds=100)
    is_due, wait = cron.is_due(last)
    assert not is_due
    assert wait == pytest.approx(0.4, abs=0.001)


def test_one_zone_does_not_hint_for_another(app, clock):
    add_to_beat(app, entry_of(schedule("0 14 * * *", "Europe/Berlin"), schedule("0 12 * * *", "America/New_York")))
    sent = beaten(Scheduler(app), clock, datetime(2026, 5, 1, 23, tzinfo=UTC))
    assert sent == ["11:58:00"] * 2 + ["12:00:00", "12:00:20", "16:00:00", "16:00:20"]


@pytest.mark.parametrize("sync_every", [0, 1])
def test_a_schedule_file_keeps_what_was_sent_and_a_new_process_begins_with_a_hint(
    app, clock, monkeypatch, tmp_path, sync_every
):
    app.conf.beat_sync_every = sync_every  # 1: the file is written, and read again, after every hint
    add_to_beat(app, entry_of(schedule("0 * * * *", input={"never": "in the file"})))
    file = str(tmp_path / "schedule")
    scheduler = PersistentScheduler(app, schedule_filename=file)
    assert beaten(scheduler, clock, datetime(2026, 5, 1, 12, 30, tzinfo=UTC)) == ["11:58:00", "12:00:00", "12:00:20"]
    scheduler.close()
    assert b"never" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())

    monkeypatch.setattr(CronSchedule, "_awake_since", None)  # a new process
    clock[0] = datetime(2026, 5, 1, 12, 45, tzinfo=UTC)
    scheduler = PersistentScheduler(app, schedule_filename=file)
    assert beaten(scheduler, clock, datetime(2026, 5, 1, 13, 5, tzinfo=UTC)) == ["12:45:00", "13:00:00", "13:00:20"]
    scheduler.close()


def test_a_cron_schedule_survives_pickle_and_copy():
    cron = CronSchedule("*/5 * * * *", "Europe/Berlin")
    for other in (pickle.loads(pickle.dumps(cron)), copy.copy(cron), copy.deepcopy(cron)):
        assert other == cron
        assert hash(other) == hash(cron)
        assert repr(other) == "<cron */5 * * * * Europe/Berlin>"
    assert cron != CronSchedule("*/5 * * * *", "UTC")
    assert cron != "*/5 * * * *"


def test_a_scheduler_that_knows_only_intervals_hints_within_the_grace():
    assert CronSchedule("0 4 * * *", "UTC").run_every == timedelta(seconds=30)


# --- beat entries ---------------------------------------------------------------------------------------------------


def test_adding_to_beat_configures_and_finalizes_nothing():
    app = Celery("lazy", set_as_current=False)
    app.config_from_object("module.that.is.not.there.yet")
    entry = entry_of(schedule("0 4 * * *"), queue="nights")
    add_to_beat(app, entry)
    assert (app.configured, app.finalized) == (False, False)

    app.config_from_object({"broker_url": "memory://", "beat_schedule": {"own": {"task": "own", "schedule": 60}}})
    (slot,) = slots_of(entry)
    assert set(app.conf.beat_schedule) == {"own", f"orchestrator.tick {slot}"}
    added = app.conf.beat_schedule[f"orchestrator.tick {slot}"]
    assert (added["task"], added["args"], added["options"]) == (
        "orchestrator.tick",
        ("nightly", slot),
        {"queue": "nights"},
    )
    assert added["schedule"] == CronSchedule("0 4 * * *", "UTC")


def test_a_beat_finds_what_an_assignment_has_dropped(app):
    flow = entry_of(schedule("0 4 * * *"), schedule("0 5 * * *")).flow
    orchestrator = Orchestrator(app, redis_url="redis://127.0.0.1:1/0")
    orchestrator.register(flow)
    app.conf.beat_schedule = {"own": {"task": "own", "schedule": timedelta(days=1)}}
    service = Service(app, scheduler_cls=Scheduler)
    service._is_shutdown.set()  # start() then ends before its first tick
    service.start()
    assert set(service.scheduler.schedule) == {"own"} | {
        f"orchestrator.tick {slot}" for slot in slots_of(entry_of(*flow.triggers))
    }


def test_a_beat_drops_what_no_flow_has_any_more_also_where_it_is_stored(app):
    deleted: list[str] = []

    class Stored(Scheduler):
        """Keeps entries that nobody takes out, as django-celery-beat does."""

        def setup_schedule(self):
            super().setup_schedule()
            for name in ("own", "orchestrator.tick gone:0123"):
                entry = self.Entry(name=name, task="orchestrator.tick", schedule=timedelta(days=1), app=self.app)
                entry.model = SimpleNamespace(delete=partial(deleted.append, name))
                self.schedule[name] = entry

    flow = entry_of(schedule("0 4 * * *")).flow
    Orchestrator(app, redis_url="redis://127.0.0.1:1/0").register(flow)
    service = Service(app, scheduler_cls=Stored)
    service._is_shutdown.set()
    service.start()
    slots = {f"orchestrator.tick {slot}" for slot in slots_of(entry_of(*flow.triggers))}
    assert set(service.scheduler.schedule) == {"own"} | slots
    assert deleted == ["orchestrator.tick gone:0123"]


def test_a_beat_of_an_app_without_flows_is_left_alone(app):
    service = Service(app, scheduler_cls=Scheduler)
    service._is_shutdown.set()
    service.start()
    assert service.scheduler.schedule == {}


def test_importing_the_package_starts_nothing_of_a_worker_or_a_beat():
    code = "import sys, orchestrator; print(sorted({'celery.beat', 'celery.apps.worker'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
