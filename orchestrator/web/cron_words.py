"""Crons in words: what the fields of a schedule mean, as a person says it; nothing for those that no sentence fits."""

from __future__ import annotations

import re
from functools import lru_cache

DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
ORDINALS = {"1": "first", "2": "second", "3": "third", "4": "fourth", "5": "fifth", "l": "last"}
NAMED = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
ANY = ("*", "?")
FIELDS, MINUTES, HOURS, WEEK = 5, 60, 24, 7
MOST_TIMES = 6
"""So many times of a day are named one by one."""
SHORTEST_RANGE = 3
RANGE = re.compile(r"(\w+)(?:-(\w+))?")
STEP = re.compile(r"\*/(\d+)")


class _WordlessError(ValueError):
    """A field for which there are no words here."""


@lru_cache(maxsize=1024)
def cron_words(cron: str) -> str:
    """Return a cron as a phrase, such as "at 02:30 on Monday to Friday"; empty if it is too special for one."""
    fields = NAMED.get(cron.strip().lower(), cron).lower().split()
    if len(fields) != FIELDS:
        return ""
    minute, hour, day, month, weekday = fields
    try:
        days = _days(day, weekday)
        months = "" if month in ANY else "in " + _listed([MONTHS[each - 1] for each in _numbers(month, 1, 12, MONTHS)])
        said = [_times(minute, hour, is_daily=not days), days, months]
    except _WordlessError:
        return ""
    return " ".join(filter(None, said))


def _times(minute: str, hour: str, *, is_daily: bool) -> str:
    every_minutes, every_hours = _step(minute, MINUTES), _step(hour, HOURS)
    if hour in ANY and every_minutes:
        return "every minute" if every_minutes == 1 else f"every {every_minutes} minutes"
    minutes = _numbers(minute, 0, 59) if not every_minutes else []
    if every_hours and minutes:
        rhythm = "every hour" if every_hours == 1 else f"every {every_hours} hours"
        return rhythm if minutes == [0] else f"{rhythm} at {_counted('minute', minutes)}"
    hours = _numbers(hour, 0, 23)
    if minutes and len(minutes) * len(hours) <= MOST_TIMES:
        at = _listed([f"{each:02}:{other:02}" for each in hours for other in minutes])
        return f"every day at {at}" if is_daily else f"at {at}"
    if hours != list(range(hours[0], hours[-1] + 1)):
        raise _WordlessError
    if minutes in ([], [0]):
        rhythm = f"every {every_minutes} minutes" if every_minutes > 1 else "every hour" if minutes else "every minute"
    else:
        rhythm = f"every hour at {_counted('minute', minutes)}"
    return f"{rhythm} from {hours[0]:02}:00 to {hours[-1]:02}:{max(minutes, default=MINUTES - every_minutes):02}"


def _days(day: str, weekday: str) -> str:
    said = []
    if day not in ANY:
        named = "the last day" if day == "l" else _counted("day", _numbers(day, 1, 31))
        said.append(f"on {named} of the month")
    if weekday not in ANY:
        said.append("on " + _weekdays(weekday))
    # Cron starts on a day that fits either field, not both.
    return " or ".join(said)


def _weekdays(weekday: str) -> str:
    if "#" in weekday or weekday.startswith("l"):
        name, _, which = weekday.partition("#") if "#" in weekday else (weekday[1:], "", "l")
        numbers = _numbers(name, 0, 7, DAYS)
        if len(numbers) != 1 or which not in ORDINALS:
            raise _WordlessError
        return f"the {ORDINALS[which]} {DAYS[numbers[0] % WEEK]} of the month"
    numbers = sorted({each % WEEK for each in _numbers(weekday, 0, 7, DAYS)}, key=lambda each: (each - 1) % WEEK)
    first, last = numbers[0], numbers[-1]
    if len(numbers) >= SHORTEST_RANGE and (last - first) % WEEK == len(numbers) - 1:
        return f"{DAYS[first]} to {DAYS[last]}"
    return _listed([DAYS[each] for each in numbers])


def _step(field: str, size: int) -> int:
    """Return the step of a field that divides its hour or day evenly; 0 for any other."""
    if field in ANY:
        return 1
    found = STEP.fullmatch(field)
    step = int(found[1]) if found else 0
    return step if step and size % step == 0 else 0


def _numbers(field: str, lowest: int, highest: int, names: tuple[str, ...] = ()) -> list[int]:
    """Return the numbers of a list of numbers, names and ranges, in order."""
    short = {name[:3].lower(): place + (names is MONTHS) for place, name in enumerate(names)}
    found: set[int] = set()
    for part in field.split(","):
        ends = RANGE.fullmatch(part)
        first, last = (short.get(end, end) for end in (ends[1], ends[2] or ends[1])) if ends else ("", "")
        if not (str(first).isdecimal() and str(last).isdecimal()):
            raise _WordlessError
        found.update(range(int(first), int(last) + 1))
    if not found or min(found) < lowest or max(found) > highest:
        raise _WordlessError
    return sorted(found)


def _counted(noun: str, numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"{noun} {numbers[0]}"
    if len(numbers) >= SHORTEST_RANGE and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{noun}s {numbers[0]} to {numbers[-1]}"
    return f"{noun}s {_listed(numbers)}"


def _listed(parts: list[str] | list[int]) -> str:
    names = [str(part) for part in parts]
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
