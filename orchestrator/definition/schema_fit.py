"""Fit of two JSON schemas: whether values that one describes may be values that another one accepts.

The first describes what is written, the second what is read. What a schema leaves open fits, and so does what only the
value can tell, such as a date in a text. A text is no number, even if a lenient validator would convert some.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = "(root)"
"""Path of a whole value."""
_UNION: Final = ("anyOf", "oneOf", "allOf")
# A whole number is a number, and `true` is read as 1: bool is a subclass of int in Python.
_READ_AS: Final = {"integer": {"integer", "number"}, "boolean": {"boolean", "integer", "number"}}
_TYPES: Final = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


class Schema:
    """A schema, or a part of one, with the definitions that its references name."""

    def __init__(self, said: Any, definitions: dict[str, Any] | None = None) -> None:
        """Take a schema of pydantic's, or a part of one with the definitions of the whole."""
        self.definitions = said.get("$defs", {}) if definitions is None else definitions
        while isinstance(said, dict) and "$ref" in said:
            said = self.definitions.get(str(said["$ref"]).rpartition("/")[2], {})
        self.said: dict[str, Any] = said if isinstance(said, dict) else {}

    def at(self, part: Any) -> Schema:
        """A part of it."""
        return Schema(part, self.definitions)

    def choices(self) -> list[Schema]:
        """The schemas of which one holds; itself alone if it is no union."""
        found = next((self.said[word] for word in _UNION if word in self.said), None)
        return [self] if found is None else [inner for each in found for inner in self.at(each).choices()]

    def values(self) -> list[Any] | None:
        """The only values that it allows; None if there are others."""
        said: list[Any] | None = self.said.get("enum", [self.said["const"]] if "const" in self.said else None)
        return said

    def types(self) -> set[str]:
        """The JSON types that it allows; empty for any."""
        if (values := self.values()) is not None:
            return {_TYPES.get(type(value), "object") for value in values}
        named = self.said.get("type", [])
        return {named} if isinstance(named, str) else {*named}

    def parts(self, name: str | int) -> Iterator[Schema | None]:
        """For each choice what stands at a name or index; None where there is certainly nothing."""
        for choice in self.choices():
            said, types = choice.said, choice.types()
            if not types:
                yield Schema({})
            elif isinstance(name, int):
                first = said.get("prefixItems", [])
                others = said.get("items", len(first) == 0)
                part = first[name] if 0 <= name < len(first) else others
                yield choice.at(part) if types == {"array"} and part is not False else None
            elif name in said.get("properties", {}):
                yield choice.at(said["properties"][name])
            else:  # the fields of a model are all that it writes
                others = said.get("additionalProperties", "properties" not in said)
                yield choice.at(others) if types == {"object"} and others is not False else None

    def names(self) -> list[str]:
        """The names that may stand in it, as far as they are known."""
        return [name for choice in self.choices() for name in choice.said.get("properties", {})]


def misfit(written: Schema, read: Schema) -> str:
    """Return the path at which what is written is not what is read, `ROOT` for the whole; "" if it may fit."""
    return _misfit(written, read, "", frozenset())


def _misfit(written: Schema, read: Schema, path: str, above: frozenset[tuple[int, int]]) -> str:
    pair = (id(written.said), id(read.said))
    if pair in above:  # a class that contains itself
        return ""
    above |= {pair}
    for one in written.choices():
        # Where none of several fits, the whole is named: the parts differ from choice to choice.
        faults = [_misfit_of_one(one, other, path, above) for other in read.choices()]
        if all(faults):
            return faults[0] if len(faults) == 1 else path or ROOT
    return ""


def _misfit_of_one(written: Schema, read: Schema, path: str, above: frozenset[tuple[int, int]]) -> str:
    ours, theirs = written.types(), read.types()
    if not ours or not theirs:
        return ""
    if not all(_READ_AS.get(each, {each}) & theirs for each in ours):
        return path or ROOT
    if ours == {"array"}:
        known = "items" in written.said and "items" in read.said
        inner = f"{path}[]"
        return _misfit(written.at(written.said["items"]), read.at(read.said["items"]), inner, above) if known else ""
    if ours != {"object"}:
        values, allowed = written.values(), read.values()
        is_known = values is not None and allowed is not None
        return path or ROOT if is_known and not {*map(repr, values or ())} <= {*map(repr, allowed or ())} else ""
    return _misfit_of_fields(written, read, path, above)


def _misfit_of_fields(written: Schema, read: Schema, path: str, above: frozenset[tuple[int, int]]) -> str:
    ours, theirs = written.said.get("properties", {}), read.said.get("properties", {})
    others = written.said.get("additionalProperties", "properties" not in written.said)
    for name in read.said.get("required", ()):
        if name not in ours and others is False:
            return f"{path}.{name}".lstrip(".")
    if read.said.get("additionalProperties") is False and (unknown := ours.keys() - theirs.keys()):
        return f"{path}.{min(unknown)}".lstrip(".")
    for name in ours.keys() & theirs.keys():
        if fault := _misfit(written.at(ours[name]), read.at(theirs[name]), f"{path}.{name}".lstrip("."), above):
            return fault
    if isinstance(others, dict) and isinstance(read.said.get("additionalProperties"), dict):
        return _misfit(written.at(others), read.at(read.said["additionalProperties"]), f"{path}.*".lstrip("."), above)
    return ""
