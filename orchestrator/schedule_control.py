"""Control of schedules: list and pause them, start one now, and start the runs of instants that have passed.

A paused schedule keeps its last instant; when it goes on, what was missed follows its `catch_up`.
"""

from __future__ import annotations

import difflib
import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from orchestrator.schedules import GRACE, HORIZON, MOST_INSTANTS, input_of, instants, run_id_of, slots_of
from orchestrator.store.run_store import instant as instant_of
from orchestrator.store.upkeep import PAUSED

if TYPE_CHECKING:
    from orchestrator.definition.registry import Registered
    from orchestrator.definition.triggers import ScheduleTrigger
    from orchestrator.engine import Engine


@dataclass(frozen=True)
class ScheduleRow:
    """One schedule of a flow that is registered here.

    Attributes:
        id: Its name: flow and a hash of cron and zone.
        flow: The flow.
        cron: The cron.
        timezone: Its zone.
        overlap: "skip", "allow" or "queue".
        catch_up: As given.
        jitter: As given.
        priority: As given.
        is_paused: Whether it starts nothing until it is unpaused.
        note: Why it is paused.
        last: The instant of its last run, or of its registration; None before a worker had it.
        last_run: The id of its last run, or None.
        next: Its next instant; None while it is paused.
    """

    id: str
    flow: str
    cron: str
    timezone: str
    overlap: str
    catch_up: timedelta
    jitter: timedelta
    priority: int | None
    is_paused: bool
    note: str
    last: datetime | None
    last_run: str | None
    next: datetime | None

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; durations in seconds, instants as ISO 8601."""
        return {
            name: value.total_seconds()
            if isinstance(value, timedelta)
            else value.isoformat()
            if isinstance(value, datetime)
            else value
            for name, value in vars(self).items()
        }


@dataclass(frozen=True)
class Backfilled:
    """One instant of a backfill.

    Attributes:
        instant: The instant.
        run_id: Its run, the same that a tick would have started.
        is_new: Whether it was started now; else it was there.
    """

    instant: datetime
    run_id: str
    is_new: bool


def list_schedules(engine: Engine) -> tuple[ScheduleRow, ...]:
    """Return the schedules of every registered flow."""
    engine.discovery.catch_up()
    with engine.store.guarded():
        stored, now_s = engine.store.upkeep.slot_rows()
    now = datetime.fromtimestamp(now_s, UTC)
    return tuple(
        _row(entry, slot, trigger, stored, now)
        for _, entry in sorted(engine.registry.flows.items())
        for slot, trigger in slots_of(entry).items()
    )


def _row(entry: Registered, slot: str, trigger: ScheduleTrigger, stored: dict[str, str], now: datetime) -> ScheduleRow:
    paused = stored.get(slot + PAUSED)
    return ScheduleRow(
        id=slot,
        flow=entry.flow.name,
        cron=trigger.cron,
        timezone=trigger.timezone,
        overlap=trigger.overlap,
        catch_up=trigger.catch_up,
        jitter=trigger.jitter,
        priority=trigger.priority,
        is_paused=paused is not None,
        note=json.loads(paused)["note"] if paused else "",
        last=instant_of(stored.get(slot)),
        last_run=stored.get(f"{slot}|run"),
        next=None if paused else next(_following(trigger, now), None),
    )


def next_ticks(engine: Engine, name: str, count: int) -> list[datetime]:
    """Return the next instants of a schedule, whether or not it is paused."""
    entry, slot = find_schedule(engine, name)
    with engine.store.guarded():
        now = _now(engine)
    return list(islice(_following(slots_of(entry)[slot], now), count))


def _following(trigger: ScheduleTrigger, now: datetime) -> Any:
    return instants(trigger.cron, trigger.timezone, after=now, until=now + HORIZON)


def find_schedule(engine: Engine, name: str) -> tuple[Registered, str]:
    """Return the flow and the slot of a schedule, by its id, the beginning of it, or the name of a flow with only one.

    Raises:
        ValueError: There is none, or there are several; names them.
    """
    engine.discovery.catch_up()
    known = {slot: entry for entry in engine.registry.flows.values() for slot in slots_of(entry)}
    of_flow = [slot for slot, entry in known.items() if entry.flow.name == name]
    found = [name] if name in known else of_flow or [slot for slot in known if slot.startswith(name)]
    if len(found) == 1:
        return known[found[0]], found[0]
    if found:
        raise ValueError(f"{name!r} names {len(found)} schedules: {', '.join(found)}")
    near = difflib.get_close_matches(name, {*known, *(entry.flow.name for entry in known.values())}, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known) or 'none'}"
    raise ValueError(f"there is no schedule {name!r}; {hint}")


def pause(engine: Engine, name: str, note: str) -> None:
    """Let a schedule start nothing until it is unpaused; a second time replaces the note."""
    _, slot = find_schedule(engine, name)
    with engine.store.guarded():
        text = json.dumps({"note": note, "at": engine.store.now_ms()})
        engine.store.upkeep.pause_slot(slot, text)


def unpause(engine: Engine, name: str) -> None:
    """Let a schedule go on; what it has missed follows its `catch_up` at the next tick."""
    _, slot = find_schedule(engine, name)
    with engine.store.guarded():
        engine.store.upkeep.unpause_slot(slot)


def trigger_now(engine: Engine, name: str) -> str:
    """Start a run as the schedule would, for the present instant, whether or not it is paused; return its id."""
    entry, slot = find_schedule(engine, name)
    with engine.store.guarded():
        now = engine.store.now_ms()
    given, priority = input_of(entry, slot), slots_of(entry)[slot].priority
    run_id = str(uuid.uuid4())
    return engine.start(entry.plan, given, run_id=run_id, scheduled_ms=now, priority=priority).run_id


def ticks_between(engine: Engine, name: str, since: datetime, until: datetime) -> list[datetime]:
    """Return the instants of a schedule in [since, until), oldest first.

    Raises:
        ValueError: The range is empty, in the future, or has over 10,000 instants.
    """
    entry, slot = find_schedule(engine, name)
    trigger = slots_of(entry)[slot]
    with engine.store.guarded():
        now = _now(engine)
    if now < until < now + GRACE:
        until = now  # by a clock that is a moment ahead of Redis's
    if not since < until <= now:
        raise ValueError("a backfill is about the past: since must be before until, and until not in the future")
    before = timedelta(microseconds=1)
    found = instants(trigger.cron, trigger.timezone, after=since - before, until=until - before)
    within = list(islice(found, MOST_INSTANTS + 1))
    if len(within) > MOST_INSTANTS:
        raise ValueError(f"the range has over {MOST_INSTANTS:,} instants; take a smaller one")
    return within


def backfill(engine: Engine, name: str, since: datetime, until: datetime) -> list[Backfilled]:
    """Start the run of every instant in [since, until), oldest first, under the id that its tick gives it.

    What a tick has started, or an earlier backfill, is not started again as long as its record lives. The schedule's
    own last instant does not move.

    Raises:
        ValueError: As `ticks_between`; nothing was started.
    """
    entry, slot = find_schedule(engine, name)
    given = input_of(entry, slot)
    return [_fill(engine, entry, slot, given, instant) for instant in ticks_between(engine, name, since, until)]


def _fill(engine: Engine, entry: Registered, slot: str, given: bytes, instant: datetime) -> Backfilled:
    run_id = run_id_of(engine.settings.prefix, slot, instant)
    at_ms, priority = round(instant.timestamp() * 1000), slots_of(entry)[slot].priority
    started = engine.start(entry.plan, given, run_id=run_id, scheduled_ms=at_ms, priority=priority)
    return Backfilled(instant, run_id, started.outcome == "started")


def _now(engine: Engine) -> datetime:
    return datetime.fromtimestamp(engine.store.now_ms() / 1000, UTC)
