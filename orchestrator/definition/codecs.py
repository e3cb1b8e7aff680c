"""Codecs: values become JSON and come back as their type, for inputs and outputs alike.

A value that would not come back as it was is refused here, with the type's name and the path to the part at fault.
Sizes, storage and access are left to others.
"""

from __future__ import annotations

import marshal
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, Final, Generic, TypeVar, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PydanticSchemaGenerationError,
    TypeAdapter,
    ValidationError,
    create_model,
)
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError
from pydantic_core import to_json

from orchestrator.definition.losses import UNREAD, find_losses
from orchestrator.definition.schema_fit import Schema
from orchestrator.definition.schemas import Care, care_of, digest_of, distinguishes_tuples, has_times, has_validators
from orchestrator.definition.time_zones import with_standard_zones
from orchestrator.errors import (
    FIELD_LIMIT,
    InvalidInput,
    InvalidOutput,
    RunError,
    describe_fields,
    path_text,
    text_of,
    type_name,
)

T = TypeVar("T")

_MAX_DEPTH: Final = 200
_UNKNOWN_TYPE: Final = "unknown type"  # as pydantic says it
# JSON has no word for these numbers; pydantic writes them where it writes no null.
_NO_NUMBERS: Final = (b"NaN", b"Infinity")
_PLAINEST_MARSHAL: Final = 2  # later versions mark what is shared, which JSON does not keep


class BadType(TypeError):
    """An annotation that values cannot be validated against, or cannot be written as JSON."""


class Reader(Generic[T]):
    """Reads the stored JSON of one annotation."""

    __slots__ = ("_adapter", "_has_times", "annotation")

    annotation: Any

    def __init__(self, annotation: Any, adapter: TypeAdapter[T] | None = None) -> None:
        """Build the validator once, if there is none yet; raises what pydantic raises."""
        self.annotation = annotation
        self._adapter: TypeAdapter[T] = TypeAdapter(annotation) if adapter is None else adapter
        self._has_times = has_times(self._adapter)

    def load(self, data: bytes, /) -> T:
        """Return the value of stored JSON.

        Raises:
            InvalidInput: It does not fit; the message has each field's path.
        """
        try:
            value = self._adapter.validate_json(data)
        except ValidationError as error:
            # Not `from error`: its text repeats the values, which may be secret.
            raise InvalidInput(f"does not fit {self._title()}: {describe_fields(error)}") from None
        except Exception as error:
            raise InvalidInput(f"cannot be checked, a validator failed: {text_of(error)}") from error
        return with_standard_zones(value) if self._has_times else value

    def _title(self) -> str:
        return type_name(self.annotation)


