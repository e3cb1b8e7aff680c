"""Give times that pydantic has read the time zone class of the standard library.

pydantic reads an offset as a class of its own, which is equal to `datetime.timezone` but is not it: its text and its
hash are others.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, defaultdict, deque
from datetime import datetime, time, timezone
from typing import Any

from pydantic import BaseModel
from pydantic_core import TzInfo

_SCALARS = {str, int, float, bool, type(None)}
_DICTS = (dict, OrderedDict, defaultdict)


def with_standard_zones(value: Any, above: tuple[Any, ...] = ()) -> Any:
    """Return a value that was read, with `datetime.timezone` in each of its times; it is changed in place if it can be.

    Args:
        value: What pydantic has read. Objects of other classes than pydantic's and dataclasses are left as they are.
        above: The objects that it is in; validators may have made one that contains itself.
    """
    kind = type(value)
    if kind in {datetime, time}:
        return value.replace(tzinfo=timezone(value.utcoffset())) if type(value.tzinfo) is TzInfo else value
    if kind in _SCALARS or any(value is each for each in above):
        return value
    above = (*above, value)
    if issubclass(kind, BaseModel):
        _change_entries(value.__dict__, above)
        _change_entries(value.__pydantic_extra__ or {}, above)
    elif dataclasses.is_dataclass(kind):
        _change_fields(value, above)
    elif kind in _DICTS:
        _change_keys(value, above)
        _change_entries(value, above)
    elif kind in {list, deque}:
        for index, part in enumerate(value):
            value[index] = with_standard_zones(part, above)
    elif kind in {tuple, set, frozenset} or (issubclass(kind, tuple) and hasattr(kind, "_make")):
        return _made_anew(kind, value, above)
    return value


def _change_entries(entries: dict[Any, Any], above: tuple[Any, ...]) -> None:
    for name, old in entries.items():
        if type(old) not in _SCALARS and (new := with_standard_zones(old, above)) is not old:
            entries[name] = new


def _change_fields(value: Any, above: tuple[Any, ...]) -> None:
    for field in dataclasses.fields(value):
        old = getattr(value, field.name, None)
        if (new := with_standard_zones(old, above)) is not old:
            object.__setattr__(value, field.name, new)  # of a frozen one too


def _change_keys(value: dict[Any, Any], above: tuple[Any, ...]) -> None:
    keys = [with_standard_zones(key, above) for key in value]
    if any(new is not old for new, old in zip(keys, value, strict=True)):
        parts = list(value.values())
        value.clear()
        value.update(zip(keys, parts, strict=True))


def _made_anew(kind: Any, value: Any, above: tuple[Any, ...]) -> Any:
    parts = [with_standard_zones(part, above) for part in value]
    if all(new is old for new, old in zip(parts, value, strict=True)):
        return value
    return kind._make(parts) if hasattr(kind, "_make") else kind(parts)
