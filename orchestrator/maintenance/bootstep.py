"""What a Celery worker does for runs besides its tasks: announces its flows, keeps leases, reconciles, and ends well.

A boot step of the worker's blueprint; it starts after the pool and before the worker consumes or answers a ping.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import bootsteps
from celery.signals import worker_shutdown, worker_shutting_down

from orchestrator.engine import Engine, engine_of
from orchestrator.errors import StoreError
from orchestrator.liveness.leases import LeaseRenewer, Watchdog, name_worker, start_draining
from orchestrator.maintenance.preflight import warn_of_problems
from orchestrator.maintenance.reconciler import Reconciler
from orchestrator.maintenance.run_events import Monitor
from orchestrator.maintenance.worker_state import describe_worker
from orchestrator.messaging import memory_unacked, resilient_broker
from orchestrator.messaging.accepted_content import accept_json
from orchestrator.messaging.socket_timeouts import limit_sockets
from orchestrator.schedules import remember_slots
from orchestrator.sparing_log import warn_sparingly

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)
ANNOUNCE_EVERY_S = 1.0


class OrchestratorStep(bootsteps.StartStopStep):
    """The engine's part of a worker."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **options: Any) -> None:
        """Name the worker before its pool is forked."""
        super().__init__(parent, **options)
        name_worker()
        resilient_broker.install()
        memory_unacked.install()
        limit_sockets(parent.app)
        if engine_of(parent.app).settings.accept_json:
            accept_json(parent.app, parent.hostname)
        conf = parent.app.conf
        if not is_chosen(conf, "broker_connection_max_retries"):
            conf.broker_connection_max_retries = None  # Celery gives up on a Redis that is away for 45 minutes
        default = conf.worker_prefetch_multiplier
        if not is_chosen(conf, "worker_prefetch_multiplier") and parent.prefetch_multiplier == default:
            parent.prefetch_multiplier = 1  # a prefetched message waits behind a long node while other workers are idle
        self.lease_renewer: LeaseRenewer
        self.reconciler: Reconciler
        self.worker = parent
        self._ending = False
        self._ended = threading.Event()

    def start(self, parent: Any) -> None:
        """Announce the flows and start the threads."""
        engine = engine_of(parent.app)
        resilient_broker.connect_again_when_refused(parent.consumer)
        if announce_flows(engine):
            warn_of_problems(engine)
        else:
            threading.Thread(target=self._announce_later, args=(engine,), daemon=True).start()
        self.lease_renewer = LeaseRenewer(engine, partial(describe_worker, parent))
        self.lease_renewer.start()
        Watchdog(self.lease_renewer).start()
        self.reconciler = Reconciler(engine, Monitor(engine, parent))
        self.reconciler.start()
        worker_shutting_down.connect(self._begin_shutdown, weak=False)
        worker_shutdown.connect(self._end_shutdown, weak=False)

    def stop(self, _parent: Any) -> None:
        """Let another worker lead; leases are kept while the pool ends its tasks."""
        self._begin_shutdown()  # a worker that ends by itself was sent no signal
        self.reconciler.stop()

    def _announce_later(self, engine: Engine) -> None:
        while not announce_flows(engine):
            time.sleep(ANNOUNCE_EVERY_S)
        warn_of_problems(engine)

    def _begin_shutdown(self, **_: Any) -> None:
        if self._ending:
            return
        self._ending = True
        start_draining()
        threading.Thread(target=self._end_grace, name="orchestrator-grace", daemon=True).start()

    def _end_grace(self) -> None:
        """Give running nodes the time to end; then their claims go back at once, and the process ends."""
        grace = self.lease_renewer.engine.settings.shutdown_grace.total_seconds()
        if self._ended.wait(grace):
            return
        logger.warning("still running after %g s of grace: the nodes are given back", grace)
        self.lease_renewer.stop_children("its worker was shut down")
        os._exit(self.worker.exitcode or 0)

    def _end_shutdown(self, **_: Any) -> None:
        self.lease_renewer.give_back(self.lease_renewer.holders(), "its worker was shut down")
        self._ended.set()


def is_chosen(conf: Any, name: str) -> bool:
    """Whether the user set it, to whatever value."""
    return any(name in source for source in conf.maps[:-1])


def announce_flows(engine: Engine) -> bool:
    """Announce every flow of this process; False when Redis did not answer."""
    try:
        for entry in engine.registry.flows.values():
            engine.announce(entry)
            with engine.store.guarded():
                remember_slots(engine, entry)
    except StoreError as error:
        warn_sparingly(logger, "flows are not announced yet: %s", error)
        return False
    return True


def add_to_workers(app: Celery) -> None:
    """Make the engine part of every worker of an app."""
    app.steps["worker"].add(OrchestratorStep)
