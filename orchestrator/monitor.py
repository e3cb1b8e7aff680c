"""How runs show in Flower and other Celery monitors: each run as a task of its own, the parent of its nodes' tasks.

The transitions leave starts and ends of runs in a stream; the leading reconciler sends them on as task events while a
monitor wants any. Nothing else depends on it, and what nobody watched is not told later.
"""

from __future__ import annotations

import logging
import mmap
import time
import traceback
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery.app import trace
from celery.exceptions import Ignore
from celery.signals import task_failure
from celery.worker.request import Request

from orchestrator.errors import UnknownRun
from orchestrator.publisher import BROKER_ERRORS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery.events import EventDispatcher

    from orchestrator.attempt import Attempt, Ended
    from orchestrator.engine import Engine

logger = logging.getLogger(__name__)
SENT_FIELD = "events"
AT_ONCE = 500
HOSTNAME = "flows@orchestrator"
"""Who sends the events of runs, whichever worker leads: a monitor shows it as a worker that counts runs."""
ALIVE_EVERY_S = 30
_watched = mmap.mmap(-1, 1)  # shared with the pool processes, which are forked after this
NO_ENTRY = b"0"


class Monitor:
    """Sends the events of runs from one worker."""

    def __init__(self, engine: Engine, worker: Any) -> None:
        self.engine = engine
        self.worker = worker
        self._was_watched = True
        self._alive_at = -float(ALIVE_EVERY_S)

    def forward(self) -> None:
        """Send what happened since the last time, by whichever worker; without a monitor it is only skipped."""
        was_watched, self._was_watched = self._was_watched, self._is_watched()
        if not self._was_watched:
            self._skip()
            return
        try:
            with self._dispatcher() as sender:
                self._stay_alive(sender)
                if was_watched:
                    self._send_new(sender)
                else:
                    self._skip()
                    self._send_live(sender)
        except BROKER_ERRORS as error:
            logger.warning("events of runs are not sent: %s", error)

    def note_watching(self) -> None:
        """Let the pool processes know whether a monitor wants to hear of nodes that have no message of their own."""
        _watched[0] = self._is_watched()

    def _is_watched(self) -> bool:
        # The dispatcher itself is always on, for heartbeats; a monitor adds the group of task events to its groups.
        dispatcher = getattr(getattr(self.worker, "consumer", None), "event_dispatcher", None)
        return bool(dispatcher and dispatcher.enabled and (not dispatcher.groups or "task" in dispatcher.groups))

    @contextmanager
    def _dispatcher(self) -> Iterator[EventDispatcher]:
        # It does not buffer while the broker is away: an event that raises is sent again, as it is not marked as sent.
        with self.engine.app.events.default_dispatcher(hostname=HOSTNAME) as sender:
            yield sender

    def _sent(self) -> bytes:
        store = self.engine.store
        return store.client.hget(store.keys.sweep, SENT_FIELD) or NO_ENTRY

    def _mark_sent(self, entry: bytes) -> None:
        store = self.engine.store
        store.client.hset(store.keys.sweep, SENT_FIELD, entry)

    def _skip(self) -> None:
        store = self.engine.store
        newest = store.client.xrevrange(store.keys.events, count=1)
        if newest and newest[0][0] != self._sent():
            self._mark_sent(newest[0][0])

    def _send_new(self, sender: EventDispatcher) -> None:
        store = self.engine.store
        last = self._sent()
        entries = store.client.xrange(store.keys.events, min="-" if last == NO_ENTRY else b"(" + last, count=AT_ONCE)
        for entry, fields in entries:
            row = {name.decode(): value.decode() for name, value in fields.items()}
            self._send_entry(sender, int(entry.split(b"-")[0]) / 1000, row)
        if entries:
            self._mark_sent(entries[-1][0])

    def _send_live(self, sender: EventDispatcher) -> None:
        """Tell a monitor that has just come which runs there are."""
        store = self.engine.store
        for raw in store.client.zrange(store.keys.live, 0, AT_ONCE - 1):
            try:
                record = store.run(raw.decode())
            except UnknownRun:
                continue
            at = record.created.timestamp()
            # Fields of that name beat the event's own timestamp, which has to be now: an old one is taken for a
            # clock that is wrong.
            sender.send("task-received", received=at, **_facts(record.run_id, record.flow))
            sender.send("task-started", started=at, **_facts(record.run_id, record.flow))

    def _send_entry(self, sender: EventDispatcher, at: float, row: dict[str, str]) -> None:
        event, run_id = row["event"], row["run"]
        facts = _facts(run_id, row["flow"]) | {"timestamp": at}
        if event == "started":
            sender.send("task-received", **facts)
            sender.send("task-started", **facts)
        elif event == "resumed":
            # Only a retry leads a monitor from an end back to a start.
            sender.send("task-retried", exception="the run was resumed", traceback="", **facts)
            sender.send("task-started", exception=None, traceback=None, **facts)
        elif event == "succeeded":
            sender.send("task-succeeded", result=event, runtime=float(row["detail"]) / 1000, **facts)
        else:
            message, traceback = self._failure(run_id)
            sender.send("task-failed", exception=f"run {event}: {message}", traceback=traceback, **facts)

    def _failure(self, run_id: str) -> tuple[str, str]:
        try:
            error = self.engine.store.run(run_id).error
        except UnknownRun:
            return "its record is gone", ""
        return (str(error), error.traceback) if error else ("resumed since", "")

    def _stay_alive(self, sender: EventDispatcher) -> None:
        """Be online for a monitor as long as some worker leads."""
        if time.monotonic() - self._alive_at >= ALIVE_EVERY_S:
            store = self.engine.store
            sender.send("worker-heartbeat", freq=ALIVE_EVERY_S, active=store.client.zcard(store.keys.live))
            self._alive_at = time.monotonic()


