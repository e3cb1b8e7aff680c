"""Workers as they announced themselves: names, queues, flows and their versions, and when each was last seen."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.store.queries import as_json
from orchestrator.store.run_store import instant

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from orchestrator.store.run_store import Store


@dataclass(frozen=True)
class WorkerRow:
    """One worker that takes flows.

    Attributes:
        id: The engine's id of it.
        name: Celery's name of it.
        queues: Queues that it consumes.
        flows: The flows whose code it has, each with its nodes.
        versions: The same flows, each with the hash of its plan there; empty for an older worker.
        processes: Tasks that its pool runs at once at most; 0 if that is not known.
        busy: Tasks that it ran when it was last seen.
        json: Whether it reads JSON, which the messages of nodes are written in.
        missing: Celery tasks of flows that its pool processes do not have.
        last_seen: When it last renewed its leases; aware, on Redis's clock.
    """

    id: str
    name: str
    queues: tuple[str, ...]
    flows: Mapping[str, tuple[str, ...]]
    versions: Mapping[str, str]
    processes: int
    busy: int
    json: bool
    missing: tuple[str, ...]
    last_seen: datetime

    def to_json(self) -> dict[str, Any]:
        """Return the row as JSON values."""
        return as_json(self)


def read_workers(store: Store) -> tuple[WorkerRow, ...]:
    """Return every worker whose lease has not ended, by name; two round trips."""
    with store.guarded():
        now = store.now_ms()
        found = store.client.zrangebyscore(store.keys.workers, now, "+inf", withscores=True)
        texts = store.client.mget([store.keys.worker(raw.decode()) for raw, _ in found]) if found else []
    rows = [
        _row(raw.decode(), lease_end - store.lease_ms, json.loads(text))
        for (raw, lease_end), text in zip(found, texts, strict=True)
        if text
    ]
    return tuple(sorted(rows, key=lambda row: (row.name, row.id)))


def name_holders(store: Store, holders: Iterable[str]) -> dict[str, str]:
    """Return for each holder of claims the name of its worker and its process id; itself if that is not known any more.

    A worker that was killed is known for ten minutes more.
    """
    known = {holder: holder.split("/") for holder in holders}
    if not known:
        return {}
    with store.guarded():
        texts = store.client.mget([store.keys.worker(parts[0]) for parts in known.values()])
    names = [json.loads(text).get("name") if text else None for text in texts]
    return {
        holder: f"{name}, process {parts[1]}" if name and len(parts) > 1 else holder
        for (holder, parts), name in zip(known.items(), names, strict=True)
    }


def _row(worker: str, seen_ms: float, state: Mapping[str, Any]) -> WorkerRow:
    last_seen = instant(seen_ms)
    assert last_seen is not None  # noqa: S101 - no score of a lease is 0
    return WorkerRow(
        id=worker,
        name=state.get("name", worker),
        queues=tuple(sorted(state["queues"])),
        flows={flow: tuple(nodes) for flow, nodes in sorted(state["flows"].items())},
        versions=dict(sorted(state.get("versions", {}).items())),
        processes=state.get("processes", 0),
        busy=state.get("busy", 0),
        json=state.get("json", True),
        missing=tuple(state.get("missing", ())),
        last_seen=last_seen,
    )
