"""Past of an ended run up to a position: what is read of it to decide what a fork takes over.

Of maps only what says how much there is, so that a run of 100,000 items costs no more than another one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.store.output_parts import IN_PARTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.definition.plan import Plan
    from orchestrator.store.run_store import Store

READ_AT_ONCE = 200


@dataclass(frozen=True)
class Past:
    """What a run has stored of the nodes before a position.

    Attributes:
        records: Node to its record.
        sizes: Output key to the bytes of its output, where there is one.
        parted: Output key to what stands for an output that is stored in parts, see `output_parts`.
    """

    records: Mapping[str, dict[str, Any]]
    sizes: Mapping[str, int]
    parted: Mapping[str, bytes]


def read_past(store: Store, run_id: str, plan: Plan, position: int) -> Past:
    """Read what a run has stored of the nodes before a position.

    Raises:
        StoreUnavailable: Redis did not answer.
    """
    before = [node for node in plan.nodes.values() if node.step < position and not node.undoes]
    keys = list(dict.fromkeys(node.key for node in before if node.key))
    in_parts = list(dict.fromkeys(node.key for node in before if node.key in plan.list_keys or node.paged))
    records: dict[str, dict[str, Any]] = {}
    sizes: dict[str, int] = {}
    parted: dict[str, bytes] = {}
    outputs = store.keys.outputs(run_id)
    with store.guarded():
        for first in range(0, len(before), READ_AT_ONCE):
            names = [node.name for node in before[first : first + READ_AT_ONCE]]
            texts = store.client.hmget(store.keys.nodes(run_id), names)
            records |= {name: json.loads(text) for name, text in zip(names, texts, strict=True) if text}
        for first in range(0, len(keys), READ_AT_ONCE):
            pipe = store.client.pipeline(transaction=False)
            some = keys[first : first + READ_AT_ONCE]
            for key in some:
                pipe.hstrlen(outputs, key)
            sizes |= {key: size for key, size in zip(some, pipe.execute(), strict=True) if size}
        for key in in_parts:
            value: bytes | None = store.client.hget(outputs, key)
            if value is not None and value.startswith(IN_PARTS):
                parted[key] = value
    return Past(records, sizes, parted)
