"""Limits that an attempt asks itself: whose buckets depend on its input, or of which it takes tokens while it runs.

A key function is a user's; what becomes of an attempt that has to wait before it starts, the script decides.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from orchestrator.definition.registry import key_functions
from orchestrator.errors import InvalidInput, type_name
from orchestrator.store.keys import bucket_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.definition.node import Node
    from orchestrator.definition.plan import NodePlan, Plan
    from orchestrator.store.run_store import Store
    from orchestrator.store.scripts.results import Admitted

LONGEST_KEY = 1000


def buckets_of(node_plan: NodePlan, node: Node[Any, Any], flow: str, given: object) -> list[str]:
    """The buckets of a node for what its key functions are given.

    Raises:
        InvalidInput: A key is no text, or too long.
    """
    functions = key_functions(node, flow)
    return [
        bucket_for(limit, functions[limit](given)) if limit in node_plan.keyed else limit for limit in node_plan.limits
    ]


def bucket_for(limit: str, key: object) -> str:
    """The bucket that a limit has for a key.

    Raises:
        InvalidInput: The key is no text, or too long.
    """
    if not isinstance(key, str):
        told = f"the key function of limit {limit} returned {type_name(type(key))}; return a text"
        raise InvalidInput(told)
    if len(key) > LONGEST_KEY:
        told = f"the key function of limit {limit} returned {len(key)} characters; return at most {LONGEST_KEY}"
        raise InvalidInput(told)
    return bucket_of(limit, key)


def admit(
    store: Store, plan: Plan, claim: tuple[str, str, str, str], *, buckets: Sequence[str], follows: bool
) -> Admitted:
    """Take a token of each bucket, sleeping once for one that comes soon, or wait in its queue without a worker."""
    may_sleep = True
    while True:
        with store.guarded():
            admitted = store.scripts.admit(*claim, buckets=buckets, may_sleep=may_sleep, follows=follows)
            if admitted.outcome == "no limit":
                store.define_limits(plan)
        if admitted.outcome == "sleep":
            time.sleep(admitted.sleep / 1_000_000)
            # One nap: a token that others have taken meanwhile is waited for in line, where it holds no process.
            may_sleep = False
        elif admitted.outcome != "no limit":
            return admitted
