"""Redaction: hides the values of fields that `Settings.redact` names, in whatever is shown of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Iterable

HIDDEN = "[redacted]"
"""What stands in place of a hidden value."""


class Redaction:
    """Hides fields by their names, at any depth; small and capital letters are the same.

    Args:
        names: Names of fields, keys of mappings, and output keys.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(name.casefold() for name in names)

    def hides(self, name: str) -> bool:
        """Return whether the value of a field of this name is hidden."""
        return name.casefold() in self._names

    def value(self, value: Any) -> Any:
        """Return a JSON value with hidden fields; the value itself is not changed."""
        if not self._names:
            return value
        if isinstance(value, dict):
            return {name: HIDDEN if self.hides(str(name)) else self.value(each) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(each) for each in value]
        return value

    def text(self, text: str | bytes) -> str:
        """Return JSON with hidden fields; what is no JSON comes back as it is."""
        shown = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        if not self._names:
            return shown
        try:
            return json.dumps(self.value(json.loads(shown)), ensure_ascii=False)
        except ValueError:
            return shown

    def argument(self, value: Any) -> Any:
        """Return what a log line shows of an argument: a mapping, list, dataclass, model or JSON with hidden fields.

        Everything else, and what has no such field, comes back as it is.
        """
        if not self._names:
            return value
        if isinstance(value, str):
            return self._json_argument(value) if value[:1] in {"{", "["} else value
        if type(value) in {list, tuple}:
            items = [self.argument(each) for each in value]
            return type(value)(items) if any(map(_differ, items, value)) else value
        named = _fields_of(value)
        shown = {name: HIDDEN if self.hides(str(name)) else self.argument(each) for name, each in named.items()}
        return shown if any(map(_differ, shown.values(), named.values())) else value

    def _json_argument(self, text: str) -> str:
        try:
            given = json.loads(text)
        except ValueError:
            return text
        shown = self.value(given)
        return text if shown == given else json.dumps(shown, ensure_ascii=False)


def _fields_of(value: Any) -> Mapping[Any, Any]:
    if isinstance(value, Mapping):
        return value
    if isinstance(value, BaseModel):
        return dict(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return {}


def _differ(one: Any, other: Any) -> bool:
    return one is not other
