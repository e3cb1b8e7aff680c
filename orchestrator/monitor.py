"""How runs show in Flower and other Celery monitors: each run as a task of its own, the parent of its nodes' tasks.

The transitions leave starts and ends of runs in a stream; the leading reconciler sends them on as task events, if
this worker sends events at all. Nothing else depends on it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from celery.events import EventDispatcher

from orchestrator.publisher import BROKER_ERRORS

if TYPE_CHECKING:
    from orchestrator.engine import Engine

logger = logging.getLogger(__name__)
SENT_FIELD = "events"
AT_ONCE = 500
HOSTNAME = "flows@orchestrator"


class Monitor:
    """Sends the events of runs from one worker."""

    def __init__(self, engine: Engine, worker: Any) -> None:
        self.engine = engine
        self.worker = worker

    def forward(self) -> None:
        """Send what happened since the last time; without a monitor it is only skipped."""
        store = self.engine.store
        last = store.client.hget(store.keys.sweep, SENT_FIELD) or b"0"
        entries = store.client.xrange(store.keys.events, min=b"(" + last if last != b"0" else "-", count=AT_ONCE)
        if not entries:
            return
        if self._is_watched():
            try:
                self._send(entries)
            except BROKER_ERRORS as error:
                logger.warning("events of runs are not sent: %s", error)
                return
        store.client.hset(store.keys.sweep, SENT_FIELD, entries[-1][0])

    def _is_watched(self) -> bool:
        consumer = getattr(self.worker, "consumer", None)
        return bool(getattr(getattr(consumer, "event_dispatcher", None), "enabled", False))

    def _send(self, entries: list[tuple[bytes, dict[bytes, bytes]]]) -> None:
        app = self.engine.app
        with (
            app.connection_for_write() as connection,
            EventDispatcher(connection, hostname=HOSTNAME, app=app) as sender,
        ):
            for entry, row in entries:
                at = int(entry.split(b"-")[0]) / 1000
                self._send_one(sender, at, {name.decode(): value.decode() for name, value in row.items()})

    def _send_one(self, sender: EventDispatcher, at: float, row: dict[str, str]) -> None:
        run_id, event = row["run"], row["event"]
        common = {"uuid": run_id, "timestamp": at, "root_id": run_id}
        if event in {"started", "resumed"}:
            name = f"flow:{row['flow']}"
            sender.send("task-received", name=name, args=f"({run_id!r},)", kwargs="{}", retries=0, **common)
            sender.send("task-started", **common)
        elif event == "succeeded":
            sender.send("task-succeeded", result=event, runtime=float(row["detail"]) / 1000, **common)
        else:
            sender.send("task-failed", exception=f"run {event}: {self._error(run_id)}", traceback="", **common)

    def _error(self, run_id: str) -> str:
        pinned = self.engine.pinned(run_id)
        return str(pinned[0].error) if pinned else "its record is gone"
