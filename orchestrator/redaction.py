"""Redaction: hides the values of fields that `Settings.redact` names, in whatever is shown of a run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

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
