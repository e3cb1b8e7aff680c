"""How `schedule(...)` triggers become beat entries, and what a beat's message does.

A beat is only a clock: its message carries no instant. The tick takes the cron's instants since the stored slot and
starts at most one run, whose identity comes from schedule and instant, so any number of beats is harmless.
"""

from __future__ import annotations

import hashlib
import json
import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from celery import Task
from celery.schedules import schedule as every
from croniter import croniter

from orchestrator.engine import engine_of
from orchestrator.triggers import ScheduleTrigger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

    from orchestrator.engine import Engine
    from orchestrator.registry import Registered

logger = logging.getLogger(__name__)
TICK = "orchestrator.tick"
GRACE = timedelta(seconds=60)
MOST_INSTANTS = 10_000


def slot_name(flow: str, trigger: ScheduleTrigger) -> str:
    """The name under which a schedule's last instant is stored."""
    digest = hashlib.sha256(f"{trigger.cron}\n{trigger.timezone}".encode()).hexdigest()[:16]
    return f"{flow}:{digest}"


def cron_schedules(entry: Registered) -> list[ScheduleTrigger]:
    """The schedules of a flow."""
    return [trigger for trigger in entry.flow.triggers if isinstance(trigger, ScheduleTrigger)]


def instants(trigger: ScheduleTrigger, after: datetime, until: datetime) -> Iterator[datetime]:
    """The cron's instants in (after, until], in UTC, oldest first.

    A wall-clock time that a change of the clocks repeats counts once, unless the hour field is a wildcard.
    """
    zone = ZoneInfo(trigger.timezone)
    cron = croniter(trigger.cron, after.astimezone(zone))
    hourly = trigger.cron.startswith("@") or trigger.cron.split()[1].startswith("*")
    before: datetime | None = None
    while (instant := cron.get_next(datetime)) <= until:
        wall = instant.replace(tzinfo=None, fold=0)
        if hourly or wall != before:
            yield instant.astimezone(UTC)
        before = wall


class CronSchedule(every):  # type: ignore[misc] # celery has no types
    """When beat sends its hint: at every instant of a cron, in the cron's own time zone."""

    def __init__(self, trigger: ScheduleTrigger, app: Celery | None = None) -> None:
        self.trigger = trigger
        self._has_hinted = False
        super().__init__(run_every=timedelta(minutes=1), app=app)

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        """Whether an instant has passed since the last hint, and the seconds to the next one.

        The first answer of a beat process is yes: it may have been away over an instant, which only the slot knows.
        """
        now = self.now()
        if not self._has_hinted:
            self._has_hinted = True
            last_run_at = datetime.min.replace(tzinfo=UTC)
        following = next(instants(self.trigger, last_run_at, now + timedelta(days=3660)), None)
        if following is None:
            return False, 3600.0
        if following > now:
            return False, (following - now).total_seconds()
        later = next(instants(self.trigger, now, now + timedelta(days=3660)), now + timedelta(hours=1))
        return True, (later - now).total_seconds()

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive beat's schedule file."""
        return type(self), (self.trigger,)

    def __eq__(self, other: object) -> bool:
        """Two schedules of one trigger are the same."""
        return isinstance(other, CronSchedule) and self.trigger == other.trigger

    def __hash__(self) -> int:
        """Hash as it compares."""
        return hash((self.trigger.cron, self.trigger.timezone))

    def __repr__(self) -> str:
        """Show the cron."""
        return f"<cron {self.trigger.cron} {self.trigger.timezone}>"


def add_to_beat(app: Celery, entry: Registered) -> None:
    """Add the schedules of a flow to the app's beat schedule."""
    for trigger in cron_schedules(entry):
        slot = slot_name(entry.flow.name, trigger)
        app.add_periodic_task(
            CronSchedule(trigger, app=app),
            app.tasks[TICK].si(entry.flow.name, slot).set(queue=entry.plan.queue),
            name=f"{TICK} {slot}",
        )


def remember_slots(engine: Engine, entry: Registered) -> None:
    """Give every schedule of a flow a first slot, now, and drop those that its code does not have any more."""
    store = engine.store
    wanted = {slot_name(entry.flow.name, trigger) for trigger in cron_schedules(entry)}
    now = store.now_ms()
    for slot in wanted:
        store.client.hsetnx(store.keys.slots, slot, now)
    for raw in store.client.hkeys(store.keys.slots):
        slot = raw.decode().split("|")[0]
        if slot.split(":")[0] == entry.flow.name and slot not in wanted:
            store.client.hdel(store.keys.slots, raw)


class Tick(Task):
    """What a beat's message does: start the newest run of a schedule that is due, at most once for each instant."""

    name = TICK
    ignore_result = True
    acks_late = True
    serializer = "json"

    def run(self, flow: str, slot: str) -> None:
        """Start what is due of one schedule of one flow."""
        engine = engine_of(self.app)
        entry = engine.registry.flows.get(flow)
        triggers = [each for each in cron_schedules(entry) if slot_name(flow, each) == slot] if entry else []
        if entry is None or not triggers:
            logger.warning("flow %s: a beat knows the schedule %s, this worker does not", flow, slot)
            return
        with engine.store.guarded():
            start_due(engine, entry, triggers[0])


def start_due(engine: Engine, entry: Registered, trigger: ScheduleTrigger) -> list[str]:
    """Start the runs of a schedule that are due; returns their ids, oldest first.

    The newest instant is started when it is younger than `catch_up`, at least 60 s; older ones within `catch_up`.
    """
    store = engine.store
    slot = slot_name(entry.flow.name, trigger)
    now = datetime.fromtimestamp(store.now_ms() / 1000, UTC)
    last = store.client.hget(store.keys.slots, slot)
    oldest = now - max(trigger.catch_up, GRACE)
    after = max(oldest, datetime.fromtimestamp(int(last) / 1000, UTC)) if last else oldest
    due = list(instants(trigger, after, now))[-MOST_INSTANTS:]
    wanted = [instant for instant in due if instant >= now - trigger.catch_up] or due[-1:]
    if due and due[-1] not in wanted:
        wanted.append(due[-1])
    return [run_id for instant in wanted if (run_id := _start_one(engine, entry, trigger, instant))]


def _start_one(engine: Engine, entry: Registered, trigger: ScheduleTrigger, instant: datetime) -> str | None:
    slot = slot_name(entry.flow.name, trigger)
    at_ms = round(instant.timestamp() * 1000)
    run_id = hashlib.sha256(f"{engine.settings.prefix}\n{slot}\n{at_ms}".encode()).hexdigest()[:32]
    codec = entry.flow.input_codec
    given = (
        b"" if trigger.input is None else (codec.dump(trigger.input) if codec else json.dumps(trigger.input).encode())
    )
    started = engine.start(entry.plan, given, run_id=run_id, schedule=slot, scheduled_ms=at_ms, overlap=trigger.overlap)
    if started.outcome == "skipped":
        logger.warning("flow %s: %s is skipped, run %s still runs", entry.flow.name, instant, started.run_id)
    return run_id if started.outcome == "started" else None
