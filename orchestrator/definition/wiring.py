"""Wiring by name: where each parameter of a node's function takes its value from, known without reading code.

The input is put together as JSON, from stored outputs, the run's input, the item of a map and constants, and validated
as a whole by the function's contract. `checks.inputs` judges a wiring; the plan draws and prefetches what it reads.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from pydantic import BaseModel
from pydantic_core import from_json, to_json

from orchestrator.definition.codecs import BadType, Codec, codec_of
from orchestrator.definition.fitting import RUN_INPUT
from orchestrator.definition.signature import MISSING, BadFunction, Contract
from orchestrator.definition.wording import is_a
from orchestrator.errors import InvalidInput, path_text
from orchestrator.lazy import lazy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.definition.state import FlowState

_ABSENT: Final[Any] = object()
ROOTS: Final = {"input": "the run's input", "item": "the item of the map"}


@dataclass(frozen=True)
class Part:
    """The run's input or the item of a map, or a part of it: `run_input["parcel"]["weight"]`, `map_item[0]`.

    Attributes:
        root: Which of the two.
        path: Names and indexes that lead to the part, as its JSON has them.
    """

    root: Literal["input", "item"]
    path: tuple[str | int, ...] = ()

    __iter__ = None
    """Nothing to walk through: indexes alone would make it endless."""

    def __getitem__(self, name: str | int) -> Part:
        """Return a part of it."""
        return Part(self.root, (*self.path, name))

    def __str__(self) -> str:
        """Return it in words."""
        return f"{path_text(self.path)} of {ROOTS[self.root]}" if self.path else ROOTS[self.root]

    def find(self, value: Any) -> Any:
        """Return the part of a value, `_ABSENT` if it has none of this path."""
        for name in self.path:
            try:
                value = value[name]
            except (KeyError, IndexError, TypeError):
                return _ABSENT
        return value


run_input: Final = Part("input")
"""Stands for the run's input in `with_inputs`; `run_input["parcel"]` for a part of it."""
map_item: Final = Part("item")
"""Stands for the item in `with_inputs` of a map's node; `map_item["id"]` for a part of it."""


@dataclass(frozen=True)
class Constant:
    """A constant in `with_inputs`.

    Attributes:
        value: Any value that the parameter takes and JSON holds.
    """

    value: Any


def const(value: object) -> Constant:
    """Return a constant for `with_inputs`, where a text alone would be an output key."""
    return Constant(value)


@dataclass(frozen=True)
class Slot:
    """A parameter of a function, or a field of its one model parameter.

    Attributes:
        key: Its name in JSON.
        annotation: Its type.
        is_optional: Whether it has a default.
    """

    key: str
    annotation: Any
    is_optional: bool

    @lazy
    def codec(self) -> Codec[Any]:
        """JSON in and out of it; of a field whose type cannot stand alone, any JSON."""
        try:
            return codec_of(self.annotation)
        except BadType:
            return codec_of(Any)


class Wired(Protocol):
    """The part of a Node that its wiring asks."""

    @property
    def contract(self) -> Contract:
        """What its function takes."""


