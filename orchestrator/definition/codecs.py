"""Codecs: values become JSON and come back as their type, for inputs and outputs alike.

A value that would not come back as it was is refused here, with the type's name and the path to the part at fault.
Sizes, storage and access are left to others.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from decimal import Decimal
from functools import lru_cache
from itertools import islice
from typing import Any, Final, Generic, TypeVar, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PydanticSchemaGenerationError,
    Secret,
    SecretBytes,
    SecretStr,
    TypeAdapter,
    ValidationError,
    create_model,
)
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError
from pydantic_core import to_json

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

# What JSON of pydantic has where something was lost: NaN and infinity become null (or are not JSON), a NaN key "None",
# a secret its mask.
_NULL: Final = b"null"
_TRACES: Final = (_NULL, b"NaN", b"Infinity", b'"None"', b"***")
_MAX_DEPTH: Final = 200
_SAFE: Final = frozenset({str, int, bool, type(None)})
_SECRETS: Final = (SecretStr, SecretBytes, Secret)


class BadType(TypeError):
    """An annotation that values cannot be validated against, or cannot be written as JSON."""


class Codec(Generic[T]):
    """JSON in and out of one annotation."""

    __slots__ = ("_adapter", "_is_any", "annotation")

    annotation: Any

    def __init__(self, annotation: Any) -> None:
        """Build the validator once.

        Raises:
            BadType: Values of this annotation cannot be validated or cannot be stored.
        """
        if get_origin(annotation) is Iterable or annotation is Iterable:
            # pydantic leaves an Iterable unread, and so unchecked, until somebody walks it.
            annotation = list[get_args(annotation) or Any]  # type: ignore[misc]
        self.annotation = annotation
        self._is_any = annotation is Any
        self._adapter: TypeAdapter[T] = _adapter_of(annotation)

    def check(self, value: object) -> T:
        """Return a Python value as the annotation has it.

        Raises:
            InvalidInput: It does not fit; the message has each field's path.
        """
        return value if self._is_any else self._validate(value, InvalidInput)  # type: ignore[return-value]

    def load(self, data: bytes, /) -> T:
        """Return the value of stored JSON.

        Raises:
            InvalidInput: It does not fit; the message has each field's path.
        """
        try:
            return self._adapter.validate_json(data)
        except ValidationError as error:
            # Not `from error`: its text repeats the values, which may be secret.
            raise InvalidInput(f"does not fit {type_name(self.annotation)}: {describe_fields(error)}") from None
        except Exception as error:
            raise InvalidInput(f"cannot be checked, a validator failed: {text_of(error)}") from error

    def dump(self, value: object, *, error: type[RunError] = InvalidOutput) -> bytes:
        """Return the JSON of a value that fits the annotation and comes back from JSON as it is.

        Args:
            value: Validated first, so that a mapping may stand for a model.
            error: What to raise; InvalidInput for a value on its way in.

        Raises:
            InvalidOutput: It does not fit, or JSON cannot hold it; the message has the type's name and the path.
        """
        known = value if self._is_any else self._validate(value, error)
        data = self._write(known, error)
        if known is None and data == b"null":
            return data
        again, refusal = self._read_again(data)
        is_same = refusal is None and _is_equal(known, again)
        traces = [trace for trace in _TRACES if trace in data]
        # A null is mostly a None: then one quick pass shows that no number is lost.
        if not is_same or (traces and not (traces == [_NULL] and self._has_real_numbers(known))):
            self._refuse_losses(known, error)
        if refusal is not None:
            raise error(f"{_kind(value)} does not come back from JSON as {type_name(self.annotation)}: {refusal}")
        return data

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of the annotation."""
        return self._adapter.json_schema()

    def _validate(self, value: object, error: type[RunError]) -> T:
        try:
            return self._adapter.validate_python(value)
        except ValidationError as failure:
            fault = describe_fields(failure)
            raise error(f"{_kind(value)} does not fit {type_name(self.annotation)}: {fault}") from None
        except Exception as failure:
            raise error(f"{_kind(value)} cannot be checked, a validator failed: {text_of(failure)}") from failure

    def _write(self, value: Any, error: type[RunError]) -> bytes:
        if issubclass(type(value), Iterator):
            # pydantic would empty it into a list, and a second look would find nothing.
            raise error(f"{_kind(value)} is not JSON; return a list")
        try:
            return self._adapter.dump_json(value, by_alias=True, round_trip=True, warnings=False)
        except Exception as failure:
            raise error(f"{_kind(value)} is not JSON: {find_culprit(value) or text_of(failure)}") from failure

    def _read_again(self, data: bytes) -> tuple[object, str | None]:
        try:
            return self._adapter.validate_json(data), None
        except ValidationError as failure:
            return None, describe_fields(failure)
        except Exception as failure:  # noqa: BLE001 - a user's validator may raise anything
            return None, f"a validator failed: {text_of(failure)}"

    def _has_real_numbers(self, value: Any) -> bool:
        try:
            kept = self._adapter.dump_python(value, by_alias=True, round_trip=True, warnings=False)
            json.dumps(kept, allow_nan=False, default=_as_list)
        except Exception:  # noqa: BLE001 - not that quick, then: the full search says what it is
            return False
        return True

    def _refuse_losses(self, value: Any, error: type[RunError]) -> None:
        try:
            kept = self._adapter.dump_python(value, by_alias=True, round_trip=True, warnings=False)
            plain = self._adapter.dump_python(value, mode="json", by_alias=True, round_trip=True, warnings=False)
            losses = list(islice(find_losses(kept, plain), FIELD_LIMIT))
        except Exception as failure:
            raise error(f"{_kind(value)} cannot be compared with its JSON: {text_of(failure)}") from failure
        if losses:
            raise error(f"{_kind(value)} is not JSON: {'; '.join(losses)}")


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

    __slots__ = ("_names",)

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
        super().__init__(create_model("Fields", __config__=ConfigDict(extra="forbid"), **definitions))

    def check(self, value: object) -> dict[str, Any]:
        """Return the given names with their values validated; a name left out stays out."""
        return self._unpack(super().check(value))

    def load(self, data: bytes, /) -> dict[str, Any]:
        """Return the given names of stored JSON with their values validated; a name left out stays out."""
        return self._unpack(super().load(data))

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


