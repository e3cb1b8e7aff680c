"""Wrap the call of every node, in every mode: the seam for time limits, task events, signals and error trackers.

One chain is composed per process, outermost middleware first. A middleware sees what a node is called for and how it
ended; what the end leads to (retry, join, saga) is decided by the store's scripts and is not its business.
"""

from __future__ import annotations

import logging
import sys
import time
import uuid
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
FAILED = "the middleware %s failed; the node and its run are not affected"


class End(StrEnum):
    """How an attempt ended.

    STORED: its output is stored. PAGE_STORED: a page is stored, and there are more. TOLERATED: failed for good in a
    step that continues without it. FAILED: failed for good. PARKED: the node waits for its next attempt. DONE: another
    attempt did it. SKIPPED: nothing to do here now. REQUEUE: the message has to go back, to another worker: this one is
    shutting down, or its code does not fit.
    """

    STORED = "stored"
    PAGE_STORED = "page stored"
    TOLERATED = "tolerated"
    FAILED = "failed"
    PARKED = "parked"
    DONE = "done"
    SKIPPED = "skipped"
    REQUEUE = "requeue"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended, with the real exception if it is FAILED, TOLERATED, or PARKED by a failure."""

    end: End
    error: BaseException | None = None


@dataclass(slots=True, eq=False)
class NodeCall:
    """One attempt of a node, as a middleware sees it.

    Attributes:
        flow_name: The run's flow.
        run_id: The run.
        node_name: The node, compensation or decision; an item of a map is `<node>[<index>]`.
        attempt: Number of the attempt, from 1.
        task: Name of the node's Celery task.
        timeout_s: Limit of the attempt in seconds.
        message: The Celery request of the message that it is made in, whichever node that is for.
        is_first: Whether it is the message's own attempt, which Celery itself traces as a task.
        is_own: Whether it is of the message's own node, as later items of a map are; Celery reports their failure.
        expired: Makes the error that is raised at the limit.
        will_retry: Tells whether an error leads to another attempt, as far as the policy says.
        goes_on: Whether the run goes on without the node if it fails for good.
        undoes: Of a compensation: the node that it undoes.
        epoch: Rises with each resume of the run, from 1.
        started: When it was called, on the monotonic clock.
        idle: The middlewares that had nothing to do then.
    """

    flow_name: str
    run_id: str
    node_name: str
    attempt: int
    task: str
    timeout_s: float
    message: Any
    is_first: bool
    is_own: bool
    expired: Callable[[], BaseException]
    will_retry: Callable[[BaseException], bool]
    goes_on: bool = False
    undoes: str = ""
    epoch: int = 1
    started: float = field(default_factory=time.monotonic)
    idle: list[Middleware] = field(default_factory=list)
    _task_id: str = ""

    @property
    def task_id(self) -> str:
        """A Celery task id for this attempt: the message's, or one of its own behind the message's first attempt."""
        if not self._task_id:
            self._task_id = self.message.id if self.is_first and self.message is not None else str(uuid.uuid4())
        return self._task_id


class Middleware:
    """Wraps nodes; a subclass overrides what it needs. One object serves all threads of a process."""

    def is_idle(self) -> bool:
        """Whether it has nothing to do for now: then it is left out of a node's chain. Asked once for every node."""
        return False

    def around(self, call: NodeCall, proceed: Callable[[], Result]) -> Result:  # noqa: ARG002 - for subclasses
        """Call the node's function by `proceed()`, once, and return what that returns or raise what it raises.

        It runs in the thread of the function. An exception of the middleware's own counts as the node's.
        """
        return proceed()

    def after_node(self, call: NodeCall, outcome: Outcome) -> None:
        """Hear how an attempt ended, when that is stored; what this raises is logged and harms nothing."""

    def after_wait(self, run_id: str, flow_name: str, node_name: str) -> None:
        """Hear that a node waits without a process: for a limit, there, or for something outside, as `after_run`."""

    def wants_nodes(self) -> bool:
        """Whether it wants to hear now of nodes that wait for something outside, or end in no process of an attempt."""
        return True

    def after_outside_end(
        self, run_id: str, flow_name: str, node_name: str, *, attempt: int, undoes: str, error: Exception | None
    ) -> None:
        """Hear that a node has ended in no process of an attempt, in the manner of `after_run`; None: it succeeded."""

    def wants_runs(self) -> bool:
        """Whether it wants to hear of runs now."""
        return True

    def after_run(self, run_id: str, flow_name: str, event: str) -> None:
        """Hear that a run was "started", "resumed", or ended with a status: in one worker of the fleet, and later."""