@dataclass(frozen=True, eq=False)
class Wiring:
    """Where the parameters of one node come from.

    Attributes:
        sources: By parameter or field: an output key, a `Part`, or a constant.
        node: The node, or one with the same function.
    """

    sources: Mapping[str, object]
    node: Wired

    @lazy
    def slots(self) -> Mapping[str, Slot]:
        """What can be wired, by name; of a function that is none, nothing."""
        try:
            parameters = self.node.contract.parameters
        except BadFunction:
            return {}
        if self._fields is not None:
            return self._fields
        return {each.name: Slot(each.name, each.annotation, each.default is not each.empty) for each in parameters}

    @lazy
    def _fields(self) -> Mapping[str, Slot] | None:
        """The fields of the function's one model parameter, unless the parameter itself is wired."""
        parameters = self.node.contract.parameters
        if len(parameters) != 1 or not self.sources or set(self.sources) == {parameters[0].name}:
            return None
        return _fields_of(parameters[0].annotation)

    def outputs(self) -> Mapping[str, str]:
        """The output keys that it reads, by parameter."""
        return {name: str(key) for name, key in self.sources.items() if is_a(key, str)}

    def parts(self, root: str) -> Mapping[str, Part]:
        """The parts of the run's input, or of the item, that it reads, by parameter."""
        return {name: part for name, part in self.sources.items() if is_a(part, Part) and part.root == root}

    def constants(self) -> Mapping[str, object]:
        """The constants, by parameter."""
        others = {name: given for name, given in self.sources.items() if not is_a(given, str, Part)}
        return {name: given.value if is_a(given, Constant) else given for name, given in others.items()}

    def may_lack(self, name: str) -> bool:
        """Whether a parameter has a default, which holds where its source is missing."""
        return name in self.slots and self.slots[name].is_optional

    def labels(self) -> dict[str, str]:
        """What a picture of the flow shows: each parameter with its output key, `:input.path` or `:item.path`."""
        return {
            name: ".".join(map(str, (f":{source.root}", *source.path))) if is_a(source, Part) else str(source)
            for name, source in self.sources.items()
            if is_a(source, str, Part)
        }

    @lazy
    def keys(self) -> tuple[str, ...]:
        """The output keys that it reads, and `RUN_INPUT` if it reads the run's input."""
        return tuple(sorted({*self.outputs().values(), *([RUN_INPUT] if self.parts("input") else [])}))

    @lazy
    def item_codec(self) -> Codec[Any]:
        """JSON in and out of a map's item: as the one parameter that takes it whole has it, else any JSON."""
        whole = [name for name, part in self.parts("item").items() if not part.path]
        is_typed = len(whole) == len(self.parts("item")) == 1
        return self.slots[whole[0]].codec if is_typed else codec_of(Any)

    def codec_for(self, item: object) -> Codec[Any]:
        """JSON in and out of one item: a model that parameters take in parts is written as its own class says."""
        in_parts = any(part.path for part in self.parts("item").values())
        is_model = isinstance(item, BaseModel) or dataclasses.is_dataclass(item)
        return codec_of(type(item)) if in_parts and is_model else self.item_codec

    @lazy
    def _stored_constants(self) -> Mapping[str, bytes]:
        return {
            name: self.slots[name].codec.dump(value, error=InvalidInput) for name, value in self.constants().items()
        }

    def read(self, state: FlowState, item: bytes) -> Any:
        """Return the function's input, validated; MISSING where every parameter has its default.

        Args:
            state: What the node may read.
            item: Of a map's node: JSON of the item.

        Raises:
            InvalidInput: A value does not fit its parameter, or a part that is needed is not there.
            MissingOutputError: An output that is needed is not there.
            HiddenDependencyError: An output is that of a sibling in the same parallel step.
        """
        known: dict[str, Any] = {}
        found: list[bytes] = []
        for name, source in self.sources.items():
            if is_a(source, str):
                data = state.stored(source, needed=not self.may_lack(name))
            elif is_a(source, Part):
                data = self._part_of(name, source, state.stored_input() if source.root == "input" else item, known)
            else:
                data = self._stored_constants[name]
            if data is not None:
                found.append(data if self._is_whole else to_json(self.slots[name].key) + b":" + data)
        contract = self.node.contract
        if self._is_whole:
            return contract.load(found[0]) if found else MISSING
        return contract.load(b"{%s}" % b",".join(found))

    @lazy
    def _is_whole(self) -> bool:
        """Whether what is wired is the function's one parameter, or nothing."""
        return self._fields is None and self.node.contract.style != "fields"

    def _part_of(self, name: str, part: Part, data: bytes, known: dict[str, Any]) -> bytes | None:
        if not part.path:
            return data
        if part.root not in known:
            known[part.root] = from_json(data)
        value = part.find(known[part.root])
        if value is not _ABSENT:
            return to_json(value)
        if self.may_lack(name):
            return None
        raise InvalidInput(f"{name}: there is no {part}")


def _fields_of(annotation: Any) -> Mapping[str, Slot] | None:
    """The fields of a model or dataclass, by name; None of any other type."""
    if not isinstance(annotation, type):
        return None
    if issubclass(annotation, BaseModel):
        return {
            name: Slot(
                _json_name(name, field.validation_alias),
                typing.Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation,
                is_optional=not field.is_required(),
            )
            for name, field in annotation.model_fields.items()
        }
    if dataclasses.is_dataclass(annotation):
        hints = typing.get_type_hints(annotation, include_extras=True)
        nothing = dataclasses.MISSING
        return {
            field.name: Slot(
                field.name,
                hints[field.name],
                is_optional=not (field.default is nothing and field.default_factory is nothing),
            )
            for field in dataclasses.fields(annotation)
            if field.init
        }
    return None


def _json_name(name: str, alias: object) -> str:
    """The name under which a field is read: an alias of several choices is read by its first text."""
    if isinstance(alias, str):
        return alias
    choices = [each for each in getattr(alias, "choices", ()) if isinstance(each, str)]
    return choices[0] if choices else name
