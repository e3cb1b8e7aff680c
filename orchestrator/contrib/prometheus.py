"""Metrics of runs for Prometheus: one collector over the store, in whatever process shows them.

A thread of its own takes a snapshot every 10 s; a scrape only reads the last one, so that it never waits for Redis.
Labels hold names of flows, queues, limits and workers' code, and never a run's id, an item or a user's text, but for
values of the tags that `Settings.metric_tags` names: in metrics of their own, `orchestrator_tagged_...`, up to a bound.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from orchestrator.definition.plan import node_of
from orchestrator.engine import engine_of
from orchestrator.errors import OrchestratorError
from orchestrator.messaging.queue_inspection import look_at_queue
from orchestrator.schedules import instants
from orchestrator.sparing_log import log_error_sparingly, warn_sparingly
from orchestrator.store.tagged_ends import read_tagged_ends
from orchestrator.store.totals import Histogram, read_totals
from orchestrator.store.waiting_rows import KINDS, count_waiting

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from prometheus_client.core import Metric as Family

    from orchestrator.client import Orchestrator
    from orchestrator.engine import Engine

logger = logging.getLogger(__name__)
SNAPSHOT_EVERY_S = 10.0
AT_ONCE = 1000
ENDED = ("succeeded", "failed", "cancelled", "compensation_failed")
DOUBLINGS = range(2, 28)
"""Buckets of the histograms: up to 2 ** k ms, from 4 ms to 37 hours."""
T = TypeVar("T")
Labels = tuple[str, ...]
Samples = dict[str, dict[Labels, "float | Histogram"]]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        family: How Prometheus is told of it.
        text: What it says.
        labels: Names of its labels.
    """

    family: type[GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily]
    text: str
    labels: tuple[str, ...] = ()


def _gauge(text: str, *labels: str) -> Metric:
    return Metric(GaugeMetricFamily, text, labels)


def _counter(text: str, *labels: str) -> Metric:
    return Metric(CounterMetricFamily, text, labels)


def _histogram(text: str, *labels: str) -> Metric:
    return Metric(HistogramMetricFamily, text, labels)


METRICS = {
    "orchestrator_up": _gauge("Whether the last snapshot could be taken."),
    "orchestrator_snapshot_age_seconds": _gauge("Age of what the other metrics say."),
    "orchestrator_runs": _gauge("Runs by flow and status; open: those that have not ended.", "flow", "status"),
    "orchestrator_runs_paused": _gauge("Runs that are paused until somebody resumes them; they are open too.", "flow"),
    "orchestrator_run_ends": _counter("Runs that ended, by status.", "flow", "status"),
    "orchestrator_tagged_run_ends": _counter(
        "Runs that ended, by the values of tags in metric_tags.", "flow", "status", "tag", "value"
    ),
    "orchestrator_tagged_run_seconds": _counter("How long these took together.", "flow", "tag", "value"),
    "orchestrator_run_duration_seconds": _histogram("From the start of a run to its end.", "flow"),
    "orchestrator_node_duration_seconds": _histogram("Last attempts of nodes, of a sample of runs.", "flow", "node"),
    "orchestrator_queue_wait_seconds": _histogram("From ready to started, of nodes of the same sample.", "queue"),
    "orchestrator_node_attempts": _counter(
        "Attempts without an output: retried, throttled, failed, lost, timed_out.", "flow", "node", "outcome"
    ),
    "orchestrator_sampled_share": _gauge("Share of the last two hours' runs whose nodes were measured.", "flow"),
    "orchestrator_queue_ready": _gauge("Messages in a queue of flows.", "queue"),
    "orchestrator_queue_running": _gauge("Nodes of a queue that run now.", "queue"),
    "orchestrator_queue_oldest_ready_seconds": _gauge("Age of the oldest message of a node in a queue.", "queue"),
    "orchestrator_queue_load": _gauge("Ready and running together: the number for an autoscaler.", "queue"),
    "orchestrator_queue_consumers": _gauge("Workers that consume a queue.", "queue"),
    "orchestrator_timers": _gauge("Nodes that wait for their next attempt, and deadlines of runs."),
    "orchestrator_nodes_waiting": _gauge("Nodes that wait for somebody: approval, signal or callback.", "kind"),
    "orchestrator_nodes_longest_wait_seconds": _gauge("Wait of the first of them.", "kind"),
    "orchestrator_limit_waiting": _gauge("Nodes in the wait queue of a limit.", "limit"),
    "orchestrator_limit_longest_wait_seconds": _gauge("Wait of the first of them.", "limit"),
    "orchestrator_limit_frozen": _gauge("Whether a limit is frozen.", "limit"),
    "orchestrator_schedule_lag_seconds": _gauge("Age of the oldest instant that no tick has taken.", "flow"),
    "orchestrator_schedules_paused": _gauge("Schedules that are paused.", "flow"),
    "orchestrator_workers": _gauge("Workers that have a flow.", "flow"),
    "orchestrator_expired_leases": _gauge("Pool processes whose lease has ended and that nobody has cleared."),
}
"""Every metric by its name. Prometheus adds `_total` to a counter, `_bucket`, `_sum` and `_count` to a histogram."""


