"""Tell hooks and monitors of nodes that wait for something outside, and of ends of nodes in no process of an attempt.

The transitions append them to a stream of their own, which is forwarded with the events of runs. A monitor shows each
wait as a task that was received and not started, beside the attempt that led to it, if there was one.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from orchestrator import errors
from orchestrator.store.waiting_rows import read_waiting

if TYPE_CHECKING:
    from celery.events import EventDispatcher

    from orchestrator.definition.state import NodeFailure
    from orchestrator.engine import Engine

SPACE = uuid.UUID("6f726368-6573-5472-8174-6f7200000000")
WAITS_SHOWN = 500
UNHEARD = {"skipped", "over"}
"""Events that no hook hears: the node has not begun, or an attempt of it follows."""


class NodeEvents:
    """Sends events of nodes in their run's stead.

    Args:
        engine: The engine.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def send(self, sender: EventDispatcher, at: float, row: dict[str, str]) -> None:
        """Send one to monitors. An end that no wait preceded is of an attempt, whose task Celery has shown."""
        if not row["since"]:
            return
        fields = _task_of(row["run"], row["flow"], row["node"], row["since"]) | {"timestamp": at}
        if row["event"] == "waits":
            sender.send("task-received", args=repr((row["run"],)), kwargs=repr({"waits_for": row["waits"]}), **fields)
        elif row["event"] == "succeeded":
            sender.send("task-succeeded", result="None", runtime=at - int(row["since"]) / 1000, **fields)
        elif row["event"] == "over":
            sender.send("task-ignored", result="another attempt follows", **fields)
        elif row["event"] == "skipped":
            sender.send("task-revoked", terminated=False, signum=None, expired=False, **fields)
        else:
            failure = self._failure(row)
            told = str(failure) if failure else row["event"]
            sender.send("task-failed", exception=told, traceback=failure.traceback if failure else "", **fields)

    def send_waiting(self, sender: EventDispatcher) -> None:
        """Send to a monitor that has just connected what waits for somebody, the oldest first."""
        for row in read_waiting(self.engine.store, flow=None, kind=None, limit=WAITS_SHOWN):
            since = row.since.timestamp()
            fields = _task_of(row.run_id, row.flow, row.node, f"{since * 1000:.0f}")
            told = {"args": repr((row.run_id,)), "kwargs": repr({"waits_for": row.kind})}
            sender.send("task-received", received=since, **told, **fields)

    def announce(self, row: dict[str, str]) -> None:
        """Let middlewares hear of one."""
        middlewares, where = self.engine.middlewares, (row["run"], row["flow"], row["node"])
        if row["event"] == "waits":
            middlewares.after_wait(*where)
        elif row["event"] == "succeeded":
            middlewares.after_outside_end(*where, attempt=int(row["attempt"]), undoes=row["undoes"], error=None)
        elif row["event"] not in UNHEARD:
            error = _error_of(self._failure(row), row)
            middlewares.after_outside_end(*where, attempt=int(row["attempt"]), undoes=row["undoes"], error=error)

    def _failure(self, row: dict[str, str]) -> NodeFailure | None:
        return self.engine.store.last_failure(row["run"], row["node"])


def _task_of(run_id: str, flow: str, node: str, since: str) -> dict[str, Any]:
    """Return the fields of every event of a wait: a node that waits anew has another task."""
    task = uuid.uuid5(SPACE, f"{run_id}|{node}|{since}")
    return {"uuid": str(task), "name": f"{flow}.{node}", "root_id": run_id, "parent_id": run_id, "retries": 0}


def _error_of(failure: NodeFailure | None, row: dict[str, str]) -> errors.RunError:
    """Return a failure that only the store has as an exception: one of the engine's own, or the text of another."""
    where = (row["flow"], row["run"], row["node"], int(row["attempt"]))
    if failure is None:
        return errors.RunError("its failure is gone", *where)
    module, _, name = failure.type.rpartition(".")
    kind = getattr(errors, name, None) if module == errors.__name__ else None
    if isinstance(kind, type) and issubclass(kind, errors.RunError) and kind is not errors.RunFailed:
        return kind(failure.message, *where)
    return errors.RunError(f"{failure.type}: {failure.message}", *where)
