"""Instants of a year in zones that change their clocks in different ways, against another implementation of cron."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim

from orchestrator.schedules import instants

ZONES = [
    "Europe/Vienna",
    "America/New_York",
    "Australia/Lord_Howe",  # by half an hour
    "America/Santiago",  # at midnight
    "Pacific/Chatham",  # a quarter of an hour beside the others
    "Africa/Cairo",
]
YEAR = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
# Where only the minute begins with `*`, the two have other rules.
FIXED = ["30 2 * * *", "15 1 * * *", "0 0 * * *", "0 23 * * 0", "45 3 1 * *"]
EVERY_HOUR = ["*/30 * * * *", "0 * * * *", "0 */2 * * *"]


def by_cronsim(cron: str, zone: str, first: datetime, last: datetime) -> list[datetime]:
    found: list[datetime] = []
    for local in CronSim(cron, first.astimezone(ZoneInfo(zone))):
        instant = local.astimezone(UTC)
        if instant > last:
            return found
        if instant > first:
            found.append(instant)
    return found


def weeks_of_changes(zone: str) -> list[tuple[datetime, datetime]]:
    weeks = [(YEAR[0] + timedelta(weeks=week), YEAR[0] + timedelta(weeks=week + 1)) for week in range(52)]
    return [week for week in weeks if len({end.astimezone(ZoneInfo(zone)).utcoffset() for end in week}) == 2]


def check_star(cron: str, zone: str, first: datetime, last: datetime) -> None:
    """At a change alone, a time that it leaves out fires at its moment, and cronsim passes over it."""
    ours = set(instants(cron, zone, after=first, until=last))
    theirs = set(by_cronsim(cron, zone, first, last))
    assert len(ours) >= (last - first) / timedelta(hours=2) - 2
    local = ZoneInfo(zone)
    for instant in ours ^ theirs:
        near = (instant + timedelta(hours=hours) for hours in (-3, 3))
        assert len({each.astimezone(local).utcoffset() for each in near}) == 2, instant
    if cron != "0 */2 * * *" and zone not in {"Australia/Lord_Howe", "Pacific/Chatham"}:
        assert ours == theirs


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("cron", FIXED)
def test_a_year_of_a_fixed_hour_is_that_of_cronsim(cron, zone):
    first, last = YEAR
    ours = list(instants(cron, zone, after=first, until=last))
    assert ours == by_cronsim(cron, zone, first, last)
    assert len(ours) >= 12


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("cron", EVERY_HOUR)
def test_the_weeks_of_changes_with_an_hour_with_a_star_differ_from_cronsim_at_changes_alone(cron, zone):
    weeks = weeks_of_changes(zone)
    assert len(weeks) == 2
    for first, last in weeks:
        check_star(cron, zone, first, last)


@pytest.mark.chaos_long
@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("cron", EVERY_HOUR)
def test_a_year_of_an_hour_with_a_star_differs_from_cronsim_at_changes_alone(cron, zone):
    check_star(cron, zone, *YEAR)


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25)])
def test_a_fixed_hour_fires_once_on_a_day_of_a_change_and_half_hours_in_both_halves(day, hours):
    zone = ZoneInfo("Europe/Vienna")
    begin = datetime.fromisoformat(day).replace(tzinfo=zone).astimezone(UTC) - timedelta(seconds=1)
    end = begin + timedelta(hours=hours)
    assert len(list(instants("30 2 * * *", "Europe/Vienna", after=begin, until=end))) == 1
    assert len(list(instants("*/30 * * * *", "Europe/Vienna", after=begin, until=end))) == 2 * hours
