"""Client: an `Orchestrator` on a Celery app registers flows and starts, finds and lists runs."""

from __future__ import annotations

import uuid
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator import schedules, starts
from orchestrator.definition.codecs import codec_of
from orchestrator.definition.flow import Flow
from orchestrator.definition.registry import Registry
from orchestrator.definition.state import RunStatus
from orchestrator.discovery import FLOWS, Discovery
from orchestrator.engine import Engine
from orchestrator.errors import ConfigurationError, InvalidInput
from orchestrator.execution import task_names, tasks
from orchestrator.execution.celery_signals import CelerySignals
from orchestrator.execution.task_calls import TaskCalls
from orchestrator.execution.task_events import TaskEvents
from orchestrator.liveness.time_limit import TimeLimit
from orchestrator.maintenance import bootstep
from orchestrator.maintenance.eager_runs import warn_of_eager
from orchestrator.messaging import late_signal_handlers
from orchestrator.messaging.celery_addresses import address_of_runs
from orchestrator.middleware import Middlewares, WhenImported
from orchestrator.runs import FlowRun
from orchestrator.settings import Settings
from orchestrator.store.blocking_calls import call_in_thread
from orchestrator.store.run_store import Store

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from celery import Celery

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
        ConfigurationError: No Redis is known, or none that runs can live in (the message names the setting), or the
            app has an orchestrator with another one.
    """

    def __init__(self, app: Celery, redis_url: str | None = None, settings: Settings | None = None) -> None:
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
            RegistrationError: The name is another flow's, a task name is taken, or a shared limiter has other numbers.
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
    ) -> FlowRun:
        """Start a run; when this returns, the run is in Redis and will end.

        Args:
            flow: A flow, or the name of one that is registered here or announced by a worker.
            input: The run's input; validated here if the flow's code is, else by the worker.
            idempotency_key: The same key of the same flow returns the first run, as long as its record lives.
            tags: Text to text, stored with the run.

        Raises:
            UnknownFlow: The name is neither registered here nor announced; the nearest names are in the message.
            InvalidInput: The input does not fit the flow's `takes`; nothing was written.
            PayloadTooLarge: The input is over `Settings.max_payload_bytes`; nothing was written.
            IdempotencyConflict: The key belongs to a run with another input.
            ConfigurationError: The run would hang: the app does not declare a queue of it, or accepts no JSON; or its
                Redis forgets runs, and `Settings.evicting_store` says not to use such a one. Nothing was written.
            StoreUnavailable, StoreFull, StoreRefused: Redis; with an idempotency key it is safe to try again.
        """
        if self.app.conf.task_always_eager:
            warn_of_eager(str(self.app.main))
        start = starts.prepare(self._engine, flow, input, idempotency_key=idempotency_key, tags=tags)
        return FlowRun(self._engine, starts.send(self._engine, start))

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

    def runs(self, flow: str | Flow | None = None, status: str | None = None, limit: int = 100) -> list[FlowRun]:
        """List runs, newest first.

        Args:
            flow: Only those of this flow.
            status: Only those with this status.
            limit: At most so many.

        Raises:
            ValueError: There is no such status.
        """
        name = None if flow is None else _name_of(flow)
        if status is not None and status not in list(RunStatus):
            raise ValueError(f"{status!r} is not a run's status; use one of {', '.join(RunStatus)}")
        wanted = str(status) if status is not None else None
        ids = self._engine.store.run_ids(flow=name, status=wanted, limit=limit)
        return [FlowRun(self._engine, run_id) for run_id in ids]

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


def _add_engine(app: Celery, store: Store, settings: Settings) -> Engine:
    engine = Engine(app, settings, Registry(app.conf.task_default_queue, fused=settings.fused), store)
    engine.middlewares = Middlewares(
        (SENTRY, DJANGO, TaskEvents(app), CelerySignals(app), OPEN_TELEMETRY, TimeLimit(), TaskCalls(app)),
    )
    setattr(app, Engine.ATTRIBUTE, engine)
    tasks.register_engine_tasks(app)
    bootstep.add_to_workers(app)
    engine.discovery = Discovery(app, partial(_register, engine))
    late_signal_handlers.call_late_handlers(app, first=engine.discovery.catch_up)
    return engine


def _register(engine: Engine, flow: Flow) -> None:
    if engine.registry.flows.get(flow.name) is None:
        task_names.refuse_taken_names(engine.app, [f"{flow.name}.{name}" for name in _task_names(flow)])
    entry = engine.registry.add(flow)
    if entry is not None:
        tasks.register_nodes(engine.app, entry)
        schedules.add_to_beat(engine.app, entry)


def _name_of(flow: str | Flow) -> str:
    return flow.name if isinstance(flow, Flow) else flow


def _task_names(flow: Flow) -> Iterator[str]:
    yield from (node.name for node in flow.nodes())
    yield from (undo.name for _, undo in flow.compensations())
    yield from (block.name for block in flow.blocks())
    yield from (step.source for step in flow.maps())
