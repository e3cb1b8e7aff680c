"""Boot step that makes the engine part of a Celery worker which consumes a queue of a flow; others are left alone.

It starts after the pool and before the worker consumes or answers a ping.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

import billiard
from celery import bootsteps
from celery.concurrency.prefork import TaskPool
from celery.signals import worker_shutdown, worker_shutting_down

from orchestrator.engine import engine_of
from orchestrator.errors import ConfigurationError
from orchestrator.liveness.leases import forget_worker, name_worker
from orchestrator.liveness.pool_memory import PoolMemory
from orchestrator.liveness.pool_processes import close_memory, use_memory
from orchestrator.maintenance.flow_worker import FlowWorker, consumed_queues, flow_queues, misplaced_flows
from orchestrator.maintenance.spawned_pool import prepare_spawning

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)
IS_WINDOWS = sys.platform == "win32"


class OrchestratorStep(bootsteps.StartStopStep):
    """The engine's part of a worker.

    Attributes:
        takes_flows: Whether it is switched on.
    """

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **options: Any) -> None:
        """Prepare before the pool is made: its processes get what they share with this one when they begin.

        Raises:
            ConfigurationError: The worker cannot run flows.
        """
        super().__init__(parent, **options)
        self._worker = parent
        engine = engine_of(parent.app)
        self.takes_flows = bool(flow_queues(engine) & consumed_queues(engine))
        has_processes = issubclass(parent.pool_cls, TaskPool)
        # Celery's prefork pool does not run on Windows; only a worker that is to take flows is kept from starting.
        if self.takes_flows and has_processes and IS_WINDOWS:
            raise ConfigurationError("a worker on Windows runs flows with --pool=threads or --pool=solo only")
        name_worker()  # before the pool: its processes inherit the name in their environment
        is_spawned = has_processes and not is_forked(parent) and not IS_WINDOWS
        if is_spawned:
            self._memory = PoolMemory.named()
        else:
            self._memory = PoolMemory.inherited() if has_processes and not IS_WINDOWS else PoolMemory.own()
        use_memory(self._memory)
        if is_spawned:
            prepare_spawning(engine)
        # Also where no queue of a flow is consumed yet: remote control may add one at any time.
        self._flow_worker = FlowWorker(engine, parent, self._end)
        self._is_ended = False
        if self.takes_flows:
            self._flow_worker.prepare()

    def start(self, parent: Any) -> None:
        """Begin to take flows, if any of this worker's queues has some."""
        # A blueprint stops its steps in reverse order, so this one before the pool, whose nodes still need their
        # leases. What has to come after the pool hangs on the end of the blueprint.
        blueprint, stock = parent.blueprint, parent.blueprint.on_stopped

        def on_stopped() -> None:
            self._end()
            if stock is not None:
                stock()

        blueprint.on_stopped = on_stopped
        # Sent by the signal handler; `stop` comes when the consumer has stopped, and prefetched nodes may begin until
        # then.
        worker_shutting_down.connect(self._begin_shutdown, sender=parent.hostname)
        worker_shutdown.connect(self._end, sender=parent)
        if sentence := misplaced_flows(engine_of(parent.app)):
            logger.warning("%s", sentence)
        if self.takes_flows:
            self._flow_worker.start()

    def take_flows(self) -> None:
        """Take flows from now on: the worker was told by remote control to consume a queue of one."""
        if not self.takes_flows:
            self.takes_flows = True
            queues = sorted(consumed_queues(engine_of(self._worker.app)))
            logger.info("this worker takes flows from now on, it consumes %s", ", ".join(queues))
            self._flow_worker.prepare()
            self._flow_worker.start()

    def stop(self, _parent: Any) -> None:
        """Start no further node and let another worker lead; leases are kept while the pool ends its tasks."""
        if self.takes_flows:
            self._flow_worker.begin_shutdown()  # a worker that ends by itself got no signal
            self._flow_worker.step_down()

    def _begin_shutdown(self, **_: Any) -> None:
        if self.takes_flows:
            self._flow_worker.begin_shutdown()

    def _end(self, **_: Any) -> None:
        # Both worker_shutdown and the blueprint call this, and which one comes depends on how the worker ends.
        if self._is_ended:
            return
        self._is_ended = True
        if self.takes_flows:
            self._flow_worker.end()
        worker_shutting_down.disconnect(self._begin_shutdown, sender=self._worker.hostname)
        worker_shutdown.disconnect(self._end, sender=self._worker)
        close_memory(self._memory)
        forget_worker()


def is_forked(worker: Any) -> bool:
    """Return whether pool processes of a worker are copies of its main process."""
    # Either may say otherwise: Celery's own setting since 5.7 (celery#10584), or billiard's for the whole process.
    return getattr(worker, "pool_start_method", "fork") == "fork" and billiard.get_start_method() == "fork"


def add_to_workers(app: Celery) -> None:
    """Make the engine part of every worker of an app that takes flows."""
    app.steps["worker"].add(OrchestratorStep)
