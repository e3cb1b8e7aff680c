"""Triggers of a flow, and the check whether a schedule can fire at all.

A constructor takes whatever it is given; `build()` calls `cron_problem`. `orchestrator.schedules` computes the
instants.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeAlias, get_args
from zoneinfo import ZoneInfo

from croniter import CroniterError, croniter

from orchestrator.definition.priority import priority_fault

Overlap: TypeAlias = Literal["skip", "allow", "queue"]
CRON_FIELDS = 5
RANDOM_PATTERN = re.compile(r"(?i)(^|[\s,])r($|[\s,(/])")


@dataclass(frozen=True, slots=True)
class ManualTrigger:
    """A label that says what starts the flow from outside."""

    label: str


@dataclass(frozen=True, slots=True)
class ScheduleTrigger:
    """A flow started by the clock.

    Attributes:
        cron: Five fields, or a name such as `@daily`.
        timezone: IANA name of the zone that the fields are read in.
        overlap: `skip` starts nothing while a run of this schedule is alive; `allow` starts one nevertheless; `queue`
            starts one that is `pending` until those before it have ended. At most 100 wait so; further ticks start
            nothing.
        catch_up: Instants missed while no worker ran are started if they are younger than this.
        input: The run's input, for a flow that takes one.
        jitter: Each run starts up to so much after its instant, the same for an instant in every process, so that
            schedules of one instant do not all start in one second.
        priority: That of its runs, as `Orchestrator.start` takes it.
    """

    cron: str
    timezone: str = "UTC"
    overlap: Overlap = "skip"
    catch_up: timedelta = timedelta(0)
    input: object = None
    jitter: timedelta = timedelta(0)
    priority: int | None = None


def manual(label: str) -> ManualTrigger:
    """Return a trigger that only documents who starts the flow."""
    return ManualTrigger(label)


def schedule(  # noqa: PLR0917 - all but the first two are given by name
    cron: str,
    timezone: str = "UTC",
    overlap: Overlap = "skip",
    catch_up: timedelta = timedelta(0),
    input: object = None,
    jitter: timedelta = timedelta(0),
    priority: int | None = None,
) -> ScheduleTrigger:
    """Return a trigger that starts the flow by the clock; see `ScheduleTrigger` for the arguments."""
    return ScheduleTrigger(cron, timezone, overlap, catch_up, input, jitter, priority)


def cron_problem(trigger: ScheduleTrigger) -> str | None:
    """Return why the schedule can never fire as written, as a sentence, or None when it can."""
    return (
        _cron_problem(trigger.cron)
        or _zone_problem(trigger.timezone)
        or _option_problem(trigger.overlap, trigger.catch_up, trigger.jitter)
        or (None if trigger.priority is None else priority_fault(trigger.priority))
    )


def _cron_problem(cron: object) -> str | None:
    if not isinstance(cron, str):
        return f"the cron expression is a {type(cron).__name__}, not a str; write five fields, such as '0 */4 * * *'"
    fields = cron.split()
    if not cron.startswith("@") and len(fields) != CRON_FIELDS:
        return f"the cron expression {cron[:100]!r} has {len(fields)} fields; write minute, hour, day, month, weekday"
    # croniter's R is another instant at every reading, and no two processes would agree on it.
    if not cron.startswith("@") and RANDOM_PATTERN.search(cron):
        return f"the cron expression {cron[:100]!r} is random; write fixed fields"
    try:
        croniter(cron, datetime.now(UTC)).get_next(datetime)
    except CroniterError as error:
        return f"the cron expression {cron[:100]!r} never fires: {error}"
    return None


def _zone_problem(zone: object) -> str | None:
    try:
        ZoneInfo(zone)  # type: ignore[arg-type]
    except (ValueError, TypeError, KeyError, OSError):
        shown = repr(zone[:100]) if isinstance(zone, str) else f"a {type(zone).__name__}"
        return f"the time zone {shown} is unknown; write an IANA name, such as 'Europe/Vienna'"
    return None


def _option_problem(overlap: object, catch_up: object, jitter: object) -> str | None:
    if overlap not in get_args(Overlap):
        return "overlap is neither 'skip' nor 'allow' nor 'queue'"
    for name, given in (("catch_up", catch_up), ("jitter", jitter)):
        if not isinstance(given, timedelta) or given < timedelta(0):
            return f"{name} is not a timedelta of at least 0"
    return None
