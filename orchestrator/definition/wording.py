"""Judgement and wording of what a user gave: by its real type, and never raising, whatever stands there.

Definitions ask these functions what is wrong with a name, a number or a duration; `build()` puts the answers together.
"""

from __future__ import annotations

import re
from datetime import timedelta
from types import FunctionType
from typing import Final, TypeGuard, TypeVar

T = TypeVar("T")

NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")
NAME_RULE: Final = "at most 100 characters of a-z, 0-9, _ and -, beginning with a letter or a digit"
SHOWN: Final = 60
"""Characters of a user's value that a message repeats."""
SHORTEST: Final = timedelta(milliseconds=1)
LONGEST: Final = timedelta(days=36_500)
MOST: Final = 2**53 - 1
"""Larger whole numbers are not exact in Lua and in JSON."""
FASTEST: Final = timedelta(microseconds=1)
"""Shortest time between two starts of a rate limit; Redis's clock has no finer unit."""


def is_a(value: object, *kinds: type[T]) -> TypeGuard[T]:
    """Return whether a value is of a class, by its real type: a mock or a proxy can lie about `__class__`."""
    return issubclass(type(value), kinds)


def is_whole(value: object) -> TypeGuard[int]:
    """Return whether a value is a whole number; True and False are none."""
    return is_a(value, int) and not is_a(value, bool)


def is_text(value: object, text: str) -> bool:
    """Whether a value is this text; what stands where a name should may refuse to be compared."""
    return is_a(value, str) and value == text


def is_name(value: object) -> TypeGuard[str]:
    """Return whether a value may be the name of a flow, node, step or limiter, or an output key."""
    return is_a(value, str) and NAME.fullmatch(value) is not None


def show(value: object) -> str:
    """Return a value for a message: a function by its name, anything else as its repr, shortened; never raises."""
    try:
        if isinstance(value, FunctionType | type):
            text = value.__qualname__
        else:
            text = repr(value[: SHOWN + 1] if is_a(value, str, bytes) else value)
    except Exception:  # noqa: BLE001 - the value is a user's: its repr may raise anything
        text = f"<{type(value).__name__}>"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def call(name: object) -> str:
    """Return a name for a message: as it is if it is valid, else like any other value."""
    return str.__str__(name) if is_name(name) else show(name)


def duration_fault(value: object, what: str, *, is_zero_fine: bool = False) -> str | None:
    """What is wrong with a duration from a millisecond to a hundred years, if anything."""
    if not is_a(value, timedelta):
        return f"{what} is {show(value)}; use a timedelta, such as timedelta(seconds=30)"
    if value < SHORTEST and not (is_zero_fine and not value):
        return f"{what} is {value.total_seconds():g} s; use at least a millisecond{', or 0' if is_zero_fine else ''}"
    return f"{what} is {value.days} days; use at most {LONGEST.days}" if value > LONGEST else None


def count_fault(value: object, what: str) -> str | None:
    """What is wrong with a whole number of at least 1, if anything."""
    if not is_whole(value) or value < 1:
        return f"{what} is {show(value)}; use a whole number of at least 1"
    return f"{what} is {show(value)}; use at most {MOST}" if value > MOST else None