def _facts(run_id: str, flow: str) -> dict[str, Any]:
    """What every event of a run says, so that an end whose start nobody saw has a name too."""
    return {
        "uuid": run_id,
        "name": f"flow:{flow}",
        "args": f"({run_id!r},)",
        "kwargs": "{}",
        "retries": 0,
        "root_id": run_id,
    }


class Followers:
    """Nodes that are worked on in another node's message, told to monitors as tasks of their own."""

    def __init__(self, task: Any) -> None:
        self.task = task
        self._began: dict[Attempt, tuple[str, float]] = {}

    def tell(self, attempt: Attempt, ended: Ended | None) -> None:
        """Tell that a node starts, or how it ended; a failure for good is told to Celery's handlers too."""
        failed = ended.error if ended and ended.kind == "failed" else None
        if not failed and not _watched[0]:
            return
        self._began.setdefault(attempt, (str(uuid.uuid4()), time.monotonic()))
        if failed:
            self._report_failure(attempt, failed)
        if _watched[0]:
            self._send(attempt, ended)
        if ended:
            del self._began[attempt]

    def _send(self, attempt: Attempt, ended: Ended | None) -> None:
        error = ended.error if ended else None
        try:
            with self.task.app.events.default_dispatcher(hostname=self.task.request.hostname) as sender:
                if ended is None:
                    sender.send("task-received", **self._facts(attempt), args=repr((attempt.run_id,)), kwargs="{}")
                    sender.send("task-started", **self._facts(attempt))
                elif ended.kind == "stored":
                    runtime = time.monotonic() - self._began[attempt][1]
                    sender.send("task-succeeded", result="None", runtime=runtime, **self._facts(attempt))
                elif error is None:
                    sender.send("task-ignored", result=ended.kind, **self._facts(attempt))
                else:
                    kind = "task-retried" if ended.kind == "parked" else "task-failed"
                    lines = "".join(traceback.format_exception(error))
                    sender.send(kind, exception=repr(error), traceback=lines, **self._facts(attempt))
        except BROKER_ERRORS as problem:
            logger.warning("events of node %s are not sent: %s", attempt.name, problem)

    def _facts(self, attempt: Attempt) -> dict[str, Any]:
        run_id, task_id = attempt.run_id, self._began[attempt][0]
        return {"uuid": task_id, "name": attempt.facts.task, "root_id": run_id, "parent_id": run_id, "retries": 0}

    def _report_failure(self, attempt: Attempt, error: BaseException) -> None:
        """Do what Celery does for the failure of a task."""
        task = self.task.app.tasks[attempt.facts.task]
        told = {"name": task.name, "exc": repr(error), "traceback": "".join(traceback.format_exception(error))}
        task_id = self._began[attempt][0]
        context = {"id": task_id, "args": (), "kwargs": {}, "hostname": self.task.request.hostname} | told
        trace.logger.error(
            "Task %(name)s[%(id)s] raised unexpected: %(exc)s",
            context,
            exc_info=(type(error), error, error.__traceback__),
            extra={"data": context},
        )
        task_failure.send(
            sender=task,
            task_id=task_id,
            exception=error,
            args=(),
            kwargs={},
            traceback=error.__traceback__,
            einfo=ExceptionInfo((type(error), error, error.__traceback__)),
        )


class Parked(Ignore):
    """An attempt failed and its node waits for the next one."""


class NodeRequest(Request):
    """A node's message in the worker: tells monitors of attempts that leave the canvas, where Celery says nothing."""

    def send_event(self, type: str, **fields: Any) -> None:
        """Say in every event whose it is, for a monitor that has come since the message was received."""
        super().send_event(type, name=self.name, root_id=self.root_id, parent_id=self.parent_id, **fields)

    def on_failure(self, exc_info: Any, *args: Any, **options: Any) -> Any:
        """Do what Celery does, then say what became of an attempt that would be shown as running for ever."""
        answer = super().on_failure(exc_info, *args, **options)
        error = exc_info.exception
        error = error.exc if isinstance(error, ExceptionWithTraceback) else error
        if isinstance(error, Parked):
            self.send_event("task-retried", exception=str(error), traceback="")
        elif isinstance(error, Ignore):
            self.send_event("task-ignored", result=str(error))
        return answer
