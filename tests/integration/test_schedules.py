"""Runs that a tick starts, with any number of ticks at once, and with real beat processes."""

from __future__ import annotations

import re
import shelve
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from orchestrator import schedule
from orchestrator.engine import engine_of
from orchestrator.schedules import CronSchedule, _start_one, remember_slots, run_id_of, slots_of, start_due
from orchestrator.server import EmbeddedServer
from tests.clockwork import MINUTE, Clockwork
from tests.harness import environment_for, load_program, wait_until, workers
from tests.processes import Running, running

MODULE = "tests.programs.scheduled"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of its own: nobody must run what these ticks start."""
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as own:
        yield own


def half_an_hour_ago() -> str:
    """The cron that fires once an hour, half an hour from now and half an hour ago."""
    return f"{(datetime.now(UTC) + 30 * MINUTE).minute} * * * *"


def test_the_newest_missed_instant_is_started_once(server):
    clockwork = Clockwork(server.url, schedule("* * * * *"))
    started, known = clockwork.tick_after(timedelta(minutes=10), within=MINUTE)
    assert started == known[-1:]
    assert clockwork.tick() == []
    (run,) = clockwork.orchestrator.runs(flow="nightly")
    scheduled = datetime.fromtimestamp(int(run._record().fields["scheduled"]) / 1000, UTC)
    assert clockwork.slot() == scheduled
    assert run_id_of(clockwork.prefix, clockwork.slots[0], scheduled) == run.id


def test_twenty_ticks_at_once_start_one_run(server):
    first = Clockwork(server.url, schedule("* * * * *"))
    second = Clockwork(server.url, schedule("* * * * *"), prefix=first.prefix)
    for _ in range(3):
        first.set_slot(first.now() - 10 * MINUTE)
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda number: (first, second)[number % 2].tick(), range(20)))
        started = [run_id for answer in answers for run_id in answer]
        assert len(started) == len(set(started))
        assert set(started) <= first.started()
        # One for each instant that a tick saw: a second one only where a minute passed meanwhile.
        scheduled = sorted(
            int(first.orchestrator.get(run_id)._record().fields["scheduled"]) for run_id in first.started()
        )
        assert all(later - earlier >= 60_000 for earlier, later in pairwise(scheduled))
        for run_id in first.started():
            first.orchestrator.get(run_id).cancel()
    assert 1 <= len(first.started()) <= 2


def test_three_beats_one_killed_and_one_paused_start_one_run_for_each_of_thirty_minutes(server, monkeypatch):
    """Half an hour in a second: the beats wake when their schedule says so, and all that are due tick at once."""
    trigger = schedule("* * * * *", overlap="allow")
    first = Clockwork(server.url, trigger)
    clockworks = [first, *(Clockwork(server.url, trigger, prefix=first.prefix) for _ in range(2))]
    begin = first.now().replace(second=0, microsecond=0) - 31 * MINUTE
    first.set_slot(begin)
    clock = [begin]
    killed_at, paused_at, goes_on_at = begin + 6 * MINUTE, begin + 10 * MINUTE, begin + 20 * MINUTE
    monkeypatch.setattr(CronSchedule, "now", lambda _: clock[0])
    monkeypatch.setattr(CronSchedule, "_awake_since", begin)
    for each in clockworks:
        monkeypatch.setattr(each.store, "now_ms", lambda: round(clock[0].timestamp() * 1000))
    cron, started = CronSchedule("* * * * *", "UTC"), []
    last, wakes, ticks = [begin] * 3, [begin] * 3, [0] * 3
    with ThreadPoolExecutor(3) as pool:
        for _ in range(1000):
            clock[0] = now = min(wakes)
            if now > begin + 30.5 * MINUTE:
                break
            due = []
            for beat in (beat for beat in range(3) if wakes[beat] == now):
                if (beat == 0 and now >= killed_at) or (beat == 1 and paused_at <= now < goes_on_at):
                    wakes[beat] = goes_on_at if beat else datetime.max.replace(tzinfo=UTC)
                    continue
                is_due, seconds = cron.is_due(last[beat])
                wakes[beat] = now + timedelta(seconds=max(seconds, 0.01))
                if is_due:
                    last[beat], ticks[beat] = now, ticks[beat] + 1
                    due.append(clockworks[beat])
            started += [run_id for found in pool.map(Clockwork.tick, due) for run_id in found]
    expected = [run_id_of(first.prefix, first.slots[0], begin + number * MINUTE) for number in range(1, 31)]
    assert started == expected
    assert first.started() == set(expected)
    assert ticks[0] < ticks[1] < ticks[2]
    assert min(ticks) > 6


def test_a_tick_that_comes_late_starts_nothing_even_when_the_runs_record_is_gone(server):
    clockwork = Clockwork(server.url, schedule("* * * * *", overlap="allow"))
    clockwork.set_slot(clockwork.now() - 10 * MINUTE)
    (run_id,) = clockwork.tick()
    clockwork.orchestrator.get(run_id).cancel()
    clockwork.store.client.delete(*clockwork.store.client.keys(f"{clockwork.prefix}:run:*"))
    for instant in (clockwork.slot(), clockwork.slot() - MINUTE):
        assert _start_one(clockwork.engine, clockwork.entry, clockwork.slots[0], instant) is None
    assert not clockwork.store.client.keys(f"{clockwork.prefix}:run:*")


@pytest.mark.parametrize(("overlap", "runs"), [("allow", None), ("skip", 1)])
def test_older_instants_are_started_within_catch_up(server, overlap, runs):
    catch_up = timedelta(minutes=5)
    clockwork = Clockwork(server.url, schedule("* * * * *", overlap=overlap, catch_up=catch_up))
    started, known = clockwork.tick_after(timedelta(hours=1), within=catch_up)
    assert len(known) == 5
    # Runs that must not overlap are not all started at once: the newest stands for them.
    assert started == known[-runs:] if runs else known
    assert clockwork.tick() == []


def test_nothing_is_caught_up_with_from_before_the_slot(server):
    clockwork = Clockwork(server.url, schedule("* * * * *", overlap="allow", catch_up=timedelta(hours=1)))
    started, known = clockwork.tick_after(timedelta(minutes=3), within=timedelta(minutes=3))
    assert started == known
    assert len(known) == 3


@pytest.mark.parametrize(("catch_up", "runs"), [(0, 0), (20, 0), (45, 1), (100, 1)])
def test_an_instant_of_half_an_hour_ago_is_started_within_catch_up_alone(server, catch_up, runs):
    clockwork = Clockwork(server.url, schedule(half_an_hour_ago(), catch_up=timedelta(minutes=catch_up)))
    clockwork.set_slot(clockwork.now() - timedelta(days=1))
    assert len(clockwork.tick()) == runs


def test_a_schedule_without_a_slot_has_nothing_to_catch_up_with(server):
    clockwork = Clockwork(server.url, schedule("* * * * *", overlap="allow", catch_up=timedelta(hours=1)))
    assert len(clockwork.tick()) == 1
    idle = Clockwork(server.url, schedule(half_an_hour_ago(), catch_up=timedelta(hours=1)))
    assert idle.tick() == []


def test_ticks_queue_their_runs_where_the_schedule_says_so(server, caplog):
    catch_up = timedelta(minutes=4)
    clockwork = Clockwork(server.url, schedule("* * * * *", overlap="queue", catch_up=catch_up))
    started, known = clockwork.tick_after(timedelta(hours=1), within=catch_up)
    assert started == known
    first, second, third, last = (clockwork.orchestrator.get(run_id) for run_id in started)
    (waiting,) = third.explain()
    assert (waiting.node, waiting.state) == ("", "pending")
    turn = "is number 2 of those that wait for their turn: one run of its schedule at a time"
    assert waiting.reason == f"{turn}, now run {first.id}"
    second.cancel()
    assert (second.status, third.explain()[0].node) == ("cancelled", "")
    first.cancel()
    assert third.explain()[0].node == "only", "the first one that waited and was not cancelled"
    third.cancel()
    assert last.explain()[0].node == "only"
    last.cancel()
    assert not [key for key in clockwork.store.client.keys(f"{clockwork.prefix}:*") if b":lane:" in key]


def test_a_run_is_skipped_while_the_last_one_lives(server, caplog):
    clockwork = Clockwork(server.url, schedule("* * * * *"))
    last = clockwork.orchestrator.start("nightly")
    clockwork.store.client.hset(clockwork.store.keys.slots, f"{clockwork.slots[0]}|run", last.id)
    clockwork.set_slot(clockwork.now() - 10 * MINUTE)
    assert clockwork.tick() == []
    assert f"run {last.id} still runs" in caplog.text
    assert clockwork.now() - clockwork.slot() <= MINUTE + timedelta(seconds=10)  # passed over for good

    last.cancel()
    assert last.status == "cancelled"
    clockwork.set_slot(clockwork.now() - 10 * MINUTE)
    assert len(clockwork.tick()) == 1


def test_runs_may_overlap_where_the_schedule_says_so(server):
    clockwork = Clockwork(server.url, schedule("* * * * *", overlap="allow"))
    last = clockwork.orchestrator.start("nightly")
    clockwork.store.client.hset(clockwork.store.keys.slots, f"{clockwork.slots[0]}|run", last.id)
    clockwork.set_slot(clockwork.now() - 10 * MINUTE)
    assert len(clockwork.tick()) == 1


def test_a_first_registration_starts_nothing_and_a_later_one_keeps_the_slot(server):
    clockwork = Clockwork(server.url, schedule(half_an_hour_ago(), catch_up=timedelta(hours=1)))
    before = clockwork.now()
    remember_slots(clockwork.engine, clockwork.entry)
    first = clockwork.slot()
    assert first >= before
    assert clockwork.tick() == []

    clockwork.set_slot(first - timedelta(hours=1))
    again = Clockwork(
        server.url, schedule(clockwork.cron, catch_up=timedelta(hours=2), overlap="allow"), prefix=clockwork.prefix
    )
    remember_slots(again.engine, again.entry)
    assert again.slot() == first - timedelta(hours=1)
    assert len(again.tick()) == 1


def test_the_slot_of_a_schedule_that_left_the_code_is_dropped(server):
    clockwork = Clockwork(server.url, schedule("* * * * *"), schedule("0 4 * * *"))
    remember_slots(clockwork.engine, clockwork.entry)
    clockwork.set_slot(clockwork.now() - 10 * MINUTE)
    assert clockwork.tick()
    slots = clockwork.store.keys.slots
    assert {name.decode() for name in clockwork.store.client.hkeys(slots)} == {
        *clockwork.slots, f"{clockwork.slots[0]}|run",
    }  # fmt: skip
    clockwork.store.client.hset(slots, "other:0123", 1)  # another flow's

    later = Clockwork(server.url, schedule("0 4 * * *"), prefix=clockwork.prefix)
    remember_slots(later.engine, later.entry)
    assert {name.decode() for name in later.store.client.hkeys(slots)} == {*later.slots, "other:0123"}


def test_schedules_of_the_same_instants_each_start_a_run_with_their_input(server):
    triggers = [schedule("* * * * *", input={"region": region}) for region in ("eu", "us")]
    clockwork = Clockwork(server.url, *triggers)
    for slot in clockwork.slots:
        clockwork.store.client.hset(
            clockwork.store.keys.slots, slot, round(clockwork.now().timestamp() * 1000) - 600_000
        )
    runs = [start_due(clockwork.engine, clockwork.entry, slot) for slot in clockwork.slots]
    assert [clockwork.orchestrator.get(run_id).state().input() for (run_id,) in runs] == [
        {"region": "eu"}, {"region": "us"},
    ]  # fmt: skip


def test_beats_start_one_run_for_an_instant_they_were_away_for(server, tmp_path, monkeypatch):
    """Two beats, one with a schedule file, and what they leave behind."""
    missed = (datetime.now(UTC) - MINUTE).replace(second=0, microsecond=0)
    cron = f"{missed.minute} {missed.hour} {missed.day} {missed.month} *"
    monkeypatch.setenv("TEST_CRON", cron)
    program = load_program("scheduled", server.url)
    program.LEDGER.clear()
    engine = engine_of(program.app)
    slots = list(slots_of(engine.registry.flows["reports"]))
    for slot in slots:
        engine.store.client.hset(engine.store.keys.slots, slot, round(missed.timestamp() * 1000) - 60_000)

    environment = environment_for(server.url)
    beat = ["-m", "celery", "-A", MODULE, "beat", "-l", "info"]
    to_file = [*beat, "--scheduler", "celery.beat:PersistentScheduler", "-s", str(tmp_path / "file" / "schedule")]
    (tmp_path / "file").mkdir()
    plain, filed, again = (tmp_path / name for name in ("plain", "filed", "again"))
    due = [f"Sending due task orchestrator.tick {slot} (orchestrator.tick)" for slot in slots]
    # Read before a beat is told to end, which may interrupt it while it sends.
    texts: list[str] = []
    with (
        running(beat, folder=plain, log=tmp_path / "plain.log", environment=environment) as first,
        running(to_file, folder=filed, log=tmp_path / "filed.log", environment=environment) as second,
        workers(MODULE, server.url, tmp_path / "workers", count=1) as (worker,),
    ):

        def wait_for_hints(*beats: Running, ticks: int) -> None:
            for process in beats:
                for hint in due:
                    process.wait_for(hint)
            done = re.compile(r"Task orchestrator\.tick\S+ succeeded")
            wait_until(lambda: len(done.findall(worker.log.read_text())) >= ticks, f"{ticks} ticks")

        wait_for_hints(first, second, ticks=4)
        texts += [first.text, second.text]
        assert second.stop() == 0
        with running(to_file, folder=again, log=tmp_path / "again.log", environment=environment) as third:
            third.wait_for("Sending due task own")
            wait_for_hints(third, ticks=6)
            texts.append(third.text)
        program.LEDGER.wait_for("own", "own")
        wait_until(lambda: len(program.LEDGER.names("report")) == 2, "two reports")

    expected = {
        f"{name} {missed.isoformat()} {run_id_of('orchestrator', slot, missed)}"
        for name, slot in zip(("north", "south"), slots, strict=True)
    }
    assert set(program.LEDGER.names("report")) == expected
    assert len(program.LEDGER.names("report")) == 2
    runs = program.orchestrator.runs(flow="reports")
    assert sorted(run.result(str, timeout=30) for run in runs) == ["north", "south"]
    for text in texts:
        assert not re.search("Traceback|Reset|orrupted", text)
    assert [list(folder.iterdir()) for folder in (plain, filed, again)] == [[], [], []]
    with shelve.open(str(tmp_path / "file" / "schedule"), flag="r") as stored:
        kept = {name: entry.schedule for name, entry in stored["entries"].items()}
    assert kept.pop("own").run_every == timedelta(seconds=1)
    assert kept == {f"orchestrator.tick {slot}": CronSchedule(cron, "UTC") for slot in slots}
