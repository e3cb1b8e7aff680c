"""Metrics of runs among Flower's own: taken from the first scrape on, by a thread that no scrape waits for."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import prometheus_client
from flower.views import monitor

from orchestrator.contrib.prometheus import Collector
from orchestrator.web.handler import find_orchestrator

logger = logging.getLogger(__name__)
_followed: set[int] = set()


class Metrics(monitor.Metrics):
    """Flower's page of metrics."""

    async def get(self) -> None:
        """Write Flower's metrics and those of runs."""
        if id(self.application) not in _followed:
            _followed.add(id(self.application))
            executor = getattr(self.application, "executor", None)
            await asyncio.get_running_loop().run_in_executor(executor, follow_runs, self.capp)
        await super().get()


def follow_runs(app: Any) -> None:
    """Register the collector of an app's runs; an app without an orchestrator has none."""
    orchestrator = find_orchestrator(app)
    if orchestrator is None:
        logger.warning("Flower's metrics have none of runs: the Celery app %r has no orchestrator", app.main)
        return
    collector = Collector(orchestrator)
    collector.start()
    prometheus_client.REGISTRY.register(collector)
