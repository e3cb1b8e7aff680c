"""Verdict on a server that may throw keys of runs away: when it is full, under other settings only, or never."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import redis

from orchestrator.errors import StoreRefused
from orchestrator.store.refusals import refusal_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.store.run_store import Store

ANY_KEY = "allkeys-"
"""Policies that throw away whatever is used least; others take only keys with a TTL, which no live run has."""


@dataclass(frozen=True)
class Eviction:
    """What is wrong with the server of the runs.

    Attributes:
        problem: One sentence, and what to do.
        takes_live_runs: Whether it throws keys of live runs away as soon as it is full.
    """

    problem: str
    takes_live_runs: bool = False


def eviction_of(place: str, memory: Mapping[str, Any] | None) -> Eviction | None:
    """Say so if the server of the runs may throw keys away.

    Args:
        place: Where it is.
        memory: What it says of its memory, `INFO memory`; None if it does not tell this user.
    """
    if memory is None or "maxmemory_policy" not in memory:
        return Eviction(
            f"Redis at {place} does not say whether it throws keys away: make sure that it has maxmemory-policy "
            "noeviction, and let its user call INFO"
        )
    policy, has_limit = str(memory["maxmemory_policy"]), bool(int(memory.get("maxmemory", 0)))
    if policy == "noeviction":
        return None
    takes_any = policy.startswith(ANY_KEY)
    loss = "runs vanish in silence" if takes_any else "records of ended runs vanish before their retention is over"
    when = "when it is full" if has_limit else "as soon as a maxmemory is set"
    return Eviction(
        f"Redis at {place} has maxmemory-policy {policy}: {when}, {loss}. Set maxmemory-policy noeviction, or give "
        "runs a server of their own by Orchestrator(app, redis_url=...)",
        takes_live_runs=takes_any and has_limit,
    )


def find_eviction(store: Store) -> Eviction | None:
    """Ask the server of the runs whether it may throw keys away; None where it does not.

    Raises:
        redis.RedisError: It did not answer.
    """
    try:
        return eviction_of(store.place, store.server_info("memory"))
    except redis.ResponseError as error:  # some managed servers, and users with few rights, are not told
        refusal = refusal_of(error)
        if refusal is not None and refusal.raised is not StoreRefused:
            raise
        return eviction_of(store.place, None)
