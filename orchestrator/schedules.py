"""Schedules: beat entries made of `schedule(...)` triggers, and the tick that a beat's message starts.

A beat is only a clock: its message carries no instant. The tick takes the cron's instants since the last one stored and
starts at most one run for each. The run's id is made of schedule and instant, so any number of beats is harmless.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import TYPE_CHECKING, Any, ClassVar
from zoneinfo import ZoneInfo

from celery import signals
from celery.schedules import schedule as every
from croniter import croniter

from orchestrator.definition.codecs import codec_of
from orchestrator.definition.triggers import ScheduleTrigger
from orchestrator.engine import Engine, engine_of
from orchestrator.errors import InvalidInput
from orchestrator.messaging.engine_task import EngineTask
from orchestrator.messaging.socket_timeouts import limit_sockets

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from celery import Celery

    from orchestrator.definition.registry import Registered

logger = logging.getLogger(__name__)
TICK = "orchestrator.tick"
GRACE = timedelta(seconds=60)
HINTS = (timedelta(milliseconds=500), timedelta(seconds=20))
"""When beat sends its message after an instant: late enough that Redis's clock has passed it too, and once more, as a
message can be lost and nothing else would start the run of that instant."""
HORIZON = timedelta(days=3660)
MOST_INSTANTS = 10_000


def slots_of(entry: Registered) -> Mapping[str, ScheduleTrigger]:
    """The schedules of a flow by the name under which the last instant of each is stored.

    Neither input nor options are part of the name, so that a change of them keeps the slot; schedules that fire at the
    same instants are told apart by their order.
    """
    slots: dict[str, ScheduleTrigger] = {}
    for trigger in entry.flow.triggers:
        if isinstance(trigger, ScheduleTrigger):
            digest = hashlib.sha256(f"{trigger.cron}\n{trigger.timezone}".encode()).hexdigest()[:16]
            number = sum(slot.split(":")[1] == digest for slot in slots)
            slots[f"{entry.flow.name}:{digest}" + (f":{number}" if number else "")] = trigger
    return slots


def run_id_of(prefix: str, slot: str, instant: datetime) -> str:
    """The id of the run that a schedule starts for an instant, the same in every process."""
    at_ms = round(instant.timestamp() * 1000)
    return hashlib.sha256(f"{prefix}\n{slot}\n{at_ms}".encode()).hexdigest()[:32]


def instants(cron: str, timezone: str, *, after: datetime, until: datetime) -> Iterator[datetime]:
    """The cron's instants in (after, until], in UTC, oldest first.

    A wall-clock time that a change of the clocks repeats counts once, its first time, unless the hour field is a
    wildcard; one that is left out counts at the moment of the change.
    """
    # Walked on the wall clock and translated here: croniter loses instants at a change that is no whole hour.
    zone = ZoneInfo(timezone)
    fields = cron.lower().split()
    every_hour = fields == ["@hourly"] or (len(fields) > 1 and fields[1].startswith("*"))
    shown = after.astimezone(zone)
    start = shown.replace(tzinfo=None, fold=0)
    if _span(shown, shown.replace(fold=1)) > timedelta(0):  # the clock will be set back over what it has shown
        start -= _span(shown, shown.replace(fold=1))
    walls = croniter(cron, start)
    repeated: deque[datetime] = deque()
    last = after
    while True:
        first, second = _instants_of(walls.get_next(datetime), zone)
        passed = [repeated.popleft() for instant in tuple(repeated) if instant <= first]
        if every_hour and second is not None:
            repeated.append(second)
        for instant in (*passed, first):
            if instant > until:
                return
            if instant > last:
                yield instant
                last = instant


def instants_before(cron: str, timezone: str, *, until: datetime, count: int) -> list[datetime]:
    """The cron's last instants up to one, at most so many of the last ten years, oldest first."""
    span = timedelta(hours=1)
    while True:
        found = deque(instants(cron, timezone, after=until - span, until=until), count)
        if len(found) == count or span > HORIZON:
            return list(found)
        span *= 8


def _instants_of(wall: datetime, zone: ZoneInfo) -> tuple[datetime, datetime | None]:
    """When a clock of the zone shows a time, and when it shows it again; the moment of the change if it never does."""
    first, second = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if first < second:
        return first, second
    while first - second > timedelta(seconds=1):  # the change is after `second` and not after `first`
        middle = second + (first - second) // 2
        if _span(middle.astimezone(zone), first.astimezone(zone)):
            second = middle
        else:
            first = middle
    return first.replace(microsecond=0), None