@dataclass(frozen=True)
class Snapshot:
    """Values of one instant, by metric and labels."""

    at: datetime
    is_up: bool
    samples: Mapping[str, Mapping[Labels, float | Histogram]] = field(default_factory=dict)


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
        except Exception as error:  # noqa: BLE001 - the thread would end, and its last values would look fresh for good
            if isinstance(error, OrchestratorError):
                warn_sparingly(logger, "metrics: %s", error)
            else:
                log_error_sparingly(logger, error, "metrics: no snapshot could be taken")
            self._last = Snapshot(self._last.at, is_up=False, samples=self._last.samples)
            return
        self._last = Snapshot(datetime.now(UTC), is_up=True, samples=samples)

    def describe(self) -> list[Family]:
        """Return nothing, so that a registry does not collect in order to learn the names."""
        return []

    def collect(self) -> Iterator[Family]:
        """Yield every metric as the last snapshot has it."""
        last = self._last
        age = (datetime.now(UTC) - last.at).total_seconds()
        own: Samples = {"orchestrator_up": {(): float(last.is_up)}, "orchestrator_snapshot_age_seconds": {(): age}}
        for name, metric in METRICS.items():
            family: Any = metric.family(name, metric.text, labels=metric.labels)
            for labels, value in (own.get(name) or last.samples.get(name, {})).items():
                if isinstance(value, Histogram):
                    family.add_metric(list(labels), *_cumulated(value))
                else:
                    family.add_metric(list(labels), value)
            yield family


