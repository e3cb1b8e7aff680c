"""Items of a map: what its function computed, checked one by one, as the JSON that its node reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, ValuesView
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import InvalidInput, InvalidOutput, PayloadTooLarge, type_name

if TYPE_CHECKING:
    from orchestrator.definition.codecs import Codec
    from orchestrator.definition.state import FlowState
    from orchestrator.definition.steps import Map

MOST_ITEMS = 100_000
_SERIES: Final = (Sequence, AbstractSet, ValuesView, Iterator)
_TEXTS: Final = (str, bytes, bytearray, memoryview)


def take_items(step: Map, state: FlowState) -> list[Any]:
    """Call the function of a map and take what it returns: a list, or another series such as a range or a generator.

    Raises:
        InvalidOutput: It is no series of items, or there are too many.
    """
    items = step.over(state)
    if not isinstance(items, _SERIES) or isinstance(items, _TEXTS):
        raise InvalidOutput(f"over of {step.name} returned {type_name(type(items))}; return a list")
    # One more than may be, and no more than that: a generator may be endless.
    taken = list(islice(items, MOST_ITEMS + 1))
    if len(taken) > MOST_ITEMS:
        raise InvalidOutput(f"over of {step.name} returned too many items; at most {MOST_ITEMS} can be")
    return taken


def items_of(step: Map, items: Sequence[Any], *, largest: int) -> list[bytes]:
    """Return the items of a map as JSON.

    Args:
        step: The map.
        items: What its function returned.
        largest: Most bytes of one item.

    Raises:
        InvalidInput: One does not fit the node; its index is in the message.
        PayloadTooLarge: One is too large.
    """
    codec, wiring = step.taken_by(step.node), step.node.wiring
    assert codec is not None  # noqa: S101 - `build()` refuses a node without a parameter
    found = []
    for index, item in enumerate(items):
        found.append(_written(index, item, codec if wiring is None else wiring.codec_for(item)))
        if len(found[-1]) > largest:
            raise PayloadTooLarge(f"item {index} of {step.node.name}", len(found[-1]), largest)
    return found


def _written(index: int, item: object, codec: Codec[Any]) -> bytes:
    try:
        return codec.dump(item, error=InvalidInput)
    except InvalidInput as error:
        raise InvalidInput(f"item {index}: {error.message}") from None