def _span(one: datetime, other: datetime) -> timedelta:
    return (one.utcoffset() or timedelta(0)) - (other.utcoffset() or timedelta(0))


def delay_of(slot: str, instant: datetime, jitter: timedelta) -> timedelta:
    """How long after an instant its run starts: below the jitter, and the same in every process."""
    if not jitter:
        return jitter
    drawn = hashlib.sha256(f"{slot}\n{instant.timestamp():.0f}".encode()).digest()[:4]
    return jitter * (int.from_bytes(drawn) / 2**32)


class CronSchedule(every):
    """When beat sends its hints: after every instant of a cron, in the cron's own time zone.

    It holds texts and nothing of the flow, because beat may write it to its schedule file.

    Args:
        cron: The cron.
        timezone: Its zone.
        jitter_s: Longest delay of a run after its instant.
        slot: Of the schedule, by which the delays are drawn.
    """

    _awake_since: ClassVar[datetime | None] = None

    def __init__(self, cron: str, timezone: str, jitter_s: float = 0.0, slot: str = "") -> None:
        self.cron = cron
        self.timezone = timezone
        self.jitter_s = jitter_s
        self.slot = slot
        # What a scheduler reads that stores intervals and knows no cron: each instant gets a hint within the grace.
        super().__init__(run_every=GRACE / 2)

    def now(self) -> datetime:
        """The present in UTC, whatever app reads it: one that comes out of a schedule file has lost its own."""
        return datetime.now(UTC)

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        """Whether a hint is due since the last one, and the seconds to the next.

        A beat process begins with a hint: it may have been away over an instant, which only the slot knows.
        """
        now = self.now()
        if CronSchedule._awake_since is None:
            CronSchedule._awake_since = now
        is_due = last_run_at <= CronSchedule._awake_since or next(self._hints(last_run_at, now), None) is not None
        following = next(self._hints(now, now + HORIZON), now + HORIZON)
        if self.jitter_s:  # a later instant may have a shorter delay
            following = min(self._hints(now, following), default=following)
        return is_due, (following - now).total_seconds()

    def _hints(self, after: datetime, until: datetime) -> Iterator[datetime]:
        jitter = timedelta(seconds=self.jitter_s)
        for instant in instants(self.cron, self.timezone, after=after - HINTS[-1] - jitter, until=until):
            due = instant + delay_of(self.slot, instant, jitter)
            yield from (hint for delay in HINTS if after < (hint := due + delay) <= until)

    def _parts(self) -> tuple[Any, ...]:
        # Without jitter as it always was: a beat of an older version may read the same schedule file.
        plain = (self.cron, self.timezone)
        return (*plain, self.jitter_s, self.slot) if self.jitter_s else plain

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive beat's schedule file."""
        return type(self), self._parts()

    def __eq__(self, other: object) -> bool:
        """Two schedules of one cron in one zone are the same."""
        return isinstance(other, CronSchedule) and self._parts() == other._parts()

    def __hash__(self) -> int:
        """Hash as it compares."""
        return hash(self._parts())

    def __repr__(self) -> str:
        """Show the cron."""
        return f"<cron {self.cron} {self.timezone}>"


def add_to_beat(app: Celery, entry: Registered) -> None:
    """Add the schedules of a flow to the app's beat schedule; reads neither its configuration nor its tasks."""
    for slot, trigger in slots_of(entry).items():
        app.add_periodic_task(
            CronSchedule(
                trigger.cron, trigger.timezone, trigger.jitter.total_seconds(), slot if trigger.jitter else ""
            ),
            app.signature(TICK, args=(entry.flow.name, slot), immutable=True, queue=entry.plan.queue),
            name=_entry_name(slot),
        )


def _entry_name(slot: str) -> str:
    return f"{TICK} {slot}"


@signals.beat_init.connect
def add_what_is_missing(sender: Any, **_: Any) -> None:
    """Give a starting beat limits on its sockets, and the entries that an assignment to its schedule has dropped."""
    engine: Engine | None = getattr(sender.app, Engine.ATTRIBUTE, None)
    entries = [entry for entry in engine.registry.flows.values() if slots_of(entry)] if engine else []
    if entries:
        limit_sockets(sender.app)
    if engine:
        _drop_what_has_left(engine, sender.scheduler)
    for entry in entries:
        missing = [name for name in map(_entry_name, slots_of(entry)) if name not in sender.scheduler.schedule]
        if missing:
            add_to_beat(sender.app, entry)
            sender.scheduler.update_from_dict({name: sender.app.conf.beat_schedule[name] for name in missing})


