"""The Celery tasks that canvases are made of: one class for every node, and the engine's own few.

A task turns an attempt's outcome into what Celery understands: a return lets the canvas go on, Ignore leaves it, and
a node that failed for good raises its real exception so that monitors show it.
"""

from __future__ import annotations

import logging
import time
from textwrap import indent
from typing import TYPE_CHECKING, Any

from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

from orchestrator.definition.plan import node_of
from orchestrator.engine import engine_of
from orchestrator.errors import EXPECTED, TRACEBACK_LIMIT, RegistrationError, StoreError, text_of, traceback_text
from orchestrator.execution.executor import Executor
from orchestrator.execution.failed_frames import Telling
from orchestrator.execution.judge import JudgeSignal
from orchestrator.execution.queue_pull import pulled, put_back
from orchestrator.execution.saga import BeginSaga, announced
from orchestrator.execution.sources import RunSource
from orchestrator.execution.task_events import Parked
from orchestrator.execution.tree_runs import TreeRuns
from orchestrator.liveness.pool_processes import begins_no_runs
from orchestrator.liveness.time_limit import interruptible
from orchestrator.messaging.canvas import ADVANCE
from orchestrator.messaging.engine_task import EngineTask
from orchestrator.middleware import End
from orchestrator.schedules import Tick

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery import Celery

    from orchestrator.definition.plan import Plan
    from orchestrator.definition.registry import Registered
    from orchestrator.engine import Engine
    from orchestrator.middleware import Outcome

logger = logging.getLogger(__name__)
SHOWN = 1000
"""Characters that a monitor gets of the error of an attempt that is made again."""


class NodeTask(EngineTask):
    """One node, branch decision or compensation of a flow as a Celery task of its own.

    Acknowledged late and never retried by Celery: what a crash leaves undone is the stored state's to repeat.
    """

    # Celery would compare the arguments of every message with those of `run`; the compiler has made them.
    typing = False
    Request = "orchestrator.execution.task_events:NodeRequest"

    def __init__(self, node: str) -> None:
        self.node = node

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Send the message as a child of its run, also from within a chain, so that monitors show it there."""
        options["root_id"] = options["parent_id"] = args[0] if args else None
        return super().apply_async(args, kwargs, **options)

    def run(self, run_id: str, epoch: int, plan_hash: str, name: str = "") -> None:
        """Try the node once; of a map, item after item; `name` is the compensation of one item."""
        with Telling():
            self._run(run_id, epoch, plan_hash, name or self.node)

    def _run(self, run_id: str, epoch: int, plan_hash: str, name: str) -> None:
        began = time.monotonic()
        engine = engine_of(self.app)
        engine.close_deserted()
        plan = self._plan(engine, plan_hash)
        leave_unbegun(engine, run_id)
        # A forged message: the claim would run another node under this task's name.
        if node_of(name) != self.node:
            raise Ignore("the message names another node")
        in_chord = bool(self.request.chord)
        continues = in_chord or bool(self.request.chain)
        source = RunSource(engine, plan, run_id=run_id, epoch=epoch, celery_continues=continues, message=self.request)
        tree = TreeRuns(engine, plan, self.request)
        # Taken once for the whole message: for each of its nodes they would cost more than a short function does.
        with engine.store.scripts.wire.held(), interruptible():
            outcome = Executor(engine, source, tree).run(source.first(name))
            # Only behind a stored run: a failure has to reach Celery before anything else is begun.
            self._run_tree(engine, tree, is_over=outcome.end is End.FAILED)
            if outcome.end is End.STORED and not continues:
                self._run_pulled(engine, plan, since=began)
        # Behind the block: a timer that a function has left running must not strike Celery's own code.
        self._answer_celery(outcome, in_chord=in_chord)

    def on_failure(self, exc: BaseException, *about: Any) -> None:
        """Let monitors have the traceback that begins at the user's own frame."""
        (*_, einfo) = about
        einfo.traceback = traceback_text(exc)

    def _answer_celery(self, outcome: Outcome, *, in_chord: bool) -> None:
        """Return where the canvas goes on, and raise what Celery understands where it does not."""
        error = outcome.error
        if outcome.end is End.FAILED and error is not None:
            # The run is ending: its chord need not be counted to its end, only to fail and leave a result behind.
            self.request.chord = None
            raise error
        if outcome.end is End.PARKED and error is not None:
            # An Ignore: neither counted by its chord nor followed by its chain. Celery's `retry` would hold the wait as
            # an ETA message in a worker's memory, which Redis delivers again and again (kombu#337).
            raise Parked(f"{type(error).__name__}({text_of(error)[:SHOWN]!r})")
        if outcome.end is End.REQUEUE:
            # It is delivered again at once: only `PassedOn` keeps it from going round. Without `requeue` Celery 5.7
            # takes a Reject for a failure and calls the error callback (celery#10369).
            raise Reject("left to another worker", requeue=True)
        # A repeated message of a chord member repeats a count that a crash may have lost; Celery counts a member once.
        if outcome.end in {End.STORED, End.TOLERATED} or (outcome.end is End.DONE and in_chord):
            return
        raise Ignore(outcome.end.value)

    def _plan(self, engine: Engine, plan_hash: str) -> Plan:
        try:
            with engine.store.guarded():
                plan = engine.store.plan(plan_hash)
        except StoreError as error:
            # Not as it is: Celery would call the error callback and show a failed task, and nothing has failed.
            raise Ignore(str(error)) from error
        if plan is None or self.node not in plan.nodes:
            raise Ignore("the run is gone, or its plan does not have this node")
        return plan

    def _run_tree(self, engine: Engine, tree: TreeRuns, *, is_over: bool) -> None:
        """Go on with other runs of the tree: what becomes of them is not this message's."""
        for source, batch, work in tree.sources(is_over=is_over):
            try:
                outcome = Executor(engine, source, tree).run(batch)
            except SoftTimeLimitExceeded:
                raise
            except Exception:
                # No message of it is on its way: the reconciler sends one.
                logger.exception("flow %s: run %r cannot be worked on", source.plan.flow, source.run_id)
                continue
            if outcome.end is End.REQUEUE and work is not None:
                engine.publish(source.plan, source.run_id, source.epoch, work)

    def _run_pulled(self, engine: Engine, plan: Plan, *, since: float) -> None:
        """Run further runs whose first message waits in the queue: what becomes of them is not this message's."""
        if begins_no_runs():
            return
        for message in pulled(engine, plan, self, since=since):
            run_id = message.run_id
            try:
                pinned = self._plan(engine, message.plan_hash)
                # While a pulled message is worked on, the task's request is made from that one.
                source = RunSource(
                    engine, pinned, run_id=run_id, epoch=message.epoch, message=self.request, is_others=True
                )
                tree = TreeRuns(engine, pinned, self.request)
                outcome = Executor(engine, source, tree).run(source.first(self.node))
                self._run_tree(engine, tree, is_over=False)
            except Ignore:
                continue
            except SoftTimeLimitExceeded:
                raise
            except Exception:
                # Its message is gone from the queue with it: the reconciler sends another.
                logger.exception("flow %s: the message of run %r cannot be worked on", plan.flow, run_id)
                return
            if outcome.end is End.REQUEUE:
                put_back(engine, message.key, message.text)
            if outcome.end in {End.REQUEUE, End.SKIPPED}:
                return


