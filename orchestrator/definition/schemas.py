"""The facts about a type that are decided once, from the schema that pydantic has made of it."""

from __future__ import annotations

import hashlib
import json
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import TypeAdapter

_NOTES: Final = {"title", "description", "examples", "deprecated", "$comment"}
_NAMED: Final = {"properties", "patternProperties", "dependentSchemas"}
_TIMES: Final = {"datetime", "time"}
_VALIDATORS: Final = {"function-before", "function-plain", "function-wrap"}
_UNIONS: Final = {"union", "tagged-union"}


class Care(IntEnum):
    """How closely a validated value is compared with what its JSON is read as."""

    NONE = 0
    """Not at all: text, true, false and null in lists, tuples and dicts are what they were."""
    BUILT_IN = 1
    """At once: numbers, and parts of no declared type, which may be anything."""
    EVERY_PART = 2
    """Part by part: classes, and whatever has a form of its own in JSON."""


_CARES: Final = {
    "str": Care.NONE,
    "bool": Care.NONE,
    "none": Care.NONE,
    "int": Care.BUILT_IN,
    "float": Care.BUILT_IN,
    "any": Care.BUILT_IN,
}


def care_of(adapter: TypeAdapter[Any]) -> Care:
    """Return how closely values of a type are to be compared."""
    return _care_of(adapter.core_schema)


def has_times(adapter: TypeAdapter[Any]) -> bool:
    """Return whether values of a type may hold times, with their zones."""
    return any(node["type"] in _TIMES for node in _nodes(adapter.core_schema))


def has_validators(adapter: TypeAdapter[Any]) -> bool:
    """Return whether functions decide what a type takes, of which its schema knows nothing."""
    return any(node["type"] in _VALIDATORS for node in _nodes(adapter.core_schema))


def distinguishes_tuples(adapter: TypeAdapter[Any]) -> bool:
    """Return whether a type says tuple as one choice among others, which JSON does not tell from a list."""
    unions = (node for node in _nodes(adapter.core_schema) if node["type"] in _UNIONS)
    return any(node["type"] == "tuple" for union in unions for node in _nodes(union["choices"]))


def digest_of(schema: dict[str, Any]) -> str:
    """Return a name for a JSON schema: the same for schemas that differ in titles, texts, or names of classes alone."""
    said = json.dumps(_meaning(schema, schema.get("$defs", {}), {}), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(said.encode()).hexdigest()[:12]


def _meaning(schema: Any, classes: dict[str, Any], met: dict[str, int]) -> Any:
    """The schema with each class in the place where it is first met, and a number where it is met again."""
    if isinstance(schema, list):
        return [_meaning(part, classes, met) for part in schema]
    if not isinstance(schema, dict):
        return schema
    said: dict[str, Any] = {}
    for word, about in sorted(schema.items()):
        if word == "$ref":
            name = str(about).rpartition("/")[2]
            is_new = name not in met
            said[word] = met.setdefault(name, len(met))
            if is_new:
                said["$class"] = _meaning(classes.get(name, name), classes, met)
        elif word in _NAMED:
            said[word] = {name: _meaning(part, classes, met) for name, part in sorted(about.items())}
        elif word == "required":
            said[word] = sorted(about)
        elif word not in _NOTES and word != "$defs":
            said[word] = _meaning(about, classes, met)
    return said


def _care_of(schema: Any) -> Care:
    kind = "" if "serialization" in schema else schema["type"]
    if kind == "nullable":
        return _care_of(schema["schema"])
    if kind == "list":
        return _most(schema.get("items_schema"))
    if kind == "tuple":
        return _most(*schema["items_schema"])
    if kind == "dict":
        keys = schema.get("keys_schema") or {"type": "any"}
        cares = _most(keys, schema.get("values_schema"))
        return (
            cares
            if keys["type"] == "str"
            else max(cares, Care.BUILT_IN if keys["type"] in {"int", "any"} else Care.EVERY_PART)
        )
    if kind == "union":
        choices = (each[0] if isinstance(each, tuple) else each for each in schema["choices"])
        return max(_most(*choices), Care.BUILT_IN)
    return _CARES.get(kind, Care.EVERY_PART)


def _most(*schemas: Any) -> Care:
    return max((Care.BUILT_IN if schema is None else _care_of(schema) for schema in schemas), default=Care.NONE)


def _nodes(schema: Any) -> Iterator[Any]:
    """Every schema within a schema, itself included."""
    todo, seen = [schema], {}
    while todo:
        part = todo.pop()
        if id(part) in seen:  # a default may be a value that contains itself
            continue
        seen[id(part)] = part
        if isinstance(part, dict):
            if isinstance(part.get("type"), str):
                yield part
            todo += part.values()
        elif type(part) in {list, tuple}:
            todo += part
