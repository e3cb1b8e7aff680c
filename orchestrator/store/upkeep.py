"""Rows that maintenance reads and clears: who leads, what is live or expiring, which events were sent, schedule slots.

Each is one plain command on an index. What changes a run is a script; see `store.scripts`.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import redis

from orchestrator.store.event_stream import EventStream
from orchestrator.store.keys import family_of
from orchestrator.store.lost_writes import LostWrites, SweepMark

if TYPE_CHECKING:
    from collections.abc import Collection

    from orchestrator.store.keys import Keys

LOSS_KEPT_MS = 86_400_000
RECEIVED_MS = 1500
"""Time for which a message that a worker has said to hold is not taken for lost; it says so again and again."""
PAUSED = "|paused"
"""End of the field beside a schedule's slot that says why it is paused."""


class Upkeep:
    """What the reconciler, the monitor and the schedules keep in Redis beside the runs.

    Args:
        client: The client of the store.
        keys: Its keys.
    """

    def __init__(self, client: Any, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self.run_events = EventStream(client, keys.events, keys.sweep, "events")
        self.node_events = EventStream(client, keys.node_events, keys.sweep, "node-events")

    def step_down(self, worker: str) -> None:
        """Let another worker lead at once."""
        # Not atomic: the lock may pass to another worker in between. Two leaders, or none for a moment, are harmless.
        if self._client.get(self._keys.leader) == worker.encode():
            self._client.delete(self._keys.leader)

    def holders(self) -> list[tuple[str, float]]:
        """Every process that has a lease, with the end of it in ms."""
        rows = self._client.zrange(self._keys.holders, 0, -1, withscores=True)
        return [(holder.decode(errors="replace"), lease_end) for holder, lease_end in rows]

    def timers(self) -> int:
        """How many nodes wait for an instant, such as their next attempt, and how many runs have a deadline."""
        return int(self._client.zcard(self._keys.timers))

    def bring_looks_forward(self, now: int, *, to: int, count: int) -> None:
        """Let the runs whose look is the next be looked at at an instant, those that were due later."""
        soon = self._client.zrangebyscore(self._keys.live, now, "+inf", 0, count)
        if soon:
            # XX: a run that has ended since the line above must not be brought back among the live ones.
            self._client.zadd(self._keys.live, dict.fromkeys(soon, to), xx=True, lt=True)

    def live_runs(self, *, count: int) -> list[str]:
        """Runs that have not ended."""
        return _texts(self._client.zrange(self._keys.live, 0, count - 1))

    def count_live(self) -> int:
        """How many runs have not ended."""
        return int(self._client.zcard(self._keys.live))

    def note_received(self, members: Collection[str], now: int) -> None:
        """Note for a moment which nodes have a message that waits in a worker, each as run, | and node."""
        pipe = self._client.pipeline(transaction=False)
        pipe.zadd(self._keys.received, dict.fromkeys(members, now + RECEIVED_MS))
        pipe.zremrangebyscore(self._keys.received, "-inf", now)
        pipe.pexpire(self._keys.received, RECEIVED_MS)
        pipe.execute()

    def received(self, now: int) -> frozenset[str]:
        """Nodes that were noted so a moment ago."""
        return frozenset(_texts(self._client.zrangebyscore(self._keys.received, now, "+inf")))

    def forget_timer(self, run_id: str, node: str) -> None:
        """Take away a timer of a run without a record."""
        self._client.zrem(self._keys.timers, f"{run_id}|{node}")

    def await_wake(self, seconds: float) -> bool:
        """Wait until a script has stored an instant that comes soon, or for so long; False if the server refuses it."""
        try:
            self._client.blpop([self._keys.wake], timeout=seconds)
        except redis.exceptions.NoPermissionError:
            return False
        return True

    def timeout(self, run_id: str) -> float | None:
        """The instant in ms at which a run reaches its time limit; None without a limit."""
        due: float | None = self._client.zscore(self._keys.timers, f"{run_id}|")
        return due

    def put_back_live(self, now: int, *, status: str, first: int, count: int) -> bool:
        """Let runs with a status of unfinished ones be looked at; returns whether there are more behind them."""
        found = self._client.zrange(self._keys.by_status(status), first, first + count - 1)
        if found:
            # NX: a run that is in the index keeps the back-off of its next look.
            self._client.zadd(self._keys.live, dict.fromkeys(found, now), nx=True)
        return len(found) == count

    def look_later(self, kind: str, name: str, at: int) -> None:
        """Move the next look at a run, a timer or a line; of other kinds nothing is due."""
        keys = {"run": self._keys.live, "timer": self._keys.timers, "line": self._keys.wait_queues}
        if kind in keys:
            # XX, as above: what is gone is not to come back.
            self._client.zadd(keys[kind], {name: at}, xx=True)

    def holders_of_slots(self, slots: str, *, count: int) -> list[list[str]]:
        """Run, node and token of claims that hold one of some slots, those that began first."""
        return [row.split("|") for row in _texts(self._client.zrange(self._keys.held(slots), 0, count - 1))]

    def free_slot(self, slots: str, run_id: str, node: str, token: str) -> None:
        """Free the slot of a claim that has ended."""
        self._client.zrem(self._keys.held(slots), f"{run_id}|{node}|{token}")

    def clean_indexes(self, now: int, *, count: int) -> bool:
        """Take runs whose retention is over off the indexes; returns whether there may be more."""
        members = _texts(self._client.zrangebyscore(self._keys.expiring, "-inf", now, 0, count))
        rows: defaultdict[str, list[str]] = defaultdict(list)
        histories = []
        for member in members:
            status, _, rest = member.partition("|")
            flow, _, run_id = rest.partition("|")
            group = f"{family_of(run_id)}{status}"
            for index in (self._keys.by_status(group), self._keys.by_flow(flow, group), self._keys.older_by_flow(flow)):
                rows[index].append(run_id)
            histories.append(self._keys.history(run_id))  # has no lifetime if version 0.1.0 ended the run
        tags = _texts(self._client.zrangebyscore(self._keys.expiring_tags, "-inf", now, 0, count))
        for member in tags:
            index, _, run_id = member.partition("|")
            rows[f"{self._keys.index}:{index}"].append(run_id)
        rows |= {self._keys.expiring: members, self._keys.expiring_tags: tags}  # last: a crash repeats those above
        pipe = self._client.pipeline(transaction=False)
        if histories:
            pipe.delete(*histories)
        for index, found in rows.items():
            if found:
                pipe.zrem(index, *found)
        pipe.execute()
        return count in {len(members), len(tags)}

    def sweep_mark(self, worker: str) -> SweepMark | None:
        """What a worker's last sweep as the leader has left; None if that is gone."""
        return SweepMark.of(self._client.get(self._keys.sweep_mark(worker)))

    def note_loss(self, lost: LostWrites) -> None:
        """Keep for a day that writes are gone."""
        self._client.set(self._keys.lost, lost.text(), px=LOSS_KEPT_MS)

    def loss(self) -> LostWrites | None:
        """Writes that a worker has missed within the last day, the last ones; None if there are none."""
        return LostWrites.of(self._client.get(self._keys.lost))

    def is_pending(self, run_id: str) -> bool:
        """Whether nothing of a run has begun."""
        return bool(self._client.hget(self._keys.run(run_id), "status") == b"pending")

    def lineage(self, run_id: str) -> tuple[str, str]:
        """The run that started a run, and the root of both; each empty if there is none."""
        parent, root = self._client.hmget(self._keys.run(run_id), "parent", "root")
        return (parent or b"").decode(), (root or b"").decode()

    def note_eviction(self, problem: str, *, keep_ms: int) -> None:
        """Tell every start for a while that the server throws keys of live runs away; "": that it does not."""
        if problem:
            self._client.set(self._keys.evicts, problem, px=keep_ms)
        else:
            self._client.delete(self._keys.evicts)

    def remember_slots(self, flow: str, wanted: Collection[str], now: int) -> None:
        """Give every schedule of a flow a first slot, and drop those that its code does not have any more."""
        for slot in wanted:
            # Only where there is none: a worker that starts must not jump over ticks that are still due.
            self._client.hsetnx(self._keys.slots, slot, now)
        for raw in self._client.hkeys(self._keys.slots):
            slot = raw.decode().split("|")[0]
            if slot.split(":")[0] == flow and slot not in wanted:
                self._client.hdel(self._keys.slots, raw)

    def bytes_of_run(self, run_id: str) -> int:
        """Return about how many bytes of memory the record of a run takes; items and pages of its maps not counted."""
        keys = self._keys
        pipe = self._client.pipeline(transaction=False)
        for key in (keys.run, keys.nodes, keys.outputs, keys.failures, keys.history):
            pipe.memory_usage(key(run_id))
        return sum(int(size or 0) for size in pipe.execute())

    def slot_rows(self) -> tuple[dict[str, str], float]:
        """What is kept of schedules: instants, last runs by `<slot>|run`, notes of pauses; and the time in s."""
        pipe = self._client.pipeline(transaction=False)
        pipe.hgetall(self._keys.slots)
        pipe.time()
        rows, (seconds, micros) = pipe.execute()
        return {name.decode(): value.decode() for name, value in rows.items()}, seconds + micros / 1_000_000

    def pause_slot(self, slot: str, note: str) -> None:
        """Keep a note that makes a schedule start nothing."""
        self._client.hset(self._keys.slots, slot + PAUSED, note)

    def unpause_slot(self, slot: str) -> None:
        """Drop the note of a pause."""
        self._client.hdel(self._keys.slots, slot + PAUSED)

    def is_paused(self, slot: str) -> bool:
        """Return whether a schedule is paused."""
        return bool(self._client.hexists(self._keys.slots, slot + PAUSED))

    def last_slot(self, slot: str) -> int | None:
        """The instant in ms up to which a schedule was started; None if it has none."""
        last = self._client.hget(self._keys.slots, slot)
        return int(last) if last else None


def _texts(rows: list[bytes]) -> list[str]:
    # One row that is no text, as a stranger may have written it, must be refused alone: raised here it would end the
    # sweep.
    return [row.decode(errors="replace") for row in rows]
