"""Hooks: functions that hear of runs and nodes after the fact, connected in the manner of Celery's signals.

    from orchestrator import hooks

    @hooks.run_finished.connect
    def report(run_id, flow_name, status, **_):
        ...

They only look: what a receiver raises is logged and harms neither the node nor its run. Hooks of nodes are called in
the process of the attempt. Those of runs, and of nodes that wait for something outside or end in no process, are
called in the leading worker, a moment later and at least once.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator.middleware import End, Middleware

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.middleware import NodeCall, Outcome

logger = logging.getLogger(__name__)
Receiver = TypeVar("Receiver", bound="Callable[..., object]")
Result = TypeVar("Result")
UNDER_WAY = {"started", "resumed"}


class Hook:
    """One thing that happens, and the functions that want to hear of it.

    Args:
        name: Its name, for the log.
        fields: Names of the keywords that its receivers are called with; they should take `**_` for those to come.
    """

    def __init__(self, name: str, *fields: str) -> None:
        self.name = name
        self.fields = fields
        self._receivers: tuple[Callable[..., object], ...] = ()

    def __repr__(self) -> str:
        """Show the name."""
        return f"Hook({self.name!r})"

    def __bool__(self) -> bool:
        """Whether anybody wants to hear of it."""
        return bool(self._receivers)

    def connect(self, receiver: Receiver) -> Receiver:
        """Call a function whenever it happens; also as a decorator. The same one again changes nothing.

        The hook holds it, and the object of a method, until `disconnect`; Celery's signals hold them weakly.
        """
        if receiver not in self._receivers:
            # A new tuple: another thread may be walking over the old one in `send`.
            self._receivers = (*self._receivers, receiver)
        return receiver

    def disconnect(self, receiver: Callable[..., object]) -> None:
        """Call it no longer; does nothing if it is not connected."""
        # Equal, not identical: each `object.method` is a new object.
        self._receivers = tuple(each for each in self._receivers if each != receiver)

    def send(self, **fields: Any) -> None:
        """Call every receiver; what one raises is logged, and the others are called all the same."""
        for receiver in self._receivers:
            try:
                receiver(**fields)
            except Exception:  # a hook is told of what has happened: it cannot undo it
                where = (fields.get("flow_name"), fields.get("run_id"), fields.get("node_name", ""))
                logger.exception("flow %s run %s node %s: a receiver of %s raised", *where, self.name)


run_started = Hook("run_started", "run_id", "flow_name", "resumed")
"""A run was started, or taken up again by `resume`."""
run_finished = Hook("run_finished", "run_id", "flow_name", "status")
"""A run has ended with a status."""
node_started = Hook("node_started", "run_id", "flow_name", "node_name", "attempt")
"""The function of a node, compensation, decision or item is about to be called."""
node_finished = Hook("node_finished", "run_id", "flow_name", "node_name", "attempt", "state", "error")
"""A node has "succeeded", and `error` is None, or "failed" for good with an exception."""
node_retried = Hook("node_retried", "run_id", "flow_name", "node_name", "attempt", "error")
"""An attempt has failed, and another one will be made."""
node_waiting = Hook("node_waiting", "run_id", "flow_name", "node_name")
"""A node waits and holds no process meanwhile: for a limit, or for a signal, an approval, an instant, a callback or the
end of a child run."""
compensation_finished = Hook(
    "compensation_finished", "run_id", "flow_name", "node_name", "undoes", "attempt", "state", "error"
)
"""A compensation has "succeeded" or "failed" for good; `undoes` is its node."""
OF_NODES = (node_started, node_finished, node_retried, compensation_finished)


class HookCalls(Middleware):
    """Calls the hooks."""

    def is_idle(self) -> bool:
        """While nobody wants to hear of nodes."""
        return not any(OF_NODES)

    def around(self, call: NodeCall, proceed: Callable[[], Result]) -> Result:
        """Say that the function of a node is called."""
        if node_started:
            node_started.send(**_of(call), attempt=call.attempt)
        return proceed()

    def after_node(self, call: NodeCall, outcome: Outcome) -> None:
        """Say how an attempt ended."""
        if outcome.end is End.PARKED and outcome.error is not None:
            node_retried.send(**_of(call), attempt=call.attempt, error=outcome.error)
        elif outcome.end in {End.STORED, End.FAILED, End.TOLERATED}:
            state = "succeeded" if outcome.end is End.STORED else "failed"
            told = {**_of(call), "attempt": call.attempt, "state": state, "error": outcome.error}
            if call.undoes:
                compensation_finished.send(**told, undoes=call.undoes)
            else:
                node_finished.send(**told)

    def wants_nodes(self) -> bool:
        """Whether anybody wants to hear of nodes that wait or have ended."""
        return bool(node_waiting or node_finished or compensation_finished)

    def after_outside_end(
        self, run_id: str, flow_name: str, node_name: str, *, attempt: int, undoes: str, error: Exception | None
    ) -> None:
        """Say how a node ended that nobody worked on."""
        told = {"run_id": run_id, "flow_name": flow_name, "node_name": node_name, "attempt": attempt}
        told |= {"state": "failed" if error else "succeeded", "error": error}
        if undoes:
            compensation_finished.send(**told, undoes=undoes)
        else:
            node_finished.send(**told)

    def after_wait(self, run_id: str, flow_name: str, node_name: str) -> None:
        """Say that a node waits."""
        node_waiting.send(run_id=run_id, flow_name=flow_name, node_name=node_name)

    def wants_runs(self) -> bool:
        """Whether anybody wants to hear of runs."""
        return bool(run_started or run_finished)

    def after_run(self, run_id: str, flow_name: str, event: str) -> None:
        """Say what became of a run."""
        if event in UNDER_WAY:
            run_started.send(run_id=run_id, flow_name=flow_name, resumed=event == "resumed")
        else:
            run_finished.send(run_id=run_id, flow_name=flow_name, status=event)


def _of(call: NodeCall) -> dict[str, str]:
    return {"run_id": call.run_id, "flow_name": call.flow_name, "node_name": call.node_name}
