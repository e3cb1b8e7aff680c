"""Client: an `Orchestrator` on a Celery app registers flows and starts, finds and lists runs."""

from __future__ import annotations

import uuid
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import Celery

from orchestrator import answers, doctor, node_logs, schedule_control, schedules, starts
from orchestrator.definition.codecs import codec_of
from orchestrator.definition.flow import Flow
from orchestrator.definition.registry import Registry
from orchestrator.discovery import FLOWS, Discovery
from orchestrator.engine import Engine
from orchestrator.errors import ConfigurationError, InvalidInput, OrchestratorError, RegistrationError, UnknownRun
from orchestrator.execution import tasks
from orchestrator.execution.celery_signals import CelerySignals
from orchestrator.execution.task_calls import TaskCalls
from orchestrator.execution.task_events import TaskEvents
from orchestrator.hooks import HookCalls
from orchestrator.liveness.time_limit import TimeLimit
from orchestrator.maintenance import bootstep
from orchestrator.maintenance.eager_runs import warn_of_eager
from orchestrator.messaging.celery_addresses import address_of_runs
from orchestrator.messaging.patches import late_handlers, node_names
from orchestrator.middleware import Middlewares, WhenImported
from orchestrator.run_page import RunPage
from orchestrator.runs import FlowRun
from orchestrator.settings import Settings
from orchestrator.store import limit_numbers, queries
from orchestrator.store.blocking_calls import call_in_thread
from orchestrator.store.queries import statuses_of
from orchestrator.store.run_store import Store
from orchestrator.store.statistics import MOST_HOURS, read_statistics
from orchestrator.store.waiting_rows import read_waiting
from orchestrator.store.worker_rows import read_workers

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from datetime import datetime, timedelta

    from orchestrator.maintenance.preflight import Finding
    from orchestrator.redaction import Redaction
    from orchestrator.schedule_control import Backfilled, ScheduleRow
    from orchestrator.store.limit_numbers import LimitRow
    from orchestrator.store.queries import FlowCounts
    from orchestrator.store.set_aside import SetAside
    from orchestrator.store.statistics import FlowStatistics
    from orchestrator.store.waiting_rows import WaitingRow
    from orchestrator.store.worker_rows import WorkerRow

# Libraries that wrap tasks in ways of their own get the nodes of a message by the middleware for them.
SENTRY = WhenImported("sentry_sdk", "orchestrator.contrib.sentry:SentryNodes")
DJANGO = WhenImported("django.db", "orchestrator.contrib.django.connections:AsyncConnections")
OPEN_TELEMETRY = WhenImported("opentelemetry.instrumentation.celery", "orchestrator.contrib.opentelemetry:NodeSpans")


