"""Handle by which a running attempt reaches the store while its function runs.

It asks whether the run is ending, reports progress, and takes tokens for calls that the function makes in a loop.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.definition.plan import node_of
from orchestrator.definition.policies import SLOTS
from orchestrator.errors import StoreError, Terminal
from orchestrator.execution.keyed_limits import bucket_for
from orchestrator.execution.store_retries import retry_until_stored
from orchestrator.store.callbacks import Callback
from orchestrator.store.keys import limit_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.definition.plan import Plan
    from orchestrator.execution.heartbeat import Heartbeat
    from orchestrator.store.run_store import Store

logger = logging.getLogger(__name__)
LONGEST_SLEEP_S = 1.0
PATIENCE_S = 0.25


@dataclass(frozen=True)
class AttemptHandle:
    """The claim that an attempt holds.

    Attributes:
        store: The store.
        plan: The run's plan.
        code: The plan of the code that runs, which may be of another version.
        run_id: The run.
        node: The node, item or compensation.
        token: What fences the claim.
        own: Buckets that depend on its input.
        undoes: Whether it is a compensation's, which goes on in a run that is ending.
        generation: The node's generation.
        heartbeat: Of a node with a heartbeat timeout: what keeps the attempt alive.
    """

    store: Store
    plan: Plan
    code: Plan
    run_id: str
    node: str
    token: str
    own: Sequence[str] = ()
    undoes: bool = False
    generation: int = 0
    heartbeat: Heartbeat | None = None

    def is_cancelled(self) -> bool:
        """Whether the run is ending; not while Redis is away: then it is not known, and no failure of the node."""
        if self.undoes:
            return False
        try:
            with self.store.guarded():
                return self.store.is_ending(self.run_id)
        except StoreError:
            return False

    def report(self, detail: object) -> None:
        """Store what the attempt says of its progress; lost while Redis is away."""
        told = json.dumps(detail, allow_nan=False)
        moved_ms = 0 if self.heartbeat is None else self.heartbeat.beat()
        try:
            with self.store.guarded():
                self.store.scripts.report(self.run_id, self.plan.hash, self.node, self.token, told, ends_in_ms=moved_ms)
        except StoreError as error:
            if self.heartbeat is not None:
                self.heartbeat.lose()
            logger.warning(
                "flow %s run %s node %s: its heartbeat is lost: %s", self.plan.flow, self.run_id, self.node, error
            )

    def last_told(self) -> object:
        """What the attempts before this one have told last; see `NodeContext.last_heartbeat`."""
        read = partial(self.store.node, self.run_id, self.node)
        record = retry_until_stored(self.store, (self.plan.flow, self.run_id, self.node), read)
        return json.loads(record["told"]) if "told" in record else None

    def take(self, name: str, key: str | None) -> None:
        """Sleep until a token is there; see `NodeContext.limit`."""
        bucket = self._bucket(name, key)
        while (outcome := self._ask(bucket))[0] == "wait":
            time.sleep(min(outcome[1] / 1_000_000, LONGEST_SLEEP_S))  # asked again in time to stay before the line
        if outcome[0] != "taken":
            raise Terminal(f"node {self.node}: this attempt does not hold its node any more")

    def callback(self) -> str:
        """The text of the node's callback; see `NodeContext.callback`."""
        if self.undoes or self.plan.nodes[node_of(self.node)].paged:
            raise Terminal(f"node {self.node}: neither a compensation nor a page can wait for a callback")
        ask = partial(self.store.scripts.outside.open_callback, self.run_id, self.plan.hash, self.node, self.token)
        place = (self.plan.flow, self.run_id, self.node)
        secret = retry_until_stored(self.store, place, partial(ask, secrets.token_hex(16)))
        if secret in {"fenced", "unknown"}:
            raise Terminal(f"node {self.node}: this attempt does not hold its node any more")
        return Callback(self.run_id, self.node, self.generation, 0, secret).text

    def _ask(self, bucket: str) -> tuple[str, int]:
        while True:
            try:
                with self.store.guarded():
                    outcome, wait = self.store.scripts.take_token(
                        self.run_id, self.plan.hash, self.node, self.token, bucket
                    )
                    if outcome != "no limit":
                        return outcome, wait
                    # Its numbers are gone (a flushed key), and a plan has them.
                    self.store.define_limits(self.plan if limit_of(bucket) in self.plan.limits else self.code)
            except StoreError:
                # Until the node's own time limit: a limit that lets calls pass while Redis is away would be none.
                time.sleep(PATIENCE_S)

    def _bucket(self, name: str, key: str | None) -> str:
        """The bucket of a limiter, by the run's plan; code of another version is not held to what it cannot know."""
        known = {limit for plan in (self.plan, self.code) for limit in plan.limits if not limit.startswith(SLOTS)}
        if name not in known:
            there = ", ".join(sorted(known)) or "none"
            raise Terminal(f"limit({name!r}): flow {self.plan.flow} has no limiter of this name; it has {there}")
        is_keyed = name in (self.plan if name in self.plan.limits else self.code).keyed
        is_same = name in self.plan.limits and is_keyed == (name in self.code.keyed)
        if not is_keyed and key is not None and is_same:
            raise Terminal(f"limit({name!r}): the limiter has no key function; leave the key out")
        if not is_keyed:
            return name
        if key is not None:
            return bucket_for(name, key)
        mine = [bucket for bucket in self.own if limit_of(bucket) == name]
        if not mine and is_same:
            raise Terminal(
                f"limit({name!r}): the limiter has a bucket for each key, and this node has none; give it a key"
            )
        return mine[0] if mine else name
