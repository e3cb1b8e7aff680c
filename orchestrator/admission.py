"""Limits that an attempt asks itself: whose buckets depend on its input, or of which it takes tokens while it runs.

A key function is a user's; what becomes of an attempt that has to wait before it starts, the script decides.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.errors import InvalidInput, StoreError, Terminal, type_name
from orchestrator.keys import bucket_of, limit_of
from orchestrator.plan import SLOTS, limits_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestrator.node import Node
    from orchestrator.plan import NodePlan, Plan
    from orchestrator.scripts import Admitted
    from orchestrator.store import Store

LONGEST_KEY = 1000
LONGEST_SLEEP_S = 1.0
PATIENCE_S = 0.25


@dataclass(frozen=True)
class Input:
    """What a function takes, computed before its attempt may start."""

    value: Any


def key_functions(node: Node[Any, Any], flow: str) -> Mapping[str, Callable[[Any], str]]:
    """The key functions of a node's limits, by the names that the plan gives the limits."""
    if node.rate_limit is None and not node.shared_rate_limits:
        return {}
    return {name: limit.key for name, limit in limits_of(node, flow).items() if limit.key is not None}


def buckets_of(facts: NodePlan, node: Node[Any, Any], flow: str, given: object) -> list[str]:
    """The buckets of a node for what its key functions are given.

    Raises:
        InvalidInput: A key is no text, or too long.
    """
    functions = key_functions(node, flow)
    return [_bucket(limit, functions[limit](given)) if limit in facts.keyed else limit for limit in facts.limits]


def _bucket(limit: str, key: object) -> str:
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
    """Take a token of each bucket, sleeping once for one that comes soon, or wait in line without a worker."""
    may_sleep = True
    while True:
        with store.guarded():
            admitted = store.scripts.admit(*claim, buckets=buckets, may_sleep=may_sleep, follows=follows)
            if admitted.outcome == "no limit":
                store.define_limits(plan)
        if admitted.outcome == "sleep":
            time.sleep(admitted.sleep / 1_000_000)
            may_sleep = False
        elif admitted.outcome != "no limit":
            return admitted


@dataclass(frozen=True)
class Tokens:
    """Tokens for the calls that a running attempt makes.

    Attributes:
        store: The store.
        plan: The run's plan.
        claim: Run, plan, node and token of the attempt.
        own: Buckets that depend on its input.
    """

    store: Store
    plan: Plan
    claim: tuple[str, str, str, str]
    own: Sequence[str] = ()

    def take(self, name: str, key: str | None) -> None:
        """Sleep until a token is there; see `NodeContext.limit`."""
        bucket = self._bucket(name, key)
        while (outcome := self._ask(bucket))[0] == "wait":
            time.sleep(min(outcome[1] / 1_000_000, LONGEST_SLEEP_S))  # asked again in time to stay before the line
        if outcome[0] != "taken":
            raise Terminal(f"node {self.claim[2]}: this attempt does not hold its node any more")

    def _ask(self, bucket: str) -> tuple[str, int]:
        while True:
            try:
                with self.store.guarded():
                    outcome, wait = self.store.scripts.take(*self.claim, bucket)
                    if outcome != "no limit":
                        return outcome, wait
                    self.store.define_limits(self.plan)  # its numbers are gone (a flushed key): the plan has them
            except StoreError:
                time.sleep(PATIENCE_S)

    def _bucket(self, name: str, key: str | None) -> str:
        known = sorted(limit for limit in self.plan.limits if not limit.startswith(SLOTS))
        if name not in known:
            there = ", ".join(known) or "none"
            raise Terminal(f"limit({name!r}): flow {self.plan.flow} has no limiter of this name; it has {there}")
        is_keyed = name in self.plan.keyed
        if not is_keyed and key is not None:
            raise Terminal(f"limit({name!r}): the limiter has no key function; leave the key out")
        if not is_keyed:
            return name
        if key is not None:
            return _bucket(name, key)
        mine = [bucket for bucket in self.own if limit_of(bucket) == name]
        if not mine:
            raise Terminal(
                f"limit({name!r}): the limiter has a bucket for each key, and this node has none; give it a key"
            )
        return mine[0]
