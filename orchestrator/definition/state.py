"""State of a run as input functions, predicates and clients read it: a snapshot that nothing can change.

It loads outputs on demand, validates the stored JSON against the reader's type, and refuses reads of siblings in a
parallel step. Its maker says where outputs are stored and which ones may be read.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, overload

from orchestrator.definition.codecs import Reader
from orchestrator.definition.fitting import RUN_INPUT
from orchestrator.errors import HiddenDependencyError, InvalidInput, MissingOutputError, NodeFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from collections.abc import Set as AbstractSet

__all__ = ["Codec", "FlowState", "NodeFailure", "NodeOutput", "RunStatus"]

T = TypeVar("T")
D = TypeVar("D")
T_co = TypeVar("T_co", covariant=True)

_NOTHING: Final[Any] = object()
NO_ENTRIES: Final[Mapping[str, Any]] = MappingProxyType({})


class RunStatus(StrEnum):
    """Status of a run; it ends in one of the last four."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    COMPENSATING = "compensating"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    COMPENSATION_FAILED = "compensation_failed"

    @property
    def is_final(self) -> bool:
        """Whether the run has ended; only `resume` changes its status then."""
        return self not in (RunStatus.PENDING, RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.COMPENSATING)


class Codec(Protocol[T_co]):
    """Reads the stored JSON of one type."""

    @property
    def annotation(self) -> Any:
        """The type."""

    def load(self, data: bytes, /) -> T_co:
        """Return the value, or raise InvalidInput."""


class NodeOutput(Protocol[T_co]):
    """The part of a Node that a state reads when one stands in place of a key."""

    @property
    def name(self) -> str:
        """The node's name."""

    @property
    def output_key(self) -> str:
        """The key of its output."""

    @property
    def output_codec(self) -> Codec[T_co]:
        """How its output is read."""


