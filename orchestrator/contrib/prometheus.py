"""Metrics of runs for Prometheus: one collector over the store, in whatever process shows them.

A thread of its own takes a snapshot every 10 s; a scrape only reads the last one, so that it never waits for Redis.
Labels hold names of flows, queues, limits and workers' code, and never a run's id, an item or a user's text.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily

from orchestrator.engine import engine_of
from orchestrator.errors import OrchestratorError
from orchestrator.messaging.queue_inspection import look_at_queue
from orchestrator.schedules import instants
from orchestrator.sparing_log import warn_sparingly

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import timedelta

    from orchestrator.client import Orchestrator
    from orchestrator.engine import Engine

logger = logging.getLogger(__name__)
SNAPSHOT_EVERY_S = 10.0
MOST_CLAIMS = 1000
ENDED = ("succeeded", "failed", "cancelled", "compensation_failed")
QUANTILES = {"0.5": "p50", "0.95": "p95"}
METRICS = {
    "orchestrator_up": ("Whether the last snapshot could be taken.", ()),
    "orchestrator_snapshot_age_seconds": ("Age of what the other metrics say.", ()),
    "orchestrator_runs": ("Runs by flow and status; open: pending, running and compensating.", ("flow", "status")),
    "orchestrator_run_ends": ("Runs that ended in this hour and the one before.", ("flow", "status")),
    "orchestrator_run_duration_seconds": ("Durations of the same, half and 95 of 100.", ("flow", "quantile")),
    "orchestrator_node_duration_seconds": ("Durations of their nodes.", ("flow", "node", "quantile")),
    "orchestrator_sampled_share": ("Share of these runs whose nodes were measured.", ("flow",)),
    "orchestrator_queue_ready": ("Messages in a queue of flows.", ("queue",)),
    "orchestrator_queue_running": ("Nodes of a queue that run now.", ("queue",)),
    "orchestrator_queue_oldest_ready_seconds": ("Age of the oldest message of a node in a queue.", ("queue",)),
    "orchestrator_queue_load": ("Ready and running together: the number for an autoscaler.", ("queue",)),
    "orchestrator_queue_consumers": ("Workers that consume a queue.", ("queue",)),
    "orchestrator_limit_waiting": ("Nodes in the wait queue of a limit.", ("limit",)),
    "orchestrator_limit_longest_wait_seconds": ("Wait of the first of them.", ("limit",)),
    "orchestrator_limit_frozen": ("Whether a limit is frozen.", ("limit",)),
    "orchestrator_schedule_lag_seconds": ("Age of the oldest instant of a schedule that no tick has taken.", ("flow",)),
    "orchestrator_schedules_paused": ("Schedules that are paused.", ("flow",)),
    "orchestrator_workers": ("Workers that have a flow.", ("flow",)),
    "orchestrator_expired_leases": ("Pool processes whose lease has ended and that nobody has cleared.", ()),
}
"""Every metric: what it says, and its labels. A test holds dashboard and alerts to these names."""
Samples = dict[str, dict[tuple[str, ...], float]]


@dataclass(frozen=True)
class Snapshot:
    """Values of one instant, by metric and labels."""

    at: datetime
    is_up: bool
    samples: Mapping[str, Mapping[tuple[str, ...], float]] = field(default_factory=dict)


class Collector:
    """Hands the last snapshot to a registry of prometheus_client.

    Args:
        orchestrator: Whose runs.

    Example:
        >>> collector = Collector(orchestrator)  # doctest: +SKIP
        >>> prometheus_client.REGISTRY.register(collector)  # doctest: +SKIP
        >>> collector.start()  # doctest: +SKIP
    """

    def __init__(self, orchestrator: Orchestrator) -> None:
        self._orchestrator = orchestrator
        self._last = Snapshot(datetime.now(UTC), is_up=False)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="orchestrator-metrics", daemon=True)

    def start(self) -> None:
        """Take a snapshot now, and one every 10 s from then on."""
        self.refresh()
        self._thread.start()

    def stop(self) -> None:
        """Take no more."""
        self._ended.set()

    def _follow(self) -> None:
        while not self._ended.wait(SNAPSHOT_EVERY_S):
            self.refresh()

    def refresh(self) -> None:
        """Take a snapshot; a failure is one too, which keeps the values of the one before."""
        try:
            samples = take(self._orchestrator)
        except OrchestratorError as error:
            warn_sparingly(logger, "metrics: %s", error)
            self._last = Snapshot(self._last.at, is_up=False, samples=self._last.samples)
            return
        self._last = Snapshot(datetime.now(UTC), is_up=True, samples=samples)

    def describe(self) -> list[GaugeMetricFamily]:
        """Return nothing, so that a registry does not collect in order to learn the names."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield every metric as the last snapshot has it."""
        last = self._last
        age = (datetime.now(UTC) - last.at).total_seconds()
        own: Samples = {"orchestrator_up": {(): float(last.is_up)}, "orchestrator_snapshot_age_seconds": {(): age}}
        for name, (text, labels) in METRICS.items():
            family = GaugeMetricFamily(name, text, labels=labels)
            for values, value in (own.get(name) or last.samples.get(name, {})).items():
                family.add_metric(list(values), value)
            yield family