def _as_list(value: object) -> object:
    return list(value) if isinstance(value, set | frozenset) else None


def _is_equal(one: object, other: object) -> bool:
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 - a user's __eq__ may raise or answer something without a truth value
        return False


def find_losses(kept: object, plain: object, path: tuple[object, ...] = ()) -> Iterator[str]:
    """Yield what of a dump in Python form is lost in the same dump in JSON form, each with its path."""
    if isinstance(kept, _SECRETS):
        if plain in (str(kept), str(kept)[2:-1]) and plain != kept.get_secret_value():  # SecretBytes shows b'...'
            yield f"{path_text(path)}: a {type(kept).__name__} would be stored masked; return what may be stored"
    elif _is_no_number(kept):
        if plain is None or isinstance(plain, float) or plain in ("NaN", "Infinity", "-Infinity"):
            yield f"{path_text(path)}: NaN and infinity are not JSON"
    elif isinstance(kept, Mapping) and isinstance(plain, Mapping):
        yield from _lost_entries(kept, plain, path)
    elif isinstance(kept, list | tuple | set | frozenset) and isinstance(plain, list):
        for index, (part, text) in enumerate(zip(kept, plain, strict=False)):
            if type(part) not in _SAFE:
                yield from find_losses(part, text, (*path, index))


def _lost_entries(kept: Mapping[Any, Any], plain: Mapping[Any, Any], path: tuple[object, ...]) -> Iterator[str]:
    if len(kept) != len(plain):
        yield f"{path_text(path)}: two of its keys are the same text in JSON"
        return
    for (key, part), (name, text) in zip(kept.items(), plain.items(), strict=True):
        if _is_no_number(key):
            yield f"{path_text(path)}: the key NaN or infinity is not JSON"
        if type(part) not in _SAFE:
            yield from find_losses(part, text, (*path, name))


def _is_no_number(value: object) -> bool:
    return isinstance(value, float | Decimal) and not math.isfinite(value)


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