class Codec(Reader[T]):
    """JSON in and out of one annotation."""

    __slots__ = ("_care", "_digest", "_distinguishes_tuples", "_is_any")

    def __init__(self, annotation: Any) -> None:
        """Build the validator once.

        Raises:
            BadType: Values of this annotation cannot be validated or cannot be stored.
        """
        if get_origin(annotation) is Iterable or annotation is Iterable:
            # pydantic leaves an Iterable unread, and so unchecked, until somebody walks it.
            annotation = list[get_args(annotation) or Any]  # type: ignore[misc]
        super().__init__(annotation, _adapter_of(annotation))
        self._digest = ""
        self._is_any = annotation is Any or annotation is object
        self._care = care_of(self._adapter)
        self._distinguishes_tuples = distinguishes_tuples(self._adapter)

    def check(self, value: object) -> T:
        """Return a Python value as the annotation has it.

        Raises:
            InvalidInput: It does not fit; the message has each field's path.
        """
        return value if self._is_any else self._validate(value, InvalidInput)  # type: ignore[return-value]

    def dump(self, value: object, *, error: type[RunError] = InvalidOutput) -> bytes:
        """Return the JSON of a value that fits the annotation and comes back from JSON as it is.

        A part without an annotation of its own has to be what JSON has; a tuple counts as a list there.

        Args:
            value: Validated first, so that a mapping may stand for a model.
            error: What to raise; InvalidInput for a value on its way in.

        Raises:
            InvalidOutput: It does not fit, or JSON cannot hold it; the message has the type's name and the path.
        """
        known = value if self._is_any else self._validate(value, error)
        data = self._write(known, error)
        if self._care is Care.NONE:
            return data
        again, refusal = self._read_again(data)
        if refusal is not None or self._care is Care.EVERY_PART or not _is_same_data(known, again, data):
            self._refuse_losses(known, again, refusal, error)
        return data

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of the annotation."""
        return self._adapter.json_schema()

    def written(self) -> Schema | None:
        """Return what the JSON of values is known to be, None if that cannot be said."""
        try:
            return Schema(self._adapter.json_schema(mode="serialization"))
        except Exception:  # noqa: BLE001 - a user's class may raise anything where it describes itself
            return None

    def accepted(self) -> Schema | None:
        """Return what JSON is known to be taken, None if that cannot be said."""
        try:
            return None if has_validators(self._adapter) else Schema(self._adapter.json_schema())
        except Exception:  # noqa: BLE001 - as above
            return None

    @property
    def digest(self) -> str:
        """A name for the annotation, as far as values of it differ in JSON."""
        if not self._digest:
            try:
                self._digest = digest_of(self.schema())
            except PydanticInvalidForJsonSchema:  # only what it writes has a schema
                self._digest = digest_of(self._adapter.json_schema(mode="serialization"))
        return self._digest

    def _validate(self, value: object, error: type[RunError]) -> T:
        try:
            return self._adapter.validate_python(value)
        except ValidationError as failure:
            fault = describe_fields(failure)
            raise error(f"{_kind(value)} does not fit {self._title()}: {fault}") from None
        except Exception as failure:
            raise error(f"{_kind(value)} cannot be checked, a validator failed: {text_of(failure)}") from failure

    def _write(self, value: Any, error: type[RunError]) -> bytes:
        if issubclass(type(value), Iterator):
            # pydantic would empty it into a list, and a second look would find nothing.
            raise error(f"{_kind(value)} is not JSON; return a list")
        try:
            return self._adapter.dump_json(value, by_alias=True, round_trip=True, warnings=False)
        except Exception as failure:
            fault = find_culprit(value) or text_of(failure)
            remedy = self._remedy(error) if self._is_any and _UNKNOWN_TYPE in fault else ""
            raise error(f"{_kind(value)} is not JSON: {fault}{remedy}") from failure

    def _read_again(self, data: bytes) -> tuple[object, str | None]:
        try:
            return self._adapter.validate_json(data), None
        except ValidationError as failure:
            return None, describe_fields(failure)
        except Exception as failure:  # noqa: BLE001 - a user's validator may raise anything
            return None, f"a validator failed: {text_of(failure)}"

    def _refuse_losses(self, known: Any, again: object, refusal: str | None, error: type[RunError]) -> None:
        compared = UNREAD if refusal is not None else again
        try:
            losses = list(
                islice(find_losses(known, compared, distinguishes_tuples=self._distinguishes_tuples), FIELD_LIMIT)
            )
        except Exception as failure:
            raise error(f"{_kind(known)} cannot be compared with its JSON: {text_of(failure)}") from failure
        if losses:
            fault = "is not JSON" if self._is_any else "does not come back from JSON as it was"
            remedy = self._remedy(error) if any(loss.is_of_type for loss in losses) else ""
            raise error(f"{_kind(known)} {fault}: {'; '.join(map(str, losses))}{remedy}")
        if refusal is not None:
            raise error(f"{_kind(known)} does not come back from JSON as {self._title()}: {refusal}")

    def _remedy(self, error: type[RunError]) -> str:
        if not self._is_any:
            return "; annotate exactly what is returned: JSON tells neither a subclass nor the member of a union"
        return "; annotate the return" if error is InvalidOutput else "; name its type with takes(...) or an annotation"


def _is_same_data(one: Any, other: Any, data: bytes) -> bool:
    # marshal tells exact built-in types apart, asks no user's __eq__ and refuses every other class.
    try:
        is_same = marshal.dumps(one, _PLAINEST_MARSHAL) == marshal.dumps(other, _PLAINEST_MARSHAL)
    except ValueError:
        return False
    return is_same and not any(name in data for name in _NO_NUMBERS)


@lru_cache(maxsize=1024)
def _cached_codec(annotation: Any, _text: str) -> Codec[Any]:
    return Codec(annotation)


def codec_of(annotation: Any) -> Codec[Any]:
    """Return the codec of an annotation, the same one for the same annotation.

    Raises:
        BadType: Values of this annotation cannot be validated or cannot be stored.
    """
    try:
        # Equal unions may differ in order, and the order decides which member wins: so the text is part of the key.
        return _cached_codec(annotation, "" if isinstance(annotation, type) else str(annotation))
    except BadType:
        raise
    except Exception:  # noqa: BLE001 - not hashable, such as Annotated with a list in it, or without a text
        return Codec(annotation)


class FieldsCodec(Codec[dict[str, Any]]):
    """A codec of several named values in one JSON object: values in and out are mappings of the names."""

    __slots__ = ("_codecs", "_names")

    def __init__(self, entries: Mapping[str, tuple[Any, bool]]) -> None:
        """Take each name's annotation and whether it is required."""
        # Under names of our own, because pydantic takes neither `_x` nor `model_config` for a field.
        self._names = {f"field_{index}": name for index, name in enumerate(entries)}
        definitions: dict[str, Any] = {
            field: (
                entries[name][0],
                Field(alias=name) if entries[name][1] else Field(alias=name, default_factory=lambda: None),
            )
            for field, name in self._names.items()
        }
        super().__init__(create_model("Parameters", __config__=ConfigDict(extra="forbid"), **definitions))
        self._codecs = {name: codec_of(annotation) for name, (annotation, _) in entries.items()}

    def check(self, value: object) -> dict[str, Any]:
        """Return the given names with their values validated; a name left out stays out."""
        return self._unpack(super().check(value))

    def load(self, data: bytes, /) -> dict[str, Any]:
        """Return the given names of stored JSON with their values validated; a name left out stays out."""
        return self._unpack(super().load(data))

    def dump(self, value: object, *, error: type[RunError] = InvalidOutput) -> bytes:
        """Return the JSON of the given names, each as its annotation has it; a name left out stays out."""
        return b"{%s}" % b",".join(
            to_json(name) + b":" + self._written(name, part, error) for name, part in self.check(value).items()
        )

    def _written(self, name: str, part: object, error: type[RunError]) -> bytes:
        try:
            return self._codecs[name].dump(part, error=error)
        except error as refusal:
            raise error(f"{name}: {refusal.message}") from None

    def _title(self) -> str:
        return f"the parameters {', '.join(self._codecs)}"

    def _unpack(self, given: Any) -> dict[str, Any]:
        return {name: getattr(given, field) for field, name in self._names.items() if field in given.model_fields_set}