class Orchestrator:
    """Flows on a Celery app. Opens no connection until it is used.

    Args:
        app: An existing Celery app; its own tasks keep working.
        redis_url: Where the state of runs lives, as a URL of a result backend, or `unix://<path>?db=<n>`; else the
            app's result backend or broker, if that is Redis.
        settings: Settings; every process of a deployment needs the same.

    Raises:
        ConfigurationError: It is no Celery app; no Redis is known, or none that runs can live in (the message names
            the setting); or the app has an orchestrator with another one.
    """

    def __init__(self, app: Celery, redis_url: str | None = None, settings: Settings | None = None) -> None:
        if not isinstance(app, Celery):  # a proxy, such as celery.current_app, has the class of what is behind it
            raise ConfigurationError(_no_app(app))
        settings = settings or Settings()
        address = address_of_runs(app, redis_url)
        known: Engine | None = getattr(app, Engine.ATTRIBUTE, None)
        if known is not None and not (known.settings == settings and known.store.address.is_same(address)):
            msg = f"the Celery app {app.main!r} has an orchestrator with other settings or another Redis; use that one"
            raise ConfigurationError(msg)
        self.app = app
        self._engine = known or _add_engine(app, Store(address, settings), settings)

    def register(self, flow: Flow) -> None:
        """Register a flow in this process: its nodes as Celery tasks, its schedules for beat.

        The same object again changes nothing.

        Raises:
            RegistrationError: It is no `Flow`, its name is another flow's, a task name is taken, or a shared limiter
                has other numbers.
        """
        _register(self._engine, flow)

    def autodiscover(self, packages: Iterable[str], related_name: str = FLOWS) -> None:
        """Import `<package>.<related_name>`, all of it if it is a package, and register every flow found there.

        In a Django project whose apps are not loaded, as in the module of its Celery app, this is done when they are.
        Packages given to `app.autodiscover_tasks` need not be named: a worker searches their `flows` by itself.

        Raises:
            ModuleNotFoundError: A package itself does not exist; one without the related module is passed over.
        """
        self._engine.discovery.search(packages, related_name)

    def start(
        self,
        flow: str | Flow,
        input: Any = None,
        *,
        idempotency_key: str | None = None,
        tags: Mapping[str, str] | None = None,
        delay: timedelta | None = None,
        at: datetime | None = None,
        priority: int | None = None,
    ) -> FlowRun:
        """Start a run; when this returns, the run is in Redis and will end.

        Args:
            flow: A flow, or the name of one that is registered here or announced by a worker.
            input: The run's input; validated here if the flow's code is, else by the worker.
            idempotency_key: The same key of the same flow returns the first run, as long as its record lives.
            tags: Text to text, stored with the run.
            delay: Nothing of the run is ready before this time is over; its timeout counts from then.
            at: The same until an instant; aware, one in the past is now.
            priority: The broker's number for messages of the run and of its children: with Redis 0 to 9, 0 first; with
                RabbitMQ up to the queue's `x-max-priority`, the highest first. None: as the app's settings say.

        Raises:
            UnknownFlow: The name is neither registered here nor announced; the nearest names are in the message.
            InvalidInput: The input does not fit the flow's `takes`, or the delay or the priority is none; nothing was
                written.
            PayloadTooLarge: The input is over `Settings.max_payload_bytes`; nothing was written.
            IdempotencyConflict: The key belongs to a run with another input.
            ConfigurationError: The run would hang: the app does not declare a queue of it, or accepts no JSON; or its
                Redis forgets runs, and `Settings.evicting_store` says not to use such a one; or a priority is given
                that the broker would not keep. Nothing was written.
            StoreUnavailable, StoreFull, StoreRefused: Redis; with an idempotency key it is safe to try again.
        """
        if self.app.conf.task_always_eager:
            warn_of_eager(str(self.app.main))
        begins = starts.begin_of(delay, at)
        start = starts.prepare(self._engine, flow, input, idempotency_key=idempotency_key, tags=tags, priority=priority)
        start = replace(start, begins=begins)
        return FlowRun(self._engine, starts.send(self._engine, start))

    def start_many(
        self,
        flow: str | Flow,
        inputs: Iterable[Any],
        keys: Iterable[str | None] | None = None,
        *,
        tags: Mapping[str, str] | None = None,
        priority: int | None = None,
    ) -> list[FlowRun | OrchestratorError]:
        """Start a run for each input, at most 500 of them and 4 MiB in one round trip; each is started or not alone.

        Args:
            flow: As of `start`.
            inputs: The input of each run.
            keys: The idempotency key of each; with keys the same call again is safe, whatever became of the first.
            tags: Stored with each run.
            priority: As of `start`, of each run.

        Returns:
            A run for each input, or the error that `start` would have raised for it, in the order of the inputs.

        Raises:
            UnknownFlow, ConfigurationError: As of `start`, and InvalidInput of the priority; nothing was written.
            ValueError: There are not as many keys as inputs; nothing was written.
        """
        found = starts.send_many(self._engine, flow, inputs, keys=keys, tags=tags, priority=priority)
        return [FlowRun(self._engine, each) if isinstance(each, str) else each for each in found]

    async def start_async(self, flow: str | Flow, input: Any = None, **options: Any) -> FlowRun:
        """Start a run as `start` does, without blocking the event loop, also while Redis does not answer.

        A start whose task is cancelled may have happened; one with an idempotency key is safe to repeat.
        """
        return await call_in_thread(self.start, flow, input, **options)

    def get(self, run_id: str | uuid.UUID) -> FlowRun:
        """Return a run by its id.

        Raises:
            UnknownRun: There is none, or its retention is over.
        """
        known = str(run_id) if isinstance(run_id, uuid.UUID) else run_id
        self._engine.store.run(known)
        return FlowRun(self._engine, known)

    def find(self, flow: str | Flow, *, idempotency_key: str) -> FlowRun:
        """Return the run that an idempotency key of a flow started.

        Raises:
            UnknownRun: There is none, or its retention is over.
        """
        name = _name_of(flow)
        run_id = queries.run_of_key(self._engine.store, name, idempotency_key)
        if run_id is None:
            raise UnknownRun(f"no run of flow {name} has the idempotency key {idempotency_key!r}", flow_name=name)
        return FlowRun(self._engine, run_id)

    def waiting(
        self, flow: str | Flow | None = None, kind: str | None = None, *, limit: int = 1000
    ) -> list[WaitingRow]:
        """Return what waits for somebody outside, oldest first.

        Args:
            flow: Only in runs of this flow.
            kind: Only "approval", "signal" or "callback".
            limit: At most so many.

        Raises:
            ValueError: The kind or the limit is none.
        """
        name = None if flow is None else _name_of(flow)
        return read_waiting(self._engine.store, flow=name, kind=kind, limit=limit)

    def complete(self, callback: str, value: Any = None) -> None:
        """Complete the node that gave away a callback, with its output.

        Args:
            callback: The text of `NodeContext.callback`.
            value: The output; checked here if this process has the node's code.

        Raises:
            StaleCallback: The node was completed, went on by itself or failed for good, or its run is gone.
            InvalidInput: The value does not fit the node's type.
            PayloadTooLarge: The value is over `Settings.max_payload_bytes`.
            StoreUnavailable: Redis did not answer; a completion that was taken is stale when it is tried again.
        """
        answers.complete(self._engine, callback, value)

    def fail(self, callback: str, message: str) -> None:
        """Let the node that gave away a callback fail for good; raises as `complete`."""
        answers.fail(self._engine, callback, message)

    def runs(
        self,
        flow: str | Flow | None = None,
        status: str | Collection[str] | None = None,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        tag: Mapping[str, str] | None = None,
        parent: str | None = None,
        children: bool = False,
        text: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> RunPage:
        """List runs, newest first: those that pass every filter that is given.

        Args:
            flow: Of this flow.
            status: With this status, or one of several.
            since: Started at or after this instant; aware.
            until: Started before this instant; aware.
            tag: With each of these tags; cheap among many runs for those named in `Settings.indexed_tags`.
            parent: Children of this run; without it runs are listed that are no children.
            children: Whether, without a parent, children are listed too.
            text: With this text in the id, in the idempotency key, or in the type, message or node of the error.
            limit: At most so many, up to 1000.
            cursor: `RunPage.cursor` of the page before.

        Returns:
            The runs of one page, and in `.rows` all fields of them. At most 5,000 runs are looked at; if that was not
            enough, `.searched_back_to` says how far it came, and `.cursor` goes on from there.

        Raises:
            ValueError: A status, instant, limit or cursor is none; the message names it.
        """
        name = None if flow is None else _name_of(flow)
        wanted = queries.Filter(name, statuses_of(status), since, until, tag, parent, text, children)
        return RunPage(self._engine, queries.list_runs(self._engine.store, wanted, limit=limit, cursor=cursor))

    def counts(self, *, children: bool = False) -> tuple[FlowCounts, ...]:
        """Return how many runs each flow has by status, for flows that are registered here or announced.

        Args:
            children: Whether runs that nodes of others have started are counted too; `runs` lists them if it is asked.
        """
        return queries.count_runs(self._engine.store, starts.known_flows(self._engine), children=children)

    def totals(self, *, children: bool = False) -> FlowCounts:
        """Return how many runs there are by status, of all flows; children as in `counts`."""
        return queries.count_all(self._engine.store, children=children)

    def delete(self, run_id: str | uuid.UUID) -> None:
        """Delete the record of a run that has ended; raises as `FlowRun.delete`."""
        self.get(run_id).delete()

    def statistics(self, flow: str | Flow | None = None, *, hours: int = 24) -> tuple[FlowStatistics, ...]:
        """Return what became of the runs of a flow, or of each known flow, and how long runs and nodes took.

        Args:
            flow: Only this flow.
            hours: So many hours back, this one included; at most 7 days.

        Raises:
            ValueError: The hours are out of range.
        """
        if not 1 <= hours <= MOST_HOURS:
            raise ValueError(f"hours must be 1 to {MOST_HOURS}, not {hours}")
        flows = starts.known_flows(self._engine) if flow is None else [_name_of(flow)]
        return read_statistics(self._engine.store, flows, hours=hours)

    def limits(self) -> tuple[LimitRow, ...]:
        """Return every limit: its numbers, how full it is, what waits for it, and until when it is frozen."""
        return limit_numbers.read_limits(self._engine.store)

    def set_limit(self, name: str, n: float, *, per: timedelta | None = None, burst: int | None = None) -> None:
        """Set the numbers of a limit for the whole fleet, at once and until the code's numbers change.

        Args:
            name: As in `limits()`.
            n: Starts in `per`; of slots, how many there are.
            per: The span; of slots none.
            burst: Starts at once from rest; default `n`.

        Raises:
            ValueError: There is no such limit, or the numbers do not fit its kind.
        """
        limit_numbers.set_limit(self._engine.store, name, n, per=per, burst=burst)

    def reset_limit(self, name: str, *, key: str | None = None) -> None:
        """Give a limit the code's numbers again, and let it go on if it is frozen; ValueError: there is no such limit.

        With a key, of a keyed limit, only the freeze of this key ends.
        """
        limit_numbers.reset_limit(self._engine.store, name, key=key)

    def freeze_limit(self, name: str, until: datetime, *, key: str | None = None) -> None:
        """Let nothing start under a limit before an instant; `reset_limit` with the same key ends it earlier.

        Args:
            name: As in `limits()`.
            until: Aware.
            key: Of a keyed limit: only what has this key.

        Raises:
            ValueError: There is no such limit, it has slots, or the instant is naive or in the past.
        """
        limit_numbers.freeze_limit(self._engine.store, name, until, key=key)

    def workers(self) -> tuple[WorkerRow, ...]:
        """Return every live worker that takes flows: its queues, and the flows and versions that it has."""
        return read_workers(self._engine.store)

    def doctor(self) -> list[Finding]:
        """Look at the live deployment and return what will hurt, each with the setting to change; it only reads.

        Returns:
            Nothing on a deployment as it is recommended.

        Raises:
            StoreUnavailable: Redis did not answer.
        """
        return doctor.examine(self._engine)

    @property
    def redaction(self) -> Redaction:
        """Hides the fields that `Settings.redact` names, in whatever a program shows of runs."""
        return self._engine.store.redaction

    def set_aside(self) -> list[SetAside]:
        """Return what the reconciler cannot handle and has set aside, oldest first: runs, plans, timers and so on.

        Everything else goes on without it. A run among them can be cancelled.

        Raises:
            StoreUnavailable: Redis did not answer.
        """
        with self._engine.store.guarded():
            return self._engine.store.aside.parts()

    def cursor(self, flow: str | Flow, source: str) -> str | None:
        """Return the cursor at which the last successful run of a flow left a source; None if there is none.

        Args:
            flow: A flow, or its name.
            source: The `cursor_source` of a paginated node.
        """
        return self._engine.store.cursor(_name_of(flow), source)

    def reset_cursor(self, flow: str | Flow, source: str, cursor: str | None = None) -> None:
        """Make the next run of a flow begin a source at `cursor`; runs that have started do not move it any more.

        Args:
            flow: A flow, or its name.
            source: The `cursor_source` of a paginated node.
            cursor: The next first cursor; None begins anew.

        Raises:
            InvalidInput: The cursor is not text.
        """
        store = self._engine.store
        data = codec_of(str | None).dump(cursor, error=InvalidInput)
        with store.guarded():
            store.scripts.set_cursor(_name_of(flow), source, data.decode())

    def schedules(self) -> tuple[ScheduleRow, ...]:
        """Return the schedules of the flows that are registered here, with their last and next instants."""
        return schedule_control.list_schedules(self._engine)

    def pause_schedule(self, name: str, note: str = "") -> None:
        """Let a schedule start nothing until it is unpaused.

        Args:
            name: Its id, the beginning of it, or the name of a flow that has only one.
            note: Why.

        Raises:
            ValueError: There is no such schedule, or there are several.
        """
        schedule_control.pause(self._engine, name, note)

    def unpause_schedule(self, name: str) -> None:
        """Let a schedule go on; what it missed follows its `catch_up`. Raises as `pause_schedule`."""
        schedule_control.unpause(self._engine, name)

    def trigger_schedule(self, name: str) -> FlowRun:
        """Start a run as a schedule would, for the present instant. Raises as `pause_schedule`, and as `start`."""
        return FlowRun(self._engine, schedule_control.trigger_now(self._engine, name))

    def next_ticks(self, name: str, count: int = 1) -> list[datetime]:
        """Return the next instants of a schedule. Raises as `pause_schedule`."""
        return schedule_control.next_ticks(self._engine, name, count)

    def ticks(self, name: str, since: datetime, until: datetime) -> list[datetime]:
        """Return the instants of a schedule in [since, until), which a backfill would start; raises as it does."""
        return schedule_control.ticks_between(self._engine, name, since, until)

    def backfill(self, name: str, since: datetime, until: datetime) -> list[Backfilled]:
        """Start the run of every instant of a schedule in [since, until) under the id that its tick gives it.

        A plain loop over single starts: what was started before is not started again, so that a repeat is safe.

        Raises:
            ValueError: As `pause_schedule`; or the range is empty, in the future or too long. Nothing was started.
        """
        return schedule_control.backfill(self._engine, name, since, until)


def _add_engine(app: Celery, store: Store, settings: Settings) -> Engine:
    engine = Engine(app, settings, Registry(app.conf.task_default_queue, fused=settings.fused), store)
    # Outermost first. Within the time limit is only what users wrote, so that no report of a node counts against it.
    engine.middlewares = Middlewares(
        (SENTRY, DJANGO, TaskEvents(app), CelerySignals(app), OPEN_TELEMETRY, HookCalls(), TimeLimit(), TaskCalls(app)),
    )
    setattr(app, Engine.ATTRIBUTE, engine)
    tasks.register_engine_tasks(app)
    bootstep.add_to_workers(app)
    node_logs.add_to_workers()
    engine.discovery = Discovery(app, partial(_register, engine))
    late_handlers.after_imports(app, engine.discovery.catch_up)
    if "late_handlers" in settings.patches:
        late_handlers.call_late_handlers(app)
    return engine


def _register(engine: Engine, flow: Flow) -> None:
    if not isinstance(flow, Flow):
        raise RegistrationError(f"only a Flow can be registered, not {type(flow).__name__}; call build() first")
    names = [f"{flow.name}.{name}" for name in _node_names(flow)]
    if engine.registry.flows.get(flow.name) is None:
        tasks.refuse_taken_names(engine.app, names)
    for node in flow.nodes():  # who has the code of a flow has that of the flows in it
        if isinstance(node.child, Flow):
            _register(engine, node.child)
    entry = engine.registry.add(flow)
    if entry is not None:
        tasks.register_nodes(engine.app, entry)
        if "node_names" in engine.settings.patches:
            node_names.guard_names(engine.app, names)
        schedules.add_to_beat(engine.app, entry)


def _name_of(flow: str | Flow) -> str:
    return flow.name if isinstance(flow, Flow) else flow


def _node_names(flow: Flow) -> Iterator[str]:
    yield from (node.name for node in flow.nodes())
    yield from (undo.name for _, undo in flow.compensations())
    yield from (step.own_name for step in flow.all_steps() if step.own_kind)


def _no_app(given: object) -> str:
    """What to do with something that is no Celery app."""
    shown = f"the class {given.__name__}" if isinstance(given, type) else f"{given!r} of type {type(given).__name__}"
    message = f"Orchestrator(app) takes a Celery app, not {'None' if given is None else shown}; "
    if "celery" in getattr(given, "extensions", {}):
        return message + 'this Flask app keeps its Celery app in app.extensions["celery"]'
    return message + 'pass the object that `app = Celery("shop", broker=...)` makes'
