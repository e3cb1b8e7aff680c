"""Parts that were set aside: what a reconciler cannot handle is named here, and everything else goes on without it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.store.keys import Keys

KEPT = 1000
"""So many are named at most; more of them are handled alike, but named in logs only."""


@dataclass(frozen=True)
class SetAside:
    """One part that is set aside.

    Attributes:
        kind: "run", "plan", "claim", "holder", "timer", "line", "index" or "events".
        name: Its id or name; of a claim and a timer the run, "|" and the node.
        reason: What is wrong with it.
        since: When that was found, on Redis's clock; aware.
    """

    kind: str
    name: str
    reason: str
    since: datetime

    def concerns(self, run_id: str, plan_hash: str) -> bool:
        """Return whether it is a run, its plan, or a timer or claim of it."""
        return (self.kind, self.name) == ("plan", plan_hash) or self.name.partition("|")[0] == run_id


class AsideList:
    """What is set aside under one prefix. Its functions raise what redis-py does."""

    def __init__(self, client: Any, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def note(self, kind: str, name: str, reason: str, *, now_ms: int) -> None:
        """Note a part, unless it is there; its first reason stays."""
        # Not atomic: a few more than that do no harm.
        if self._client.hlen(self._keys.aside) < KEPT:
            entry = json.dumps({"reason": reason, "since": now_ms})
            self._client.hsetnx(self._keys.aside, f"{kind} {name}", entry)

    def clear(self, kind: str, name: str) -> None:
        """Forget a part: it works again, or is gone."""
        self._client.hdel(self._keys.aside, f"{kind} {name}")

    def get(self, kind: str, name: str) -> SetAside | None:
        """Return a part, if it is set aside."""
        text = self._client.hget(self._keys.aside, f"{kind} {name}")
        return _read(f"{kind} {name}", text) if text else None

    def parts(self) -> list[SetAside]:
        """Return every part, oldest first."""
        found = [_read(field.decode(), text) for field, text in self._client.hgetall(self._keys.aside).items()]
        return sorted(found, key=lambda part: part.since)


def _read(field: str, text: bytes) -> SetAside:
    kind, _, name = field.partition(" ")
    entry = json.loads(text)
    return SetAside(kind, name, entry["reason"], datetime.fromtimestamp(entry["since"] / 1000, UTC))
