"""A worker from one program, in the builder's words: which queue, how many processes, with a beat or not."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from celery import Celery

from orchestrator.client import Orchestrator

if TYPE_CHECKING:
    from orchestrator.flow import Flow

URL_VARIABLE = "ORCHESTRATOR_REDIS_URL"
LOCAL_URL = "redis://127.0.0.1:6379/0"


@dataclass(frozen=True)
class WorkerConfig:
    """How a worker runs.

    Attributes:
        task_queue: Queue that it consumes, and that its flows without a queue of their own use; None: the app's default.
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
            url = os.environ.get(URL_VARIABLE, LOCAL_URL)
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

    def arguments(self) -> list[str]:
        """The command line of the Celery worker that `run` becomes."""
        config = self._config
        arguments = ["worker", "--loglevel", config.log_level, "--hostname", f"orchestrator-{os.getpid()}@%h"]
        if config.concurrency is not None:
            arguments += ["--concurrency", str(config.concurrency)]
        if config.task_queue is not None:
            arguments += ["--queues", config.task_queue]
        if config.beat:
            # In memory: the stored slots say what was fired, so beat needs no file of its own.
            arguments += ["--beat", "--scheduler", "celery.beat:Scheduler"]
        return arguments

    def run(self) -> None:
        """Register the flows and work until the process is told to end; does not return.

        Raises:
            RegistrationError: A flow cannot be registered.
        """
        if self._config.task_queue is not None:
            self.app.conf.task_default_queue = self._config.task_queue
        orchestrator = Orchestrator(self.app)
        for flow in self._flows:
            orchestrator.register(flow)
        self.app.worker_main(self.arguments())
