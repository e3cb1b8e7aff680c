"""The comparison of a value with what its JSON is read back as, part by part.

A loss is a part that comes back as another type or with another value, a number or a secret that JSON does not hold.
No `__eq__` of a user is called: objects of classes of their own are compared by type, fields and public attributes.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict, deque
from datetime import datetime, time
from decimal import Decimal
from enum import Enum
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from pydantic import BaseModel, Secret, SecretBytes, SecretStr
from pydantic_core import to_json

from orchestrator.errors import path_text, type_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Pairs: TypeAlias = Sequence[tuple[object, object, object]]
    """Name, part of the value, the same part of what came back."""
    Findings: TypeAlias = tuple[str, Pairs]
    Look: TypeAlias = Callable[[Any, Any], Findings]

UNREAD: Final[Any] = object()
"""Stands for what would have come back, where the JSON was refused."""
_ABSENT: Final[Any] = object()
_EXACT: Final = frozenset({str, int, bool, bytes, type(None)})
_SCALARS: Final = _EXACT | {float}
_CONTAINERS: Final = _SCALARS | {dict, list, tuple, set, frozenset}
_SECRETS: Final = (SecretStr, SecretBytes, Secret)
# The classes of these packages compare by value, and no user has written their `__eq__`.
_KNOWN: Final = {"builtins", "datetime", "decimal", "fractions", "ipaddress", "pathlib", "pydantic", "pydantic_core"}
_KNOWN.update({"re", "uuid", "zoneinfo"})
_NO_NUMBER: Final = "NaN and infinity are not JSON"
_OTHER_VALUE: Final = "comes back with another value"


class Loss(NamedTuple):
    """One part that does not come back as it was.

    Attributes:
        path: Where it is, as text.
        fault: What becomes of it, without its value, which may be secret.
        is_of_type: Whether an annotation that says its type would keep it.
    """

    path: str
    fault: str
    is_of_type: bool = False

    def __str__(self) -> str:
        """Return it as a clause."""
        return f"{self.path}: {self.fault}"


class _Part(NamedTuple):
    """A pair that is to be compared, and where it was found."""

    above: _Part | None
    owner: type
    name: object
    one: Any
    other: Any

    def path(self) -> str:
        """Where it is."""
        names: list[object] = []
        part: _Part | None = self
        while part is not None and part.above is not None:
            names.append(part.name)
            part = part.above
        return path_text(reversed(names))

    def reason(self) -> str:
        """Why a declaration lets it or a part above it change; empty if none is known."""
        part: _Part | None = self
        while part is not None:
            if why := _declared_reason(part.owner, part.name):
                return f" ({why})"
            part = part.above
        return ""


def find_losses(known: object, again: object, *, distinguishes_tuples: bool = True) -> Iterator[Loss]:
    """Yield the parts of a value that are others in what came back.

    Args:
        known: The value.
        again: What its JSON was read as; UNREAD if it could not be, then only what JSON never holds is found.
        distinguishes_tuples: Whether a tuple that comes back as a list is a loss.
    """
    seen: dict[tuple[int, int], _Part] = {}  # with the objects, whose ids others would get
    todo = [_Part(None, type(None), "", known, again)]
    while todo:
        part = todo.pop()
        _, _, _, one, other = part
        kind: Any = type(one)
        if (
            other is UNREAD
            or kind is type(other)
            or (kind is tuple and type(other) is list and not distinguishes_tuples)
        ):
            if kind not in _CONTAINERS:  # an object's attributes may lead back to it
                if (id(one), id(other)) in seen:
                    continue
                seen[id(one), id(other)] = part
            fault, pairs = _look_of(kind)(one, other)
            if fault:
                yield Loss(part.path(), fault + part.reason())
            if pairs:
                changed = [pair for pair in pairs if not _is_plainly_same(pair[1], pair[2])]
                todo += [_Part(part, kind, *pair) for pair in reversed(changed)]
        elif fault := _unstorable(kind, one):
            yield Loss(part.path(), fault)
        else:
            yield Loss(part.path(), _change_of_type(kind, other) + part.reason(), is_of_type=True)


def _is_plainly_same(one: object, other: object) -> bool:
    kind = type(one)
    return one is other or (kind is type(other) and kind in _EXACT and one == other)


def _change_of_type(kind: type, other: object) -> str:
    if other is _ABSENT:
        return "does not come back"
    return f"{type_name(kind)} comes back as {type_name(type(other))}"


def _declared_reason(owner: type, name: object) -> str:
    if issubclass(owner, BaseModel):
        field = owner.__pydantic_fields__.get(str(name))
        if field is None:
            return "private attributes are not stored" if str(name).startswith("_") else ""
        if field.exclude:
            return "the field is excluded from JSON"
        if field.validation_alias is not None and field.validation_alias != field.serialization_alias:
            return "the field is written and read under different aliases"
    elif dataclasses.is_dataclass(owner):
        declared = {field.name: field.init for field in dataclasses.fields(owner)}
        if not declared.get(str(name), True):
            return "the field has init=False and is not read"
    return ""


def _unstorable(kind: type, one: Any) -> str:
    """Why JSON never holds a part; empty if it is nothing of that kind."""
    if issubclass(kind, _SECRETS):
        return f"a {kind.__name__} would be stored masked; return what may be stored"
    return _NO_NUMBER if issubclass(kind, float | Decimal) and not math.isfinite(one) else ""


@lru_cache(maxsize=1024)
def _look_of(kind: Any) -> Look:
    """How two values of one class are compared: what is wrong at once, and the parts that are left to compare."""
    for base, look in _LOOKS:
        if issubclass(kind, base):
            return look
    if dataclasses.is_dataclass(kind):
        return _look_into_dataclass
    return _look_at_value if kind.__module__.partition(".")[0] in _KNOWN else _look_into_object


def _look_at_value(one: object, other: object) -> Findings:
    return "" if other is UNREAD or one == other else _OTHER_VALUE, ()


def _look_at_number(one: float | Decimal, other: object) -> Findings:
    return _look_at_value(one, other) if math.isfinite(one) else (_NO_NUMBER, ())


def _attribute(one: object, other: object, name: str) -> tuple[object, object]:
    return getattr(one, name, _ABSENT), UNREAD if other is UNREAD else getattr(other, name, _ABSENT)


def _look_at_secret(one: Any, other: Any) -> Findings:
    is_kept = other is not UNREAD and not any(find_losses(one.get_secret_value(), other.get_secret_value()))
    return "" if is_kept else _unstorable(type(one), one), ()


def _look_into_dataclass(one: Any, other: Any) -> Findings:
    return "", [(field.name, *_attribute(one, other, field.name)) for field in dataclasses.fields(one)]


def _look_at_enum(one: Enum, other: Any) -> Findings:
    return "", [("value", one._value_, UNREAD if other is UNREAD else other._value_)]


def _look_at_time(one: datetime | time, other: Any) -> Findings:
    if one.tzinfo is not None and one.tzinfo.utcoffset(None) is None:
        return f"the time zone {type_name(one.tzinfo)} comes back as its offset alone; return the time in UTC", ()
    if other is UNREAD:
        return "", ()
    walls = [(each.replace(tzinfo=None), each.fold, each.utcoffset()) for each in (one, other)]
    return "" if walls[0] == walls[1] else _OTHER_VALUE, ()


def _look_into_dict(one: dict[Any, Any], other: Any) -> Findings:
    if other is UNREAD:
        return "", [pair for key, part in one.items() for pair in ((_in_key(key), key, UNREAD), (key, part, UNREAD))]
    if isinstance(one, defaultdict) and one.default_factory is not other.default_factory:
        return "its default_factory does not come back", ()
    if len(one) != len(other):
        return "two of its keys are the same text in JSON" if len(one) > len(other) else _OTHER_VALUE, ()
    if all(type(key) is str for key in one):
        return "", [(key, part, other.get(key, _ABSENT)) for key, part in one.items()]
    pairs: list[tuple[object, object, object]] = []
    for (key, part), (name, text) in zip(one.items(), other.items(), strict=True):
        if not _is_plainly_same(key, name):
            pairs.append((_in_key(key), key, name))
        pairs.append((key, part, text))
    return "", pairs


def _in_key(key: object) -> str:
    return f"{path_text([key])}.[key]"


def _look_into_list(one: Any, other: Any) -> Findings:
    if other is UNREAD:
        return "", [(index, part, UNREAD) for index, part in enumerate(one)]
    if len(one) != len(other):
        return f"comes back with {len(other)} of {len(one)} parts", ()
    if isinstance(one, deque) and one.maxlen != other.maxlen:
        return "its maxlen does not come back", ()
    return "", [(index, part, again) for index, (part, again) in enumerate(zip(one, other, strict=True))]


def _look_into_set(one: set[Any], other: Any) -> Findings:
    if other is UNREAD:
        return _look_into_list(one, other)
    kinds = {type(part) for part in one}
    if kinds <= _SCALARS and kinds == {type(part) for part in other} and one == other:
        return "", ()
    return _look_into_list(sorted(one, key=to_json), sorted(other, key=to_json))


def _look_into_model(one: BaseModel, other: Any) -> Findings:
    absent = UNREAD if other is UNREAD else _ABSENT
    mine: dict[str, Any] = one.__dict__
    its: dict[str, Any] = {} if other is UNREAD else other.__dict__
    # By its fields: what a cached property holds is in __dict__ too, and is computed again.
    pairs = [(name, mine[name], its.get(name, absent)) for name in type(one).__pydantic_fields__ if name in mine]
    for slot in ("__pydantic_extra__", "__pydantic_private__"):
        its = {} if other is UNREAD else getattr(other, slot, None) or {}
        pairs += [(name, part, its.get(name, absent)) for name, part in (getattr(one, slot, None) or {}).items()]
    return "", pairs


def _look_into_object(one: Any, other: Any) -> Findings:
    kind = type(one)
    for base in (str, int, float, bytes):
        if issubclass(kind, base) and other is not UNREAD and not base.__eq__(one, other):
            return _OTHER_VALUE, ()
    names = [
        name for name in getattr(one, "__dict__", ()) if not isinstance(getattr(kind, name, None), cached_property)
    ]
    for each in kind.__mro__:
        slots = each.__dict__.get("__slots__", ())
        names += [slots] if isinstance(slots, str) else slots
    return "", [(name, *_attribute(one, other, name)) for name in names if not name.startswith("_")]


_LOOKS: Final[tuple[tuple[Any, Look], ...]] = (
    (Enum, _look_at_enum),
    ((float, Decimal), _look_at_number),
    (_SECRETS, _look_at_secret),
    ((datetime, time), _look_at_time),
    (dict, _look_into_dict),
    ((list, tuple, deque), _look_into_list),
    ((set, frozenset), _look_into_set),
    (BaseModel, _look_into_model),
)