def _cumulated(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    """Buckets as Prometheus wants them, each with all below it, and the sum in seconds."""
    counts = histogram.doublings
    rows = [(str(2**top / 1000), float(sum(counts[k] for k in counts if k <= top))) for top in DOUBLINGS]
    return [*rows, ("+Inf", float(counts.total()))], histogram.sum_ms / 1000


def take(orchestrator: Orchestrator) -> Samples:
    """Read every value from the store and the queues.

    Raises:
        StoreError: Redis.
    """
    engine = engine_of(orchestrator.app)
    engine.discovery.catch_up()
    found: Samples = {name: {} for name in METRICS}
    for counts in orchestrator.counts(children=True):
        for status in ("open", *ENDED):
            found["orchestrator_runs"][counts.flow, status] = getattr(counts, status)
        found["orchestrator_runs_paused"][counts.flow,] = counts.paused
    _add_totals(engine, orchestrator, found)
    _add_tagged(engine, found)
    _add_queues(engine, orchestrator, found)
    _add_waiting(engine, orchestrator, found)
    _add_limits(orchestrator, found)
    _add_schedules(engine, orchestrator, found)
    return found


def _add_totals(engine: Engine, orchestrator: Orchestrator, found: Samples) -> None:
    shares = {each.flow: each.sampled for each in orchestrator.statistics(hours=2)}
    waits: dict[str, Histogram] = {}
    for each in read_totals(engine.store, shares):
        found["orchestrator_sampled_share"][each.flow,] = shares[each.flow]
        for status in ENDED:
            found["orchestrator_run_ends"][each.flow, status] = each.ends[status]
        found["orchestrator_run_duration_seconds"][each.flow,] = each.runs
        for node, durations in each.nodes.items():
            found["orchestrator_node_duration_seconds"][each.flow, node] = durations
        for (node, outcome), count in each.attempts.items():
            found["orchestrator_node_attempts"][each.flow, node, outcome] = count
        for queue, durations in each.waits.items():
            together = waits.setdefault(queue, Histogram())
            together.doublings += durations.doublings
            together.sum_ms += durations.sum_ms
    for queue, durations in waits.items():
        found["orchestrator_queue_wait_seconds"][queue,] = durations


def _add_tagged(engine: Engine, found: Samples) -> None:
    for each in read_tagged_ends(engine.store, engine.settings.metric_tags):
        for (flow, status), count in each.ends.items():
            found["orchestrator_tagged_run_ends"][flow, status, each.tag, each.value] = count
        for flow, spent_ms in each.spent_ms.items():
            found["orchestrator_tagged_run_seconds"][flow, each.tag, each.value] = spent_ms / 1000


def _add_queues(engine: Engine, orchestrator: Orchestrator, found: Samples) -> None:
    store, workers = engine.store, orchestrator.workers()
    with store.guarded():
        now = store.now_ms()
        found["orchestrator_timers"][()] = store.upkeep.timers()
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
    """Count the claims of processes by the queue of their node: all of them, two round trips for each thousand."""
    claims = [claim for some in _portions(holders) for claim in engine.store.claims(*some)]
    running: Counter[str] = Counter()
    for some in _portions(claims):
        hashes = [plan for plan, _ in engine.store.pins([claim.run_id for claim in some])]
        plans = engine.store.plans(set(hashes) - {""})
        for claim, plan in zip(some, hashes, strict=True):
            node = plans[plan].nodes.get(node_of(claim.node)) if plan in plans else None
            if node is not None:
                running[node.queue] += 1
    return running


def _portions(things: Sequence[T]) -> Iterator[Sequence[T]]:
    return (things[at : at + AT_ONCE] for at in range(0, len(things), AT_ONCE))


def _add_waiting(engine: Engine, orchestrator: Orchestrator, found: Samples) -> None:
    now = datetime.now(UTC)
    for kind in KINDS:
        first = orchestrator.waiting(kind=kind, limit=1)  # takes away what waits no more in front of it
        wait = (now - first[0].since).total_seconds() if first else 0.0
        found["orchestrator_nodes_waiting"][kind,] = count_waiting(engine.store, kind)
        found["orchestrator_nodes_longest_wait_seconds"][kind,] = max(wait, 0.0)


def _add_limits(orchestrator: Orchestrator, found: Samples) -> None:
    now = datetime.now(UTC)
    for row in orchestrator.limits():
        wait = (now - row.longest_wait).total_seconds() if row.longest_wait else 0.0
        found["orchestrator_limit_waiting"][row.name,] = row.waiting
        found["orchestrator_limit_longest_wait_seconds"][row.name,] = max(wait, 0.0)
        found["orchestrator_limit_frozen"][row.name,] = float(row.frozen_until is not None)


def _add_schedules(engine: Engine, orchestrator: Orchestrator, found: Samples) -> None:
    now = datetime.fromtimestamp(engine.store.now_ms() / 1000, UTC)
    paused: Counter[str] = Counter()
    lags: dict[str, float] = {}
    for row in orchestrator.schedules():
        paused[row.flow] += row.is_paused
        missed = None
        if row.last is not None and not row.is_paused:
            missed = next(iter(instants(row.cron, row.timezone, after=row.last, until=now - row.jitter)), None)
        lags[row.flow] = max(lags.get(row.flow, 0.0), (now - missed).total_seconds() if missed else 0.0)
    for flow, lag in lags.items():
        found["orchestrator_schedules_paused"][flow,] = paused[flow]
        found["orchestrator_schedule_lag_seconds"][flow,] = lag