def take(orchestrator: Orchestrator) -> Samples:
    """Read every value from the store and the queues.

    Raises:
        StoreError: Redis.
    """
    engine = engine_of(orchestrator.app)
    engine.discovery.catch_up()
    found: Samples = {name: {} for name in METRICS}
    for counts in orchestrator.counts():
        for status in ("open", *ENDED):
            found["orchestrator_runs"][counts.flow, status] = getattr(counts, status)
    _add_statistics(orchestrator, found)
    _add_queues(engine, orchestrator, found)
    _add_limits(orchestrator, found)
    _add_schedules(engine, orchestrator, found)
    return found


def _add_statistics(orchestrator: Orchestrator, found: Samples) -> None:
    for each in orchestrator.statistics(hours=2):
        for status in ENDED:
            found["orchestrator_run_ends"][each.flow, status] = each.ends.get(status, 0)
        found["orchestrator_sampled_share"][each.flow,] = each.sampled
        for quantile, name in QUANTILES.items():
            took: timedelta | None = getattr(each.runs, name)
            if took is not None:
                found["orchestrator_run_duration_seconds"][each.flow, quantile] = took.total_seconds()
            for node, durations in each.nodes.items():
                took = getattr(durations, name)
                if took is not None:
                    found["orchestrator_node_duration_seconds"][each.flow, node, quantile] = took.total_seconds()


def _add_queues(engine: Engine, orchestrator: Orchestrator, found: Samples) -> None:
    store, workers = engine.store, orchestrator.workers()
    with store.guarded():
        now = store.now_ms()
        holders = store.upkeep.holders()
        running = _running_by_queue(engine, [holder for holder, lease_end in holders if lease_end >= now])
        plans = [entry.plan for entry in engine.registry.flows.values()]
        plans += [plan for name in store.announced() if (plan := store.announced_plan(name)) is not None]
    found["orchestrator_expired_leases"][()] = sum(lease_end < now for _, lease_end in holders)
    for queue in sorted({queue for plan in plans for queue in (plan.queue, *(n.queue for n in plan.nodes.values()))}):
        head = look_at_queue(engine.app, queue)
        ready = head.length or 0
        found["orchestrator_queue_ready"][queue,] = ready
        found["orchestrator_queue_running"][queue,] = running[queue]
        found["orchestrator_queue_load"][queue,] = ready + running[queue]
        found["orchestrator_queue_consumers"][queue,] = sum(queue in worker.queues for worker in workers)
        age = 0 if head.oldest is None else max(now - head.oldest, 0) / 1000
        found["orchestrator_queue_oldest_ready_seconds"][queue,] = age
    for flow in {plan.flow for plan in plans}:
        found["orchestrator_workers"][flow,] = sum(flow in worker.flows for worker in workers)


def _running_by_queue(engine: Engine, holders: list[str]) -> Counter[str]:
    claims = [claim for holder in holders for claim in engine.store.claims(holder)][:MOST_CLAIMS]
    running: Counter[str] = Counter()
    for claim in claims:
        pinned = engine.pinned(claim.run_id)
        node = pinned[1].nodes.get(claim.node.partition("[")[0]) if pinned else None
        if node is not None:
            running[node.queue] += 1
    return running


def _add_limits(orchestrator: Orchestrator, found: Samples) -> None:
    now = datetime.now(UTC)
    for row in orchestrator.limits():
        wait = (now - row.longest_wait).total_seconds() if row.longest_wait else 0.0
        found["orchestrator_limit_waiting"][row.name,] = row.waiting
        found["orchestrator_limit_longest_wait_seconds"][row.name,] = max(wait, 0.0)
        found["orchestrator_limit_frozen"][row.name,] = float(row.frozen_until is not None)


def _add_schedules(engine: Engine, orchestrator: Orchestrator, found: Samples) -> None:
    now = datetime.fromtimestamp(engine.store.now_ms() / 1000, UTC)
    for row in orchestrator.schedules():
        key = (row.flow,)
        paused = found["orchestrator_schedules_paused"]
        paused[key] = paused.get(key, 0.0) + row.is_paused
        lags = found["orchestrator_schedule_lag_seconds"]
        missed = None
        if row.last is not None and not row.is_paused:
            missed = next(iter(instants(row.cron, row.timezone, after=row.last, until=now - row.jitter)), None)
        lags[key] = max(lags.get(key, 0.0), (now - missed).total_seconds() if missed else 0.0)
