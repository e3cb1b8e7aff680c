"""Run the engine's part of a worker that takes flows: patches, announcements, leases, reconciling, and a good end.

It begins with the worker, or with the first message of a flow in a worker that was asked by remote control to consume
its queue; nothing of it outlives the worker, which may be a thread of somebody's test.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.errors import StoreError
from orchestrator.execution.event_loop import close_loop
from orchestrator.execution.local_fan_out import end_threads
from orchestrator.liveness.fork_gate import gate
from orchestrator.liveness.leases import LeaseRenewer
from orchestrator.liveness.pool_processes import note_taking_flows, prepare_forks, start_draining
from orchestrator.liveness.watchdog import Watchdog
from orchestrator.maintenance.early_ack import EarlyAck
from orchestrator.maintenance.preflight import warn_of_problems
from orchestrator.maintenance.reconciler import Reconciler
from orchestrator.maintenance.run_events import Monitor
from orchestrator.maintenance.unknown_nodes import unknown_nodes_passed_on
from orchestrator.maintenance.worker_state import describe_worker, waiting_messages
from orchestrator.messaging.accepted_content import accept_json
from orchestrator.messaging.engine_task import ignored_limits
from orchestrator.messaging.patches import AT_START, BEFORE_POOL, patched
from orchestrator.messaging.socket_timeouts import limit_sockets
from orchestrator.schedules import remember_slots
from orchestrator.sparing_log import warn_sparingly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator.engine import Engine

logger = logging.getLogger(__name__)
ANNOUNCE_EVERY_S = 1.0
JOIN_S = 1.0
"""Longest wait for a thread that was told to end; one that waits for Redis is left to end by itself."""


class FlowWorker:
    """The engine's part of one worker.

    Args:
        engine: The engine of the worker's app.
        worker: Celery's worker.
        leave: Called before the process is ended by force; calls `end`.
    """

    def __init__(self, engine: Engine, worker: Any, leave: Callable[[], None]) -> None:
        self._engine = engine
        self._worker = worker
        self._leave = leave
        self._grace_s = engine.settings.shutdown_grace.total_seconds()
        self._patches = ExitStack()
        self._lease_renewer = LeaseRenewer(engine, partial(describe_worker, worker), waiting_messages)
        self._watchdog = Watchdog(self._lease_renewer, self.begin_shutdown, self._end_by_force)
        self._reconciler = Reconciler(engine, Monitor(engine, worker))
        self._early_ack = EarlyAck(worker)
        self._announcer = threading.Thread(target=self._announce, name="orchestrator-announcer", daemon=True)
        self._ended = threading.Event()
        self._is_own_process = False

    def prepare(self) -> None:
        """Set up what the pool, the consumer and their connections have to find when they are made."""
        note_taking_flows()
        prepare_forks()
        self._patches.enter_context(patched(BEFORE_POOL, self._worker, self._engine.settings))
        # Before any connection is made: kombu reads its transport options when it opens one, and never again.
        limit_sockets(self._engine.app)
        if self._engine.settings.accept_json:
            accept_json(self._engine.app, self._worker.hostname)
        conf = self._engine.app.conf
        if not is_chosen(conf, "broker_connection_max_retries"):
            conf.broker_connection_max_retries = None  # Celery gives up on a Redis that is away for 45 minutes
        multiplier = self._worker.prefetch_multiplier
        is_default = not is_chosen(conf, "worker_prefetch_multiplier") and multiplier == conf.worker_prefetch_multiplier
        if is_default and not shared_queues(self._engine):
            # A prefetched message waits behind a long node while other workers are idle.
            self._worker.prefetch_multiplier = 1

    def start(self) -> None:
        """Announce the flows and start the threads."""
        # Not in `prepare`: the consumer that some of them change is made in between.
        self._patches.enter_context(patched(AT_START, self._worker, self._engine.settings))
        self._patches.enter_context(unknown_nodes_passed_on(self._worker.consumer))
        # Only the process of a worker may be ended by force, not that of a test with a worker in a thread.
        self._is_own_process = threading.current_thread() is threading.main_thread()
        for sentence in (*ignored_limits(self._engine.app, self._worker), *self._prefetch_problems()):
            logger.warning("%s", sentence)
        if announce_flows(self._engine):
            warn_of_problems(self._engine)
        else:  # Redis is away: the worker starts all the same, and announces its flows later
            self._announcer.start()
        self._reconciler.evictions.look(leads=False)  # before the first message
        self._lease_renewer.start()
        self._watchdog.start()
        self._reconciler.start()
        self._early_ack.begin()

    def _prefetch_problems(self) -> Iterator[str]:
        shared = shared_queues(self._engine)
        multiplier = self._worker.prefetch_multiplier
        if shared and multiplier != 1:
            yield (
                f"this worker takes other tasks too, from queue {', '.join(shared)}, and prefetches "
                f"{multiplier or 'any number of'} messages for each process: a node may wait behind a long task while "
                "other workers are idle. Give the flows a queue of their own, by FlowBuilder.on_queue(...), and a "
                "worker for it, by -Q, or set worker_prefetch_multiplier = 1"
            )

    def _announce(self) -> None:
        while not self._ended.wait(ANNOUNCE_EVERY_S):
            with gate.closed():
                if announce_flows(self._engine):
                    warn_of_problems(self._engine)
                    return

    def begin_shutdown(self) -> None:
        """Start no further node, and give running ones their grace; safe in a signal handler: it waits for nothing."""
        # First: what begins later has less than the grace.
        start_draining()
        self._watchdog.begin_grace(self._grace_s)

    def step_down(self) -> None:
        """Let another worker lead; leases are kept while the pool ends its tasks."""
        self._reconciler.stop()

    def _end_by_force(self) -> None:
        logger.warning("still running after %g s of grace: the nodes are given back", self._grace_s)
        self._lease_renewer.stop_children("its worker was shut down")
        if self._is_own_process:
            self._leave()
            # sys.exit() would end this thread alone, and leave the main thread waiting for its pool.
            os._exit(self._worker.exitcode or 0)

    def end(self) -> None:
        """Give back what the pool has left, and leave nothing in this process; again does nothing."""
        if self._ended.is_set():
            return
        self._ended.set()
        threads = (self._announcer, self._watchdog, self._lease_renewer, *self._reconciler.threads)
        self._early_ack.end()
        self._watchdog.end()
        self._lease_renewer.end()
        self._reconciler.stop()
        for thread in threads:
            # The watchdog's thread gets here when it ends the worker by force, and cannot wait for itself.
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(JOIN_S)
        end_threads(JOIN_S)
        close_loop()
        # With its thread ended: it would renew the leases that are given up here.
        self._lease_renewer.give_back(self._lease_renewer.holders(), "its worker was shut down")
        self._lease_renewer.withdraw()
        # Not before the consumer has stopped: what kombu gives back goes through them.
        self._patches.close()


def flow_queues(engine: Engine) -> set[str]:
    """Return the queues in which flows of this process have nodes, or messages of their own."""
    plans = [entry.plan for entry in engine.registry.flows.values()]
    return {queue for plan in plans for queue in (plan.queue, *(node.queue for node in plan.nodes.values()))}


def consumed_queues(engine: Engine) -> set[str]:
    """Return the queues that this worker consumes."""
    return set(engine.app.amqp.queues.consume_from)


def shared_queues(engine: Engine) -> list[str]:
    """Return the consumed queues that may hold other tasks: the app's default, and any that no flow names."""
    consumed, default = consumed_queues(engine), engine.app.conf.task_default_queue
    return sorted(queue for queue in consumed if queue == default or queue not in flow_queues(engine))


def misplaced_flows(engine: Engine) -> str:
    """Return a sentence if flows wait in what was the app's default queue before it was given another one; else ""."""
    before, default = engine.registry.queue, engine.app.conf.task_default_queue
    if before == default or before in consumed_queues(engine):
        return ""
    flows = sorted(name for name, entry in engine.registry.flows.items() if entry.flow.queue is None)
    if not flows:
        return ""
    return (
        f"task_default_queue of the Celery app {engine.app.main!r} was {before} at Orchestrator(app) and is {default} "
        f"now: runs of flow {', '.join(flows)} wait in queue {before}, which this worker does not consume. Put "
        "Orchestrator(app) after the configuration of the app"
    )


def is_chosen(conf: Any, name: str) -> bool:
    """Return whether the user set it, to whatever value."""
    # The last map has Celery's own defaults.
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