class Advance(EngineTask):
    """A message for a parallel step, the first or behind another one: publishes it, once, or does a local one."""

    name = ADVANCE

    def run(self, run_id: str, epoch: int, plan_hash: str, position: int) -> None:
        """Ask for the position and publish it, or work through it."""
        if position == 0:
            leave_unbegun(engine_of(self.app), run_id)
        found = announced(self.app, run_id, epoch, plan_hash, position)
        if found is None:
            return
        plan, work = found
        engine = engine_of(self.app)
        source = RunSource(engine, plan, run_id=run_id, epoch=epoch, message=self.request)
        members = source.local_step(work)
        if members:
            with interruptible():
                Executor(engine, source).run(members)
        else:
            engine.publish(plan, run_id, epoch, work)


def leave_unbegun(engine: Engine, run_id: str) -> None:
    """Let go of a message of a run that has not begun, where Redis throws keys of live runs away.

    Raises:
        Ignore: It is such a message; the reconciler sends it again.
    """
    if not begins_no_runs():
        return
    try:
        with engine.store.guarded():
            is_pending = engine.store.upkeep.is_pending(run_id)
    except StoreError as error:
        raise Ignore(str(error)) from error
    if is_pending:
        raise Ignore("Redis throws keys of live runs away, so that no run is begun")


class QuotedErrors(logging.Filter):
    """Keeps what a node raised inside its own record of Celery's log: a user's text may look like further records.

    Long texts are cut in the middle, and the traceback begins at the user's own frame; error trackers get the exception
    as it is. A verdict that the node gave on purpose is no error of the worker.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record of a failed node, and no other."""
        told = getattr(record, "data", None) or {}
        if told.get("name") in self.names and "exc" in told and isinstance(record.args, dict):
            record.args = record.args | {"exc": " ".join(shorten(told["exc"], SHOWN).splitlines())}
            error = record.exc_info[1] if record.exc_info else None
            if isinstance(error, EXPECTED):
                record.levelno, record.levelname = logging.INFO, logging.getLevelName(logging.INFO)
                record.args = record.args | {"description": "raised expected"}  # Celery's word for it
                record.exc_info = None
            elif error is not None:  # a text made already is what formatters print instead of the traceback
                lines = shorten(traceback_text(error), TRACEBACK_LIMIT).splitlines()
                record.exc_text = indent("\n".join(lines), "    ", lambda _: True)
        return True


def shorten(text: str, limit: int) -> str:
    """Cut the middle out of a text that is longer than the limit."""
    return text if len(text) <= limit else f"{text[: limit // 2]} ... {text[-limit // 2 :]}"


QUOTED_ERRORS = QuotedErrors()
logging.getLogger("celery.app.trace").addFilter(QUOTED_ERRORS)


def register_engine_tasks(app: Celery) -> None:
    """Give an app the engine's own tasks."""
    for kind in (Advance, BeginSaga, JudgeSignal, Tick):
        app.register_task(own_class(kind, kind.name)())


def own_class(kind: type[EngineTask], name: str) -> Any:
    """Make a class for one task of one app: Celery keeps the app, the request and the annotations in the class."""
    return type(kind.__name__, (kind,), {"__module__": kind.__module__, "name": name})


def refuse_taken_names(app: Celery, names: Iterable[str]) -> None:
    """Refuse task names that the app already has.

    Raises:
        RegistrationError: Names the tasks that are taken.
    """
    taken = sorted(name for name in names if name in app.tasks)
    if taken:
        msg = f"the Celery app already has the task {', '.join(taken)}; rename the flow or its node"
        raise RegistrationError(msg)


def register_nodes(app: Celery, entry: Registered) -> None:
    """Register every node of a flow under `<flow>.<node>`."""
    for name in entry.plan.nodes:
        task = own_class(NodeTask, f"{entry.flow.name}.{name}")(name)
        app.register_task(task)
        QUOTED_ERRORS.names.add(task.name)
