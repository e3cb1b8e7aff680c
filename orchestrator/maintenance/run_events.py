"""Send starts and ends of runs to Flower and other Celery monitors: each run as a task, the parent of its nodes' tasks.

The transitions append starts and ends of runs to a stream; the leading reconciler forwards them as task events while a
monitor listens, a child run as the child of the run that started it. Nothing else depends on it, and what happened
while no monitor listened is not sent later.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from orchestrator.errors import UnknownRun
from orchestrator.hooks import UNDER_WAY
from orchestrator.liveness.pool_processes import note_watching
from orchestrator.maintenance.node_events import NodeEvents
from orchestrator.messaging.publisher import BROKER_ERRORS
from orchestrator.store.keys import is_child

if TYPE_CHECKING:
    from celery.events import EventDispatcher

    from orchestrator.engine import Engine

logger = logging.getLogger(__name__)
EVENTS_AT_ONCE = 500
HOSTNAME = "flows@orchestrator"
"""Sender of the events, whichever worker leads: a monitor shows it as a worker that counts runs."""
ALIVE_EVERY_S = 30


class Monitor:
    """Sends the events of runs from one worker."""

    def __init__(self, engine: Engine, worker: Any) -> None:
        self.engine = engine
        self.worker = worker
        self._nodes = NodeEvents(engine)
        self._was_watched = True
        self._alive_at = -float(ALIVE_EVERY_S)

    def forward(self) -> None:
        """Send what happened since any worker last did; skip it if neither a monitor nor a middleware listens."""
        # Watched as it begins, so that a new leader continues where the last one stopped.
        was_watched, self._was_watched = self._was_watched, self.is_watched()
        middlewares, upkeep = self.engine.middlewares, self.engine.store.upkeep
        is_sent = was_watched and self._was_watched
        wanted = (
            (upkeep.run_events, is_sent or middlewares.wants_runs),
            (upkeep.node_events, is_sent or middlewares.wants_nodes),
        )
        unsent = [(stream, stream.unsent(count=EVENTS_AT_ONCE) if is_wanted else []) for stream, is_wanted in wanted]
        entries = sorted((entry for _, found in unsent for entry in found), key=_order)
        try:
            if self._was_watched:
                # An event that raises is sent again, as it is not marked as sent.
                with self.engine.publisher.dispatcher(HOSTNAME) as sender:
                    self._stay_alive(sender)
                    if was_watched:
                        for at, row in entries:
                            (self._nodes.send if "node" in row else self._send_entry)(sender, at, row)
                    else:
                        self._send_live(sender)
        # Not marked as sent: they are sent when the broker is back, as far as the stream still has them.
        except BROKER_ERRORS as error:
            logger.warning("events of runs are not sent: %s", error)
            return
        for _, row in entries:
            if "node" in row:
                self._nodes.announce(row)
            else:
                middlewares.after_run(row["run"], row["flow"], row["event"])
        # After the sending: a leader that dies before this line has events sent twice, rather than never.
        for (stream, found), (_, is_wanted) in zip(unsent, wanted, strict=True):
            if found:
                stream.mark_sent(found[-1][1]["entry"])
            elif not is_wanted:
                stream.skip()

    def note_watching(self) -> None:
        """Inform the pool processes whether a monitor wants events of nodes that have no message of their own."""
        note_watching(is_watched=self.is_watched())

    def is_watched(self) -> bool:
        """Whether a monitor listens to events of tasks."""
        # The dispatcher itself is always on, for heartbeats; a monitor adds the group of task events to its groups.
        dispatcher = getattr(getattr(self.worker, "consumer", None), "event_dispatcher", None)
        return bool(dispatcher and dispatcher.enabled and (not dispatcher.groups or "task" in dispatcher.groups))

    def _send_live(self, sender: EventDispatcher) -> None:
        """Send the live runs to a monitor that has just connected."""
        store = self.engine.store
        for run_id in store.upkeep.live_runs(count=EVENTS_AT_ONCE):
            try:
                record = store.run(run_id)
            except UnknownRun:
                continue
            at = record.created.timestamp()
            # Fields of that name beat the event's own timestamp, which has to be now: an old one is taken for a
            # clock that is wrong.
            common = self._event_fields(record.run_id, record.flow)
            sender.send("task-received", received=at, **common)
            sender.send("task-started", started=at, **common)
        self._nodes.send_waiting(sender)

    def _send_entry(self, sender: EventDispatcher, at: float, row: dict[str, str]) -> None:
        event, run_id = row["event"], row["run"]
        common = self._event_fields(run_id, row["flow"]) | {"timestamp": at}
        if event == "started":
            sender.send("task-received", **common)
            sender.send("task-started", **common)
        elif event == "resumed":
            # Only a retry leads a monitor from an end back to a start.
            sender.send("task-retried", exception="the run was resumed", traceback="", **common)
            sender.send("task-started", exception=None, traceback=None, **common)
        elif event == "succeeded":
            sender.send("task-succeeded", result=event, runtime=float(row["detail"]) / 1000, **common)
        else:
            message, traceback = self._failure(run_id)
            sender.send("task-failed", exception=f"run {event}: {message}", traceback=traceback, **common)

    def _event_fields(self, run_id: str, flow: str) -> dict[str, Any]:
        """Return the fields of every event of a run, so that an end whose start was not seen has a name too."""
        parent, root = self.engine.store.upkeep.lineage(run_id) if is_child(run_id) else ("", "")
        return {
            "uuid": run_id,
            "name": f"flow:{flow}",
            "args": f"({run_id!r},)",
            "kwargs": "{}",
            "retries": 0,
            "root_id": root or run_id,
            "parent_id": parent or None,
        }

    def _failure(self, run_id: str) -> tuple[str, str]:
        try:
            error = self.engine.store.run(run_id).error
        except UnknownRun:
            return "its record is gone", ""
        return (str(error), error.traceback) if error else ("resumed since", "")

    def _stay_alive(self, sender: EventDispatcher) -> None:
        """Appear online to a monitor as long as some worker leads."""
        if time.monotonic() - self._alive_at >= ALIVE_EVERY_S:
            live = self.engine.store.upkeep.count_live()
            # The period is sent along: Celery's monitors take a worker for gone after twice as long.
            sender.send("worker-heartbeat", freq=ALIVE_EVERY_S, active=live)
            self._alive_at = time.monotonic()


def _order(entry: tuple[float, dict[str, str]]) -> tuple[float, int]:
    """Order events by instant; of one instant a start comes before what waits, and what ended before the run's end."""
    at, row = entry
    return at, 1 if "node" in row else 0 if row["event"] in UNDER_WAY else 2