def _adapter_of(annotation: Any) -> TypeAdapter[Any]:
    if annotation is type or get_origin(annotation) is type:
        raise BadType(f"{type_name(annotation)} cannot be stored as JSON: a class is code, not a value")
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        try:
            adapter.json_schema()
        except PydanticInvalidForJsonSchema:
            adapter.json_schema(mode="serialization")
    except (PydanticUserError, PydanticSchemaGenerationError) as error:
        raise BadType(f"{type_name(annotation)} cannot be stored as JSON: {str(error).splitlines()[0]}") from error
    except Exception as error:
        raise BadType(f"{type_name(annotation)} cannot be used as a type: {type(error).__name__}") from error
    return adapter


def _kind(value: object) -> str:
    return f"a value of type {type_name(type(value))}"


def find_culprit(value: object) -> str | None:
    """Return path, type and fault of the innermost part of a value that cannot be written, None if each part can."""
    try:
        return _find_culprit(value)
    except Exception:  # noqa: BLE001 - looking into a user's object may raise anything
        return None


def _find_culprit(value: object) -> str | None:
    path: list[object] = []
    above: set[int] = set()
    while (fault := _write_fault(value)) is not None:
        if id(value) in above:
            return f"{path_text(path)}: a {type_name(type(value))} that contains itself"
        if len(path) > _MAX_DEPTH:
            return f"{path_text(path)}: nested deeper than {_MAX_DEPTH} levels"
        above.add(id(value))
        inner = next(((name, part) for name, part in _parts(value) if _write_fault(part) is not None), None)
        if inner is None:
            return f"{path_text(path)}: {type_name(type(value))}: {fault}"
        path.append(inner[0])
        value = inner[1]
    return None


def _parts(value: object) -> Iterator[tuple[object, object]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, list | tuple | set | frozenset):
        yield from enumerate(value)
    elif isinstance(value, BaseModel):
        yield from iter(value)
    elif is_dataclass(value):
        yield from ((field.name, getattr(value, field.name)) for field in fields(value))


def _write_fault(value: object) -> str | None:
    try:
        to_json(value)
    except Exception as error:  # noqa: BLE001 - the question is what it raises
        return text_of(error).removeprefix("Error serializing to JSON: ").removeprefix("PydanticSerializationError: ")
    return None
