"""Rows of what waits for somebody outside, of all runs, oldest first; and what lies in an inbox unchecked."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.definition.plan import node_of
from orchestrator.store.run_store import instant

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from orchestrator.store.run_store import Store

KINDS = ("approval", "signal", "callback")
"""What somebody outside can be asked for."""
ROWS_AT_ONCE = 500


@dataclass(frozen=True)
class WaitingRow:
    """A node that waits for somebody outside.

    Attributes:
        run_id: Its run.
        flow: The run's flow.
        node: The node.
        kind: "approval", "signal" or "callback".
        since: Since when it waits; aware, on Redis's clock.
        until: Until when it waits at most; None: as long as it takes.
        name: The name by which it is answered: of a signal the signal's, else the node's.
        quorum: Of an approval: votes that it takes.
        approvers: Of an approval: who may vote; None: anybody.
        votes: Of an approval: who has approved.
    """

    run_id: str
    flow: str
    node: str
    kind: str
    since: datetime
    until: datetime | None
    name: str
    quorum: int = 0
    approvers: tuple[str, ...] | None = None
    votes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the row as JSON values."""
        until = self.until.isoformat() if self.until else None
        return asdict(self) | {"since": self.since.isoformat(), "until": until}


def read_waiting(store: Store, *, flow: str | None, kind: str | None, limit: int) -> list[WaitingRow]:
    """Return what waits, oldest first; rows of nodes that wait no more are taken away.

    Args:
        store: The store.
        flow: Only of this flow.
        kind: Only of this kind.
        limit: At most so many.

    Raises:
        ValueError: The kind or the limit is none.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    if limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    with store.guarded():
        found = [row for each in KINDS if kind in {None, each} for row in _rows_of(store, each, flow, limit)]
    return sorted(found, key=lambda row: row.since)[:limit]


def count_waiting(store: Store, kind: str) -> int:
    """Return how many nodes wait for one kind of answer."""
    with store.guarded():
        return int(store.client.zcard(store.keys.waiting(kind)))


def _rows_of(store: Store, kind: str, flow: str | None, limit: int) -> Iterator[WaitingRow]:
    key, first, left = store.keys.waiting(kind), 0, limit
    while left > 0:
        members = [member.decode() for member in store.client.zrange(key, first, first + ROWS_AT_ONCE - 1)]
        for member, flow_name, plan_hash, record in _records(store, members):
            if record.get("state") != "waiting":
                store.client.zrem(key, member)
                # Those behind it have moved up by one: without this the next read would pass over as many as were taken
                # away.
                first -= 1
            elif flow in {None, flow_name} and left > 0:
                left -= 1
                yield _row(store, member, flow_name, plan_hash, record)
        first += len(members)
        if len(members) < ROWS_AT_ONCE:
            return


def _records(store: Store, members: list[str]) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    pipe = store.client.pipeline(transaction=False)
    for run_id, _, node in (member.partition("|") for member in members):
        pipe.hmget(store.keys.run(run_id), "flow", "plan")
        pipe.hget(store.keys.nodes(run_id), node)
    answers = iter(pipe.execute() if members else [])
    for member, (flow, plan_hash), record in zip(members, answers, answers, strict=False):
        yield member, (flow or b"").decode(), (plan_hash or b"").decode(), json.loads(record or b"{}")


def _row(store: Store, member: str, flow: str, plan_hash: str, record: dict[str, Any]) -> WaitingRow:
    run_id, _, node = member.partition("|")
    plan = store.plan(plan_hash)
    gate = plan.nodes[node_of(node)].gate if plan else {}
    approvers = gate.get("approvers")
    since = instant(record["since"])
    assert since is not None  # noqa: S101 - every record has it
    return WaitingRow(
        run_id,
        flow,
        node,
        record["waits"],
        since,
        instant(record.get("due")),
        gate.get("of", node),
        gate.get("quorum", 0),
        None if approvers is None else tuple(approvers),
        tuple(vote["by"] for vote in record.get("votes", ())),
    )


def unchecked_signal(store: Store, run_id: str, name: str) -> tuple[int, bytes] | None:
    """Return the oldest entry of a signal that nobody has checked: its number and its JSON; see gates.lua."""
    key = store.keys.inbox(run_id)
    with store.guarded():
        first, behind = (int(number or 0) for number in store.client.hmget(key, f"first|{name}", f"next|{name}"))
        for number in range(first, behind):
            entry: bytes = store.client.hget(key, f"value|{name}|{number}") or b""
            if entry.startswith(b"0"):
                return number, entry[1:]
    return None
