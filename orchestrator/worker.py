"""Worker built in a program: its queue, its number of processes, with or without a beat."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from celery import Celery

from orchestrator.client import Orchestrator
from orchestrator.definition.planning import make_plan
from orchestrator.engine import Engine, engine_of
from orchestrator.schedules import add_to_beat

if TYPE_CHECKING:
    from orchestrator.definition.flow import Flow

logger = logging.getLogger(__name__)
URL_VARIABLE = "ORCHESTRATOR_REDIS_URL"
LOCAL_URL = "redis://127.0.0.1:6379/0"


@dataclass(frozen=True)
class WorkerConfig:
    """Options of a worker.

    Attributes:
        task_queue: Queue that it consumes, and that its flows without a queue of their own use; None: the app's
            default, and the queues that its flows name.
        concurrency: Pool processes; None: one for each core.
        beat: Also fire schedules from this process; any number of beats fires each instant once.
        log_level: Celery's log level.
    """

    task_queue: str | None = None
    concurrency: int | None = None
    beat: bool = False
    log_level: str = "INFO"


class Worker:
    """A Celery worker for some flows.

    Args:
        app: The Celery app; None makes one on `ORCHESTRATOR_REDIS_URL`, else on the local default port.
    """

    def __init__(self, app: Celery | None = None) -> None:
        if app is None:
            url = os.environ.get(URL_VARIABLE) or LOCAL_URL
            app = Celery("orchestrator", broker=url, backend=url)
            app.conf.broker_connection_retry_on_startup = True
        self.app = app
        self._config = WorkerConfig()
        self._flows: list[Flow] = []

    def with_config(self, config: WorkerConfig) -> Self:
        """Use these numbers."""
        self._config = config
        return self

    def with_flow(self, flow: Flow) -> Self:
        """Also run this flow."""
        self._flows.append(flow)
        return self

    def queues(self) -> list[str]:
        """Return the queues that the worker consumes; queues that only single nodes name are left to other workers."""
        if self._config.task_queue is not None:
            return [self._config.task_queue]
        return list(dict.fromkeys([*self.app.amqp.queues, *(flow.queue for flow in self._flows if flow.queue)]))

    def arguments(self) -> list[str]:
        """Return the command line of the Celery worker that `run` becomes."""
        config = self._config
        # Named by the process: two workers of one name on a host are one to remote control and to monitors.
        arguments = ["worker", "--loglevel", config.log_level, "--hostname", f"orchestrator-{os.getpid()}@%h"]
        arguments += ["--queues", ",".join(self.queues())]
        if config.concurrency is not None:
            arguments += ["--concurrency", str(config.concurrency)]
        if config.beat:
            # In memory: Redis has the last instant of each schedule, so beat needs no file of its own.
            arguments += ["--beat", "--scheduler", "celery.beat:Scheduler"]
        return arguments

    def run(self) -> None:
        """Register the flows and work until the process is told to end.

        Raises:
            RegistrationError: A flow cannot be registered.
        """
        self.register_flows()
        self.app.worker_main(self.arguments())

    def register_flows(self) -> None:
        """Register the flows, those without a queue of their own for the worker's.

        The app's configuration stays as it is: its own tasks keep their default queue.

        Raises:
            RegistrationError: A flow cannot be registered.
        """
        known: Engine | None = getattr(self.app, Engine.ATTRIBUTE, None)
        orchestrator = (
            Orchestrator(self.app, known.store.address.url, known.settings) if known else Orchestrator(self.app)
        )
        registry = engine_of(self.app).registry
        registry.queue = self._config.task_queue or registry.queue
        for flow in self._flows:
            orchestrator.register(flow)
            plan = make_plan(flow, registry.queue, fused=registry.fused)
            if plan != registry.flows[flow.name].plan:
                # It was registered before, for the app's default queue.
                registry.flows[flow.name] = replace(registry.flows[flow.name], plan=plan)
                add_to_beat(self.app, registry.flows[flow.name])
            elsewhere = {plan.queue, *(node.queue for node in plan.nodes.values())}.difference(self.queues())
            if elsewhere:
                logger.warning("flow %s: another worker has to consume %s", flow.name, ", ".join(sorted(elsewhere)))
