"""Make flows known in pool processes that are not forked.

Such a process gets a copy of the worker's app, without any task, and imports the modules of Celery's own tasks. Those
in which an app with flows stands are added to them; importing them makes another app, whose flows the copy takes over.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

import billiard
from celery import Celery, current_app, signals
from celery.app.trace import build_tracer

from orchestrator.engine import Engine
from orchestrator.execution.tasks import register_engine_tasks, register_nodes
from orchestrator.liveness.pool_processes import expect_flows, in_pool_process, report_missing_flows, takes_flows
from orchestrator.messaging.socket_timeouts import limit_sockets

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)


def prepare_spawning(engine: Engine) -> None:
    """Make the pool processes of this worker import the modules that register its flows."""
    conf: Any = engine.app.conf
    # Celery imports the modules of `include` in each such process.
    found = [name for name, value in _globals() if value is engine.app or getattr(value, "_engine", None) is engine]
    conf.include = tuple(dict.fromkeys((*conf.include, *(name for name in found if name != "__main__"))))
    expect_flows(engine.registry.flows)


def _globals() -> Iterator[tuple[str, Any]]:
    """Yield apps and orchestrators among the globals of all modules, with the module's name."""
    # Copies: another thread may import meanwhile, and a dict that grows ends the loop with an error.
    for name, module in list(sys.modules.items()):
        for value in list(vars(module).values()) if hasattr(module, "__dict__") else ():
            # Not isinstance: it would wake proxies, of Django's settings for example.
            if issubclass(type(value), Celery) or type(value).__module__ == "orchestrator.client":
                yield name, value


@signals.worker_process_init.connect
def _take_over_flows(sender: Any = None, **_: object) -> None:
    """Give the app of this pool process the flows of the app that the user's modules made."""
    if not in_pool_process() or billiard.get_start_method() == "fork":
        return
    app = current_app._get_current_object()  # noqa: SLF001 - the app itself, to tell it from others
    known: Engine | None = getattr(app, Engine.ATTRIBUTE, None)
    engines = {id(engine): engine for engine in _engines(app.main)} if known is None else {id(known): known}
    if len(engines) > 1:
        logger.error("several apps with flows are called %r: give each a name of its own", app.main)
    elif engines:
        (engine,) = engines.values()
        if takes_flows():  # a forked process has them from its worker
            limit_sockets(app)
            limit_sockets(engine.app)
        engine.discovery.catch_up()
        setattr(app, Engine.ATTRIBUTE, engine)
        before = set(app.tasks)
        register_engine_tasks(app)
        for entry in engine.registry.flows.values():
            register_nodes(app, entry)
        for name in app.tasks.keys() - before:  # what Celery did with all that were there a moment ago
            task = app.tasks[name]
            task.__trace__ = build_tracer(name, task, app.loader, sender, app=app)
        report_missing_flows(engine.registry.flows)
    else:
        report_missing_flows(())


def _engines(main: str | None) -> Iterator[Engine]:
    for _, value in _globals():
        if isinstance(value, Celery) and value.main == main and hasattr(value, Engine.ATTRIBUTE):
            yield getattr(value, Engine.ATTRIBUTE)