class FlowState:
    """A read-only snapshot of a run.

    `key` is an output key or a Node; `annotation` is the type that the stored JSON is validated against, which need
    not be the writer's. Reading what a sibling of the same parallel step writes raises HiddenDependencyError.
    """

    __slots__ = (
        "_failures",
        "_flow_name",
        "_hidden",
        "_input",
        "_input_codec",
        "_is_complete",
        "_item_failures",
        "_list_keys",
        "_load",
        "_load_failure",
        "_load_failures",
        "_loaded",
        "_note_refused",
        "_run_id",
        "_visible",
    )

    def __init__(
        self,
        *,
        run_id: str,
        flow_name: str,
        input: bytes | None,
        input_codec: Codec[Any] | None,
        load: Callable[[Collection[str] | None], Mapping[str, bytes]],
        load_failure: Callable[[str], bytes | None],
        prefetched: Mapping[str, bytes | None] = NO_ENTRIES,
        visible: AbstractSet[str] | None = None,
        hidden: Mapping[str, str] = NO_ENTRIES,
        load_failures: Callable[[str], Mapping[int, bytes]] | None = None,
        list_keys: AbstractSet[str] = frozenset(),
        note_refused: Callable[[str], object] = lambda _key: None,
    ) -> None:
        """Take what is known, and functions that load the rest.

        Args:
            run_id: The run.
            flow_name: Its flow.
            input: JSON of the run's input, None if it was started without one.
            input_codec: The type of `takes`, if there is one.
            load: Returns the stored JSON of these output keys, leaving out absent ones; None is every key.
            load_failure: Returns the NodeFailure JSON of a node that ended failed or unknown.
            prefetched: Stored JSON that is loaded already; a key with None is known to be absent.
            visible: Output keys that may be read; None is every key.
            hidden: Output keys and names of the siblings, each with the sibling's name.
            load_failures: Returns the NodeFailure JSON of the failed items of a map, by index.
            list_keys: Output keys that hold the list of a map's outputs, with None for a failed item.
            note_refused: Is told the key of an output that is of a wrong type, was needed and is absent, or may not be
                read; `RUN_INPUT` for the run's input.
        """
        self._run_id = run_id
        self._flow_name = flow_name
        self._input = input
        self._input_codec = input_codec
        self._load = load
        self._load_failure = load_failure
        self._load_failures = load_failures
        self._list_keys = list_keys
        self._loaded = dict(prefetched)
        self._is_complete = False
        self._failures: dict[str, bytes | None] = {}
        self._item_failures: dict[str, Mapping[int, bytes]] = {}
        self._visible = visible
        self._hidden = hidden
        self._note_refused = note_refused

    @property
    def run_id(self) -> str:
        """Id of the run."""
        return self._run_id

    @property
    def flow_name(self) -> str:
        """Name of the run's flow."""
        return self._flow_name

    @overload
    def get(self, key: NodeOutput[T], /) -> T: ...
    @overload
    def get(self, key: str, /) -> Any: ...
    @overload
    def get(self, key: str | NodeOutput[Any], annotation: type[T], /) -> T: ...
    @overload
    def get(self, key: str | NodeOutput[Any], annotation: Any, /) -> Any: ...
    def get(self, key: str | NodeOutput[Any], annotation: Any = _NOTHING, /) -> Any:
        """Return an output, validated.

        Raises:
            MissingOutputError: There is no output under this key.
            InvalidInput: The output does not fit the type; the message has each field's path.
        """
        name = self._visible_key(key)
        return self._read(self._needed(name), name, self._codec_for(key, annotation))

    @overload
    def get_or(self, key: NodeOutput[T], /, *, default: D) -> T | D: ...
    @overload
    def get_or(self, key: str, /, *, default: Any) -> Any: ...
    @overload
    def get_or(self, key: str | NodeOutput[Any], annotation: type[T], /, default: D) -> T | D: ...
    @overload
    def get_or(self, key: str | NodeOutput[Any], annotation: Any, /, default: Any) -> Any: ...
    def get_or(self, key: str | NodeOutput[Any], /, annotation: Any = _NOTHING, default: Any = _NOTHING) -> Any:
        """Return an output, or `default` when there is none; an output of a wrong type still raises InvalidInput."""
        if default is _NOTHING:
            raise TypeError("get_or(key, type, default) needs a default; with a Node: get_or(node, default=...)")
        name = self._visible_key(key)
        data = self._find(name)
        return default if data is None else self._read(data, name, self._codec_for(key, annotation))

    def has(self, key: str | NodeOutput[Any], /) -> bool:
        """Return whether there is an output under this key."""
        return self._find(self._visible_key(key)) is not None

    def keys(self) -> frozenset[str]:
        """Return the keys of all outputs that exist and may be read."""
        if not self._is_complete:
            wanted = None if self._visible is None else self._visible - self._loaded.keys()
            if wanted is None or wanted:
                self._loaded.update(self._load(wanted))
            self._is_complete = True
        return frozenset(
            key
            for key, data in self._loaded.items()
            if data is not None and (self._visible is None or key in self._visible)
        )

    @overload
    def input(self, /) -> Any: ...
    @overload
    def input(self, annotation: type[T], /) -> T: ...
    @overload
    def input(self, annotation: Any, /) -> Any: ...
    def input(self, annotation: Any = _NOTHING, /) -> Any:
        """Return the run's input, validated; without a type, against the one of `takes`. A run without one has None.

        Raises:
            InvalidInput: The input does not fit the type; the message has each field's path.
        """
        codec = self._input_codec if annotation is _NOTHING else None
        return self._read(
            self.stored_input(), RUN_INPUT, codec or _reader_of(Any if annotation is _NOTHING else annotation)
        )

    def stored(self, key: str, /, *, needed: bool) -> bytes | None:
        """Return the JSON of an output as it is stored, None if there is none and none is needed.

        Raises:
            MissingOutputError: There is none, and one is needed.
        """
        name = self._visible_key(key)
        return self._needed(name) if needed else self._find(name)

    def stored_input(self) -> bytes:
        """Return the JSON of the run's input, `null` of a run without one."""
        return b"null" if self._input is None else self._input

    def failure(self, node: str | NodeOutput[Any], /) -> NodeFailure | None:
        """Return how a node failed, or None if it did not fail, or not yet."""
        name = self._visible_node(node)
        if name not in self._failures:
            self._failures[name] = self._load_failure(name)
        data = self._failures[name]
        return None if data is None else NodeFailure.model_validate_json(data)

    def failures(self, node: str | NodeOutput[Any], /) -> dict[int, NodeFailure]:
        """Return how items of a map failed, by the item's index."""
        name = self._visible_node(node)
        if name not in self._item_failures:
            self._item_failures[name] = {} if self._load_failures is None else self._load_failures(name)
        found = self._item_failures[name]
        return {index: NodeFailure.model_validate_json(found[index]) for index in sorted(found)}

    def __repr__(self) -> str:
        """Show flow and run."""
        return f"FlowState(flow_name={self._flow_name!r}, run_id={self._run_id!r})"

    def _visible_key(self, key: str | NodeOutput[Any]) -> str:
        name = key if isinstance(key, str) else key.output_key
        sibling = self._hidden.get(name)
        # A sibling's name may also be the output key of an earlier node, which every reader may read.
        if sibling is not None and not (self._visible is not None and name in self._visible):
            self._refuse(f"output {name!r}", sibling)
        return name

    def _visible_node(self, node: str | NodeOutput[Any]) -> str:
        name = node if isinstance(node, str) else node.name
        if name in self._hidden.values():
            self._refuse(f"failure of {name!r}", name)
        return name

    def _refuse(self, what: str, sibling: str) -> None:
        raise HiddenDependencyError(
            f"the {what} belongs to node {sibling!r} of the same parallel step, so whether it exists is a race; "
            "read it in a later step",
            flow_name=self._flow_name,
            run_id=self._run_id,
        )

    def _needed(self, key: str) -> bytes:
        data = self._find(key)
        if data is None:
            self._note_refused(key)
            there = ", ".join(sorted(self.keys())) or "none"
            raise MissingOutputError(
                f"there is no output {key!r}; there are: {there}. Use `has` or `get_or` for one that may be absent",
                flow_name=self._flow_name,
                run_id=self._run_id,
            )
        return data

    def _find(self, key: str) -> bytes | None:
        if self._visible is not None and key not in self._visible:
            self._note_refused(key)
            return None
        if key not in self._loaded and not self._is_complete:
            # None first: what is absent is asked for once, and does not appear later in a snapshot that had none.
            self._loaded.update({key: None, **self._load((key,))})
        return self._loaded.get(key)

    def _codec_for(self, key: str | NodeOutput[Any], annotation: Any) -> Codec[Any]:
        if annotation is not _NOTHING:
            return _reader_of(annotation)
        if isinstance(key, str):
            return _reader_of(Any)
        if key.output_key in self._list_keys:
            item: Any = key.output_codec.annotation | None
            return _reader_of(list.__class_getitem__(item))
        return key.output_codec

    def _read(self, data: bytes, key: str, codec: Codec[Any]) -> Any:
        try:
            return codec.load(data)
        except InvalidInput as error:
            self._note_refused(key)
            what = "the run's input" if key == RUN_INPUT else f"output {key!r}"
            raise InvalidInput(f"{what}: {error.message}", flow_name=self._flow_name, run_id=self._run_id) from error


@lru_cache(maxsize=1024)
def _cached_reader(annotation: Any, _text: str) -> Reader[Any]:
    return Reader(annotation)


def _reader_of(annotation: Any) -> Reader[Any]:
    try:
        # Equal unions may differ in order, and the order decides which member wins: so the text is part of the key.
        return _cached_reader(annotation, "" if isinstance(annotation, type) else str(annotation))
    except TypeError:  # not hashable, such as Annotated with a list in it
        return Reader(annotation)