class WhenImported(Middleware):
    """A middleware for a library, loaded once somebody else has imported the library; until then it costs a look-up.

    Args:
        library: Name of the library's module.
        path: The middleware's class, as `module:name`; it is called without arguments.
    """

    def __init__(self, library: str, path: str) -> None:
        self._library = library
        self._path = path
        self._loaded: Middleware | None = None

    def is_idle(self) -> bool:
        """Until the library is there."""
        return self._loaded is None and self._library not in sys.modules

    def around(self, call: NodeCall, proceed: Callable[[], Result]) -> Result:
        """Wrap the node as the middleware does."""
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded.around(call, proceed)

    def after_node(self, call: NodeCall, outcome: Outcome) -> None:
        """Let the middleware hear how an attempt ended."""
        if self._loaded is not None:
            self._loaded.after_node(call, outcome)

    def _load(self) -> Middleware:
        module, _, name = self._path.partition(":")
        try:
            loaded: Middleware = getattr(import_module(module), name)()
        except Exception:  # a release that it does not know must not end every node
            logger.exception("nodes are not reported to %s: %s cannot be loaded", self._library, self._path)
            return Middleware()
        return loaded


class Middlewares:
    """The middlewares of an app in this process, outermost first."""

    def __init__(self, installed: Sequence[Middleware] = ()) -> None:
        self._compose(installed)

    def install(self, middleware: Middleware, *, inside: type[Middleware] | None = None) -> None:
        """Put a middleware around all that are there, or around those that are inside of the one of a class."""
        around = [place for place, each in enumerate(self._installed, 1) if inside and isinstance(each, inside)]
        place = max(around, default=0)
        self._compose((*self._installed[:place], middleware, *self._installed[place:]))

    def _compose(self, installed: Sequence[Middleware]) -> None:
        self._installed = tuple(installed)
        # Innermost first, with the question whether it is idle where there may be an answer.
        self._inwards = [
            (each, each.is_idle if _overrides(each, "is_idle") else None, _overrides(each, "around"))
            for each in reversed(installed)
            if _overrides(each, "around") or _overrides(each, "after_node")
        ]
        self._after_node = [each for each in installed if _overrides(each, "after_node")]
        self._after_wait = [each for each in installed if _overrides(each, "after_wait")]
        self._after_outside_end = [each for each in installed if _overrides(each, "after_outside_end")]
        self._after_run = [each for each in installed if _overrides(each, "after_run")]

    @property
    def wants_runs(self) -> bool:
        """Whether any middleware wants to hear of runs."""
        return any(each.wants_runs() for each in self._after_run)

    @property
    def wants_nodes(self) -> bool:
        """Whether any middleware wants to hear of nodes that wait for something outside, or end in no process."""
        return any(each.wants_nodes() for each in self._after_outside_end)

    def call(self, call: NodeCall, function: Callable[[], Result]) -> Result:
        """Call a node's function through all middlewares."""
        proceed = function
        for middleware, is_idle, wraps in self._inwards:
            if is_idle is not None and is_idle():
                # Noted and not asked again behind the node: who came meanwhile would hear of an end without its
                # beginning.
                call.idle.append(middleware)
            elif wraps:
                proceed = partial(middleware.around, call, proceed)
        return proceed()

    def after_node(self, call: NodeCall, outcome: Outcome) -> None:
        """Let the middlewares hear how an attempt ended; of one without an error, only those that were not idle."""
        for middleware in self._after_node:
            if outcome.error is None and middleware in call.idle:
                continue
            try:
                middleware.after_node(call, outcome)
            except Exception:  # an observer's failure must not become the node's: its output is stored already
                logger.exception(FAILED, type(middleware).__name__)

    def after_wait(self, run_id: str, flow_name: str, node_name: str) -> None:
        """Let the middlewares hear of a node that waits."""
        self._each(self._after_wait, lambda each: each.after_wait(run_id, flow_name, node_name))

    def after_outside_end(
        self, run_id: str, flow_name: str, node_name: str, *, attempt: int, undoes: str, error: Exception | None
    ) -> None:
        """Let the middlewares hear of a node that has ended in no process of an attempt."""
        self._each(
            self._after_outside_end,
            lambda each: each.after_outside_end(
                run_id, flow_name, node_name, attempt=attempt, undoes=undoes, error=error
            ),
        )

    def after_run(self, run_id: str, flow_name: str, event: str) -> None:
        """Let the middlewares hear of a run."""
        self._each(self._after_run, lambda each: each.after_run(run_id, flow_name, event))

    def _each(self, middlewares: Sequence[Middleware], call: Callable[[Middleware], None]) -> None:
        for middleware in middlewares:
            try:
                call(middleware)
            except Exception:  # as above: what it is told of has happened
                logger.exception(FAILED, type(middleware).__name__)


def _overrides(middleware: Middleware, name: str) -> bool:
    return getattr(type(middleware), name) is not getattr(Middleware, name)