def _drop_what_has_left(engine: Engine, scheduler: Any) -> None:
    """Drop the entries of schedules that are in no flow any more; one kept in a database is deleted there too."""
    engine.discovery.catch_up()
    known = {_entry_name(slot) for entry in engine.registry.flows.values() for slot in slots_of(entry)}
    for name in [name for name in scheduler.schedule if name.startswith(f"{TICK} ") and name not in known]:
        model = getattr(scheduler.schedule.pop(name), "model", None)
        if model is not None:  # django-celery-beat's
            model.delete()
        logger.warning("the entry %s is dropped: no flow has this schedule any more", name)


def remember_slots(engine: Engine, entry: Registered) -> None:
    """Give every schedule of a flow a first slot, now, and drop those that its code does not have any more."""
    engine.store.upkeep.remember_slots(entry.flow.name, slots_of(entry).keys(), engine.store.now_ms())


class Tick(EngineTask):
    """What a beat's message does: start what is due of a schedule, at most one run for each instant."""

    name = TICK

    def run(self, flow: str, slot: str) -> None:
        """Start what is due of one schedule of one flow."""
        engine = engine_of(self.app)
        entry = engine.registry.flows.get(flow)
        if entry is None or slot not in slots_of(entry):
            logger.warning("flow %s: a beat knows the schedule %s, this worker does not", flow, slot)
            return
        with engine.store.guarded():
            start_due(engine, entry, slot)


def start_due(engine: Engine, entry: Registered, slot: str) -> list[str]:
    """Start the runs of a schedule that are due; returns their ids, oldest first.

    The newest instant is started when it is younger than `catch_up`, at least 60 s; older ones within `catch_up`, and
    not with overlap "skip": of all that would start now only one would be left.
    """
    trigger = slots_of(entry)[slot]
    if engine.store.upkeep.is_paused(slot):
        return []
    return [
        run_id
        for instant in _due_instants(engine, trigger, slot)
        if (run_id := _start_one(engine, entry, slot, instant))
    ]


def _due_instants(engine: Engine, trigger: ScheduleTrigger, slot: str) -> list[datetime]:
    store = engine.store
    # Redis's clock, as every worker sees it: one whose own is ahead would start what is not due.
    now = datetime.fromtimestamp(store.now_ms() / 1000, UTC)
    last = store.upkeep.last_slot(slot)
    # Without a slot nothing is known of the past, so there is nothing to catch up with.
    oldest = now - (max(trigger.catch_up, GRACE) if last else GRACE)
    after = oldest - trigger.jitter
    if last:
        after = max(after, datetime.fromtimestamp(last / 1000, UTC))

    def due_at(instant: datetime) -> datetime:
        return instant + delay_of(slot, instant, trigger.jitter)

    # In order, also where a later instant has a shorter delay: the slot holds the last one alone.
    passed = takewhile(
        lambda instant: due_at(instant) <= now, instants(trigger.cron, trigger.timezone, after=after, until=now)
    )
    due = list(deque((instant for instant in passed if due_at(instant) >= oldest), MOST_INSTANTS))
    older = (instant for instant in due[:-1] if due_at(instant) >= now - trigger.catch_up)
    return [*(older if trigger.overlap != "skip" else ()), *due[-1:]]


def input_of(entry: Registered, slot: str) -> bytes:
    """The JSON of the input that a schedule gives its runs; empty for none."""
    trigger, codec = slots_of(entry)[slot], entry.flow.input_codec
    is_without = codec is None and trigger.input is None
    return b"" if is_without else (codec or codec_of(Any)).dump(trigger.input, error=InvalidInput)


def _start_one(engine: Engine, entry: Registered, slot: str, instant: datetime) -> str | None:
    trigger = slots_of(entry)[slot]
    run_id = run_id_of(engine.settings.prefix, slot, instant)
    started = engine.start(
        entry.plan,
        input_of(entry, slot),
        run_id=run_id,
        schedule=slot,
        scheduled_ms=round(instant.timestamp() * 1000),
        overlap=trigger.overlap,
        priority=trigger.priority,
    )
    if started.outcome == "skipped":
        why = "is the last one of too many that wait" if trigger.overlap == "queue" else "still runs"
        logger.warning("flow %s: %s is skipped, run %s %s", entry.flow.name, instant, started.run_id, why)
    return run_id if started.outcome == "started" else None
