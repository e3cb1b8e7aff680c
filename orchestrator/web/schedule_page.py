"""Page of schedules: each with its cron in words, its next instants and what became of the last ones; and backfills."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

from orchestrator.schedule_control import find_schedule
from orchestrator.schedules import GRACE, HORIZON, instants, instants_before, run_id_of, slots_of
from orchestrator.store.queries import json_value
from orchestrator.store.run_store import instant as instant_of
from orchestrator.web.cron_words import cron_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator import Orchestrator, RunView
    from orchestrator.schedule_control import ScheduleRow

NEXT = 4
LAST = 30


@dataclass(frozen=True)
class Ticked:
    """One past instant of a schedule.

    Attributes:
        instant: When it was.
        run_id: The id that its run has.
        status: That of its run; None if there is none: it was left out, missed, or its retention is over.
        took: How long the run took, if it has ended.
    """

    instant: datetime
    run_id: str
    status: str | None
    took: timedelta | None


@dataclass(frozen=True)
class ScheduleShown:
    """One schedule as its page shows it.

    Attributes:
        row: What is known of it.
        words: Its cron as a phrase; empty if none fits.
        next: Its next instants, also while it is paused.
        last: Its last instants, oldest first, from the first one that had a run.
    """

    row: ScheduleRow
    words: str
    next: tuple[datetime, ...]
    last: tuple[Ticked, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the schedule as JSON values: the row, and the rest beside it."""
        rest = {"words": self.words, "next_ticks": self.next, "last_ticks": self.last}
        return self.row.to_json() | {name: json_value(value) for name, value in rest.items()}


def read_schedules(orchestrator: Orchestrator) -> list[ScheduleShown]:
    """Return the schedules of the flows that are registered here; their runs are read in one round trip."""
    store = orchestrator._engine.store  # noqa: SLF001 - a door reads the store directly
    rows = orchestrator.schedules()
    with store.guarded():
        now = datetime.fromtimestamp(store.now_ms() / 1000, UTC)
    around = [_ticks_around(row.cron, row.timezone, now.replace(second=0, microsecond=0)) for row in rows]
    prefix = store.settings.prefix
    ids = [[run_id_of(prefix, row.id, at) for at in last] for row, (last, _) in zip(rows, around, strict=True)]
    with store.guarded():
        pipe = store.client.pipeline(transaction=False)
        for run_id in (each for of_row in ids for each in of_row):
            pipe.hmget(store.keys.run(run_id), "status", "created", "finished")
        answers = iter(pipe.execute())
    shown = []
    for row, (last, following), of_row in zip(rows, around, ids, strict=True):
        ticked = [_ticked(at, run_id, next(answers)) for at, run_id in zip(last, of_row, strict=True)]
        late = now - row.jitter - GRACE  # a younger one may have its run in a moment
        while ticked and not ticked[-1].status and ticked[-1].instant > late:
            ticked.pop()
        first = next((place for place, each in enumerate(ticked) if each.status), len(ticked))
        shown.append(ScheduleShown(row, cron_words(row.cron), following, tuple(ticked[first:])))
    return shown


def schedule_of(orchestrator: Orchestrator, view: RunView) -> tuple[str, str] | None:
    """Return the id and the words of the schedule that started a run; None where that is not known here."""
    engine = orchestrator._engine  # noqa: SLF001 - as above
    entry = engine.registry.flows.get(view.run.flow)
    slots = slots_of(entry) if entry is not None and view.scheduled is not None else {}
    prefix = engine.settings.prefix
    # The id of a run is made of its schedule and instant; that of one that somebody started now is not.
    made = [slot for slot in slots if view.scheduled and run_id_of(prefix, slot, view.scheduled) == view.run.id]
    found = made or (list(slots) if len(slots) == 1 else [])
    return (found[0], cron_words(slots[found[0]].cron) or slots[found[0]].cron) if found else None


@lru_cache(maxsize=1024)
def _ticks_around(cron: str, timezone: str, minute: datetime) -> tuple[tuple[datetime, ...], tuple[datetime, ...]]:
    """Return the last and the next instants; kept for their minute, for an open page asks every two seconds."""
    following = instants(cron, timezone, after=minute, until=minute + HORIZON)
    return tuple(instants_before(cron, timezone, until=minute, count=LAST)), tuple(islice(following, NEXT))


def _ticked(at: datetime, run_id: str, answer: Sequence[bytes | None]) -> Ticked:
    status, created, finished = (value.decode() if value else None for value in answer)
    begun, ended = instant_of(created), instant_of(finished)
    return Ticked(at, run_id, status, ended - begun if begun and ended else None)


@dataclass(frozen=True)
class Planned:
    """What a backfill would start.

    Attributes:
        flow: The flow.
        schedule: Id of the schedule.
        ticks: The instants of the range.
        missing: How many of them have no run.
    """

    flow: str
    schedule: str
    ticks: Sequence[datetime]
    missing: int


def plan_backfill(orchestrator: Orchestrator, name: str, since: datetime, until: datetime) -> Planned:
    """Return what a backfill of a range would start.

    Raises:
        ValueError: As `Orchestrator.ticks`.
    """
    engine = orchestrator._engine  # noqa: SLF001 - as above
    entry, slot = find_schedule(engine, name)
    ticks = orchestrator.ticks(slot, since, until)
    with engine.store.guarded():
        pipe = engine.store.client.pipeline(transaction=False)
        for at in ticks:
            pipe.exists(engine.store.keys.run(run_id_of(engine.settings.prefix, slot, at)))
        there = sum(pipe.execute())
    return Planned(entry.flow.name, slot, ticks, len(ticks) - there)
