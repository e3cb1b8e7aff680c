"""What a map is made of: the items that its function computed, checked one by one, as the JSON that its node reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.definition.codecs import codec_of
from orchestrator.errors import InvalidInput, InvalidOutput, PayloadTooLarge, type_name

if TYPE_CHECKING:
    from orchestrator.definition.codecs import Codec
    from orchestrator.definition.flow import Map

MOST_ITEMS = 100_000


def items_of(step: Map, items: object, *, largest: int) -> list[bytes]:
    """Return the items of a map as JSON.

    Args:
        step: The map.
        items: What its function returned.
        largest: Most bytes of one item.

    Raises:
        InvalidOutput: They are no list, or too many.
        InvalidInput: One does not fit the node; its index is in the message.
        PayloadTooLarge: One is too large.
    """
    contract = step.node.contract
    assert contract.input is not None  # noqa: S101 - `build()` refuses a node without a parameter
    as_given = codec_of(Any) if contract.style == "fields" else contract.input
    if not isinstance(items, list | tuple):
        raise InvalidOutput(f"over of {step.name} returned {type_name(type(items))}; return a list")
    if len(items) > MOST_ITEMS:
        raise InvalidOutput(f"over of {step.name} returned {len(items)} items; at most {MOST_ITEMS} can be")
    found = []
    for index, item in enumerate(items):
        found.append(_written(index, item, contract.input, as_given))
        if len(found[-1]) > largest:
            raise PayloadTooLarge(f"item {index} of {step.node.name}", len(found[-1]), largest)
    return found


def _written(index: int, item: object, codec: Codec[Any], as_given: Codec[Any]) -> bytes:
    try:
        codec.check(item)
        return as_given.dump(item, error=InvalidInput)
    except InvalidInput as error:
        raise InvalidInput(f"item {index}: {error.message}") from None
