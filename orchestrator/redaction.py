"""Redaction: hides the values of fields that `Settings.redact` names, in whatever is shown of a run.

In JSON a field is found by its name. In a text, such as that of an error, it is found by its name in front of a value,
`card='4711'`, and by the values that the attempt has read under that name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from orchestrator.errors import NodeFailure, RunError, text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Raised = TypeVar("Raised", bound=BaseException)
HIDDEN = "[redacted]"
"""What stands in place of a hidden value."""
SHORTEST = 3
"""Characters of a value that is found without its name; a shorter one could be a part of anything."""
VALUE = r"""(?:\\?"(?:\\.|[^"\\])*\\?"|'(?:\\.|[^'\\])*'|\[[^\]]*\]|\{[^}]*\}|[\w.]+\([^()]*\)|[^\s,;&)\]}]+)"""
"""A value as JSON, as Python's `repr`, or as a bare word."""


class Redaction:
    """Hides fields by their names, at any depth; small and capital letters are the same.

    Args:
        names: Names of fields, keys of mappings, and output keys.
        values: Texts that are hidden wherever they stand alone in a text.
    """

    def __init__(self, names: Iterable[str], values: Iterable[str] = ()) -> None:
        self._names = frozenset(name.casefold() for name in names if name)
        named = "|".join(map(re.escape, sorted(self._names)))
        behind = rf"""\\?["']?\s*[:=]\s*(?!['"]?{re.escape(HIDDEN)})"""
        self._named = re.compile(rf"(?<!\w)((?:{named}){behind}){VALUE}", re.IGNORECASE)
        # The longest first: it may begin with another one.
        alone = "|".join(map(re.escape, sorted(values, key=len, reverse=True)))
        self._alone = re.compile(rf"(?<!\w)(?:{alone})(?!\w)") if alone else None

    def __bool__(self) -> bool:
        """Whether anything is hidden."""
        return bool(self._names)

    def hides(self, name: str) -> bool:
        """Return whether the value of a field of this name is hidden."""
        return name.casefold() in self._names

    def knowing(self, *given: Any) -> Redaction:
        """Return one that also finds, in texts, what the hidden fields of these JSON values hold."""
        return Redaction(self._names, {text for text in self._hidden_in(given) if len(text) >= SHORTEST})

    def value(self, value: Any) -> Any:
        """Return a JSON value with hidden fields; the value itself is not changed."""
        if not self._names:
            return value
        if isinstance(value, dict):
            return {str(name): self.output(str(name), each) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(each) for each in value]
        return self.prose(value) if isinstance(value, str) else value

    def output(self, key: str, value: Any) -> Any:
        """Return the JSON value that is stored under a key, without what is hidden."""
        return HIDDEN if self.hides(key) else self.value(value)

    def text(self, text: str | bytes) -> str:
        """Return JSON with hidden fields; of what is no JSON, the text without hidden values."""
        shown = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        if not self._names:
            return shown
        try:
            return json.dumps(self.value(json.loads(shown)), ensure_ascii=False)
        except ValueError:
            return self.prose(shown)

    def prose(self, text: str) -> str:
        """Return a text without hidden values, as far as they can be told from the rest of it."""
        if not self._names:
            return text
        return self._named.sub(rf"\1{HIDDEN}", self._alone.sub(HIDDEN, text) if self._alone else text)

    def failure(self, failure: NodeFailure) -> NodeFailure:
        """Return a failure without hidden values in its message and traceback."""
        shown = {"message": self.prose(failure.message), "traceback": self.prose(failure.traceback)}
        return failure.model_copy(update=shown) if self._names else failure

    def failure_of(self, stored: str | bytes) -> NodeFailure:
        """Return a failure from its stored JSON, without hidden values."""
        return self.failure(NodeFailure.model_validate_json(stored))

    def error(self, error: Raised) -> Raised | RunError:
        """Return an error as it is, or one with the same text in place of one whose text has hidden values."""
        text = text_of(error) if self._names else ""
        if (shown := self.prose(text)) == text:
            return error
        return RunError(f"{type(error).__name__}: {shown}").with_traceback(error.__traceback__)

    def _hidden_in(self, value: Any, *, is_hidden: bool = False) -> Iterator[str]:
        if isinstance(value, dict):
            for name, each in value.items():
                yield from self._hidden_in(each, is_hidden=is_hidden or self.hides(str(name)))
        elif isinstance(value, list | tuple):
            for each in value:
                yield from self._hidden_in(each, is_hidden=is_hidden)
        elif is_hidden and isinstance(value, str | int | float) and not isinstance(value, bool):
            yield str(value)

    def argument(self, value: Any) -> Any:
        """Return what a log line shows of an argument: a mapping, list, dataclass, model or JSON with hidden fields.

        Everything else, and what has no such field, comes back as it is.
        """
        if not self._names:
            return value
        if isinstance(value, str):
            return self._json_argument(value) if value[:1] in {"{", "["} else value
        # These two alone: a named tuple, which is one too, cannot be made of one list.
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
