"""Checks of inputs: those wired by name have a source of their type each, and an input function returns what is taken.

What is wired is known without reading code. Whether an output is written before it is read, `data_flow` judges.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final, get_type_hints

from orchestrator.definition.checks.data_flow import GIVE_DEFAULT
from orchestrator.definition.checks.functions import read_contract, read_input_type
from orchestrator.definition.checks.locations import find_places, find_writers, is_exclusive
from orchestrator.definition.checks.messages import suggest
from orchestrator.definition.codecs import BadType, Codec, codec_of
from orchestrator.definition.schema_fit import ROOT, Schema, misfit
from orchestrator.definition.signature import MISSING, BadFunction
from orchestrator.definition.wording import call, show
from orchestrator.errors import InvalidInput, Problem, type_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator.definition.checks.locations import Place
    from orchestrator.definition.flow import Flow
    from orchestrator.definition.signature import Contract
    from orchestrator.definition.wiring import Part, Wiring

JSON_TYPES: Final = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "object": "an object",
    "string": "a text",
}


def check_inputs(flow: Flow) -> Iterator[Problem]:
    """Inputs wired by name are those that the function takes, and of the types that it takes."""
    writers = find_writers(flow)
    for place in find_places(flow):
        wiring = place.node.wiring
        if wiring is None:
            continue
        contract = read_contract(place.node)
        if isinstance(contract, BadFunction):  # reported by `functions`
            continue
        for fault in (*_name_faults(wiring, contract), *_item_faults(place, wiring), *_constant_faults(wiring)):
            yield Problem(place.where, "input-mismatch", fault)
        for fault in _output_faults(place, wiring, writers):
            yield Problem(place.where, "input-mismatch", fault)
        for name, part in wiring.parts("input").items():
            if name in wiring.slots:
                yield from _part_problems(flow, place.where, wiring, name, part)


def check_returned_inputs(flow: Flow) -> Iterator[Problem]:
    """An input function that says what it returns returns what the node's function takes."""
    for place in find_places(flow):
        function, contract = place.node.input_func, read_contract(place.node)
        if function is None or place.is_mapped or isinstance(contract, BadFunction) or contract.is_decorated:
            continue
        if contract.input is not None and (fault := _returned_fault(function, contract)):
            yield Problem(place.where, "input-mismatch", fault)


def _returned_fault(function: object, contract: Contract) -> str | None:
    returned, codec = _return_of(function), contract.input
    assert codec is not None  # noqa: S101 - the caller's check
    first = contract.parameters[0].annotation
    if contract.style == "single" and returned in getattr(first, "__mro__", ()):
        return None  # what it returns may be of the subclass that is taken
    try:
        written, accepted = codec_of(returned).written(), codec.accepted()
    except BadType:  # it never becomes JSON as it is; the run will tell
        return None
    if written is None or accepted is None:
        return None
    paths = [misfit(choice, accepted) for choice in written.choices()]  # of a union, one that fits is enough
    if not all(paths):
        return None
    path = paths[0] if len(paths) == 1 else ROOT
    names, at = ", ".join(each.name for each in contract.parameters), "" if path == ROOT else f" at {path}"
    takes = type_name(first) if contract.style == "single" else f"a mapping with {names}"
    return f"its input function {show(function)} returns {type_name(returned)}, but its function takes {takes}{at}"


def _return_of(function: object) -> Any:
    try:
        return get_type_hints(inspect.unwrap(function)).get("return", Any)  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001 - an annotation that nobody has resolved before; it binds nothing
        return Any


def _name_faults(wiring: Wiring, contract: Contract) -> Iterator[str]:
    for name in (each for each in wiring.sources if each not in wiring.slots):
        hint = suggest(name, wiring.slots) if wiring.slots else "it takes no input"
        yield f"with_inputs({call(name)}=...): its function has no parameter of this name; {hint}"
    for name, slot in wiring.slots.items():
        if name not in wiring.sources and not slot.is_optional:
            yield (
                f"its function takes {name}, which with_inputs(...) leaves out; name its source, or give the "
                f"parameter a default{contract.remedy}"
            )


def _item_faults(place: Place, wiring: Wiring) -> Iterator[str]:
    items = wiring.parts("item")
    if place.is_mapped and not items:
        yield "it is called for each item of a map, but takes it nowhere; wire a parameter to map_item"
    for name in () if place.is_mapped else items:
        yield f"its input {call(name)} is map_item, which only the node of a then_map has"


def _constant_faults(wiring: Wiring) -> Iterator[str]:
    for name, value in wiring.constants().items():
        if name not in wiring.slots:
            continue
        if callable(value):
            yield f"its input {call(name)}: {show(value)} is a function; use with_input_func(...) for what is computed"
            continue
        try:
            wiring.slots[name].codec.dump(value, error=InvalidInput)
        except InvalidInput as error:
            yield f"its input {call(name)}: the constant does not fit: {error.message}"


def _output_faults(place: Place, wiring: Wiring, writers: Mapping[str, list[Place]]) -> Iterator[str]:
    for name, key in wiring.outputs().items():
        for writer in writers.get(key, ()) if name in wiring.slots else ():
            contract = read_contract(writer.node)
            is_read = writer.node is not place.node and not is_exclusive(writer.path, place.path)
            if is_read and not isinstance(contract, BadFunction):
                annotation = contract.output.annotation
                output = codec_of(list.__class_getitem__(annotation)) if writer.is_mapped else contract.output
                what = f"the output of {call(writer.node.name)}"
                yield from _type_faults(wiring, name, what, output.written(), type_name(output.annotation))


def _part_problems(flow: Flow, where: str, wiring: Wiring, name: str, part: Part) -> Iterator[Problem]:
    codec = read_input_type(flow)
    if flow.input_type is MISSING or not isinstance(codec, Codec):
        return
    what = f"its input {call(name)} reads {part}"
    schema, title = codec.written(), type_name(codec.annotation)
    for key in part.path:
        if schema is None:
            return
        found = list(schema.parts(key))
        there = [each for each in found if each is not None]
        if not there:
            hint = suggest(str(key), schema.names())
            yield Problem(where, "input-mismatch", f"{what}, but {title} has no {show(key)} there; {hint}")
            return
        if len(there) < len(found) and not wiring.may_lack(name):
            yield Problem(where, "maybe-missing", f"{what}, which may be missing at {show(key)}; {GIVE_DEFAULT}")
            return
        schema = there[0] if len(there) == 1 else None
    for fault in _type_faults(wiring, name, str(part), schema, "" if part.path else title):
        yield Problem(where, "input-mismatch", fault)


def _type_faults(wiring: Wiring, name: str, what: str, written: Schema | None, title: str) -> Iterator[str]:
    codec = wiring.slots[name].codec
    accepted = codec.accepted()
    if written is not None and accepted is not None and (path := misfit(written, accepted)):
        at = "" if path == ROOT else f" at {path}"
        takes, found = type_name(codec.annotation), title or _types_of(written)
        yield f"its input {call(name)} takes {takes}, but {what} is {found}, which does not fit{at}"


def _types_of(schema: Schema) -> str:
    found = {kind for choice in schema.choices() for kind in choice.types()}
    return " or ".join(JSON_TYPES.get(kind, kind) for kind in sorted(found))
