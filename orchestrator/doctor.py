"""Doctor: looks at a live deployment and names what will hurt, with the setting to change.

It only reads, and sends nothing to workers: what they announce of themselves is enough. What a worker warns of at its
start is found by the same functions, in `maintenance/preflight.py`.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from orchestrator.definition.state import RunStatus
from orchestrator.explain import explain_run
from orchestrator.maintenance.flow_worker import flow_queues, is_chosen
from orchestrator.maintenance.preflight import Finding, app_problems, seen_from_here, unconsumed_queues
from orchestrator.messaging.queue_inspection import look_at_queue
from orchestrator.messaging.start_checks import refused_content, undeclared_queues
from orchestrator.schedule_control import list_schedules
from orchestrator.schedules import instants
from orchestrator.store import queries
from orchestrator.store.limit_numbers import read_limits
from orchestrator.store.worker_rows import read_workers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.engine import Engine

OPEN = tuple(str(each) for each in RunStatus if not each.is_final)
STUCK_AFTER = timedelta(minutes=10)
"""Age of a run that is looked at: whether anything of it can still go on."""
WAITS_LONG = timedelta(seconds=60)
"""Age of the oldest message of a queue while its workers are idle."""
TICK_LATE = timedelta(seconds=90)
"""Time after an instant by which the tick of any beat has come: it hints twice, and the grace is a minute."""
SKEW = timedelta(seconds=5)
LOOKED_AT = 20
LISTED, PAGES, EXPLAINED = 200, 10, 100
"""Old runs of a page, pages of them, and those whose every node is looked at: bounds of a search for what is stuck."""
NAMED = 5
FULL = 0.8
"""Share of the server's memory from which on its use is named."""
MIB = 1024 * 1024


def examine(engine: Engine) -> list[Finding]:
    """Return everything that will hurt; empty for a deployment as it is recommended.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    engine.discovery.catch_up()
    with engine.store.guarded():
        engine.store.now_ms()  # a server that is away is no finding among others
        return [finding for check in CHECKS for finding in check(engine)]


def _of_server(engine: Engine) -> Iterator[Finding]:
    yield from seen_from_here(engine.store)


def _of_app(engine: Engine) -> Iterator[Finding]:
    yield from app_problems(engine.app, engine.registry)
    for flow, entry in engine.registry.flows.items():
        hanging = (*undeclared_queues(engine.app, entry.plan).values(), *refused_content(engine.app, engine.settings))
        for sentence in hanging:
            what = f"runs of flow {flow} would hang, `start` refuses them: {sentence}"
            yield Finding("refused", what, "task_queues, accept_content")
    if not engine.publisher.has_chords:
        yield Finding(
            "no-result-backend",
            f"the app {str(engine.app.main)!r} has no result backend: a parallel step is sent as a message for each of "
            "its nodes, one after the other, and neither AsyncResult nor Flower has results. Set result_backend",
            "result_backend",
        )


def _of_prefetch(engine: Engine) -> Iterator[Finding]:
    conf: Any = engine.app.conf
    shared = sorted({conf.task_default_queue} & flow_queues(engine))
    multiplier = conf.worker_prefetch_multiplier
    has_own_tasks = any(not name.startswith(("celery.", "orchestrator.")) for name in _own_tasks(engine))
    chosen = is_chosen(conf, "worker_prefetch_multiplier")
    if multiplier != 1 and (chosen or (shared and has_own_tasks)):
        where = f"flows share queue {', '.join(shared)} with other tasks and" if shared else "flows run where"
        yield Finding(
            "prefetch",
            f"{where} each worker process reserves {multiplier or 'any number of'} messages: a node may wait behind a "
            "long task while other workers are idle. Set worker_prefetch_multiplier = 1, or give the flows a queue of "
            "their own by FlowBuilder.on_queue(...)",
            "worker_prefetch_multiplier",
        )


def _own_tasks(engine: Engine) -> set[str]:
    of_flows = {node.task for entry in engine.registry.flows.values() for node in entry.plan.nodes.values()}
    return set(engine.app.tasks) - of_flows


def _of_queues(engine: Engine) -> Iterator[Finding]:
    yield from unconsumed_queues(engine)
    workers, now = engine.store.workers(), engine.store.now_ms()
    for queue in sorted(flow_queues(engine)):
        consumers = [worker for worker in workers if queue in worker["queues"]]
        idle = [each.get("name", "") for each in consumers if each.get("busy", 0) < each.get("processes", 0)]
        oldest = look_at_queue(engine.app, queue).oldest if idle else None
        if oldest is not None and now - oldest > WAITS_LONG.total_seconds() * 1000:
            yield Finding(
                "idle-consumer",
                f"the oldest message in queue {queue} waits for {(now - oldest) // 1000} s, although "
                f"{_some(idle)} have free processes: restart the worker, and look for its connection to the broker",
                f"the worker of queue {queue}",
            )


def _of_workers(engine: Engine) -> Iterator[Finding]:
    workers = read_workers(engine.store)
    for flow, entry in sorted(engine.registry.flows.items()):
        queues = {entry.plan.queue, *(node.queue for node in entry.plan.nodes.values())}
        without = [worker.name for worker in workers if queues & {*worker.queues} and flow not in worker.flows]
        if without:
            yield Finding(
                "worker-without-flow",
                f"{_some(without)} consume a queue of flow {flow} and have no code of it: its messages go back and "
                f"forth. Deploy the flow there, or give it a queue of its own",
                "-Q, or the modules that the worker imports",
            )
        versions = Counter(worker.versions[flow] for worker in workers if worker.versions.get(flow))
        others = [worker.name for worker in workers if worker.versions.get(flow, entry.plan.hash) != entry.plan.hash]
        if others:
            yield Finding(
                "worker-version",
                f"{_some(others)} have another version of flow {flow} than this app ({len(versions)} among the "
                "workers): new runs follow the one that announced itself last. Finish the deploy, or restart them",
                "the code of the workers",
            )


def _of_clocks(engine: Engine) -> Iterator[Finding]:
    clocks = {worker.get("name"): worker.get("clock") for worker in engine.store.workers()}
    for worker in read_workers(engine.store):
        clock = clocks.get(worker.name)
        if clock is None:
            continue
        skew = datetime.fromtimestamp(clock, UTC) - worker.last_seen
        if abs(skew) > SKEW:
            yield Finding(
                "clock-skew",
                f"the clock of {worker.name} is {abs(skew).total_seconds():.0f} s "
                f"{'before' if skew > timedelta(0) else 'behind'} that of Redis: a beat there sends its ticks at "
                "wrong times, and its log lines do not fit the history of runs. Let NTP set it",
                "NTP of the host",
            )


def _of_beat(engine: Engine) -> Iterator[Finding]:
    now = datetime.fromtimestamp(engine.store.now_ms() / 1000, UTC)
    for row in list_schedules(engine):
        if row.is_paused or row.last is None:
            continue
        until = now - TICK_LATE - row.jitter
        missed = next(islice(instants(row.cron, row.timezone, after=row.last, until=until), 1), None)
        if missed is not None:
            yield Finding(
                "beat-off",
                f"schedule {row.id} ({row.cron} {row.timezone}) has had no tick for {missed:%Y-%m-%d %H:%M}Z: no beat "
                "is running, or no worker of the flow. Start one: celery -A proj beat",
                "a process with celery beat",
            )


def _of_limits(engine: Engine) -> Iterator[Finding]:
    for row in read_limits(engine.store):
        if row.is_set:
            yield Finding(
                "limit-set",
                f"{row.title} has numbers of an operator, {row.n:g}"
                + (f" in {row.per.total_seconds():g} s" if row.per else "")
                + f", and not those of the code. Change the code, or: celery -A proj flow limits reset {row.name}",
                f"limits reset {row.name}",
            )


def _of_runs(engine: Engine) -> Iterator[Finding]:
    waiting = islice(_waiting_runs(engine), EXPLAINED)
    stuck = list(islice((run_id for run_id in waiting if _is_stuck(engine, run_id)), LOOKED_AT))
    if stuck:
        yield Finding(
            "no-progress",
            f"runs {_some(stuck)} have waited for a worker for over {STUCK_AFTER.total_seconds() / 60:g} minutes. "
            f"See celery -A proj flow explain {stuck[0]}",
            "what `explain` names",
        )


def _waiting_runs(engine: Engine) -> Iterator[str]:
    """Yield old runs that seem to wait for a worker, not those that wait for somebody, a time or a limit."""
    until = datetime.fromtimestamp(engine.store.now_ms() / 1000, UTC) - STUCK_AFTER
    wanted, cursor = queries.Filter(statuses=OPEN, until=until, children=True), None
    for _ in range(PAGES):
        found = queries.list_runs(engine.store, wanted, limit=LISTED, cursor=cursor)
        yield from (row.id for row in found.rows if row.waits_for_worker and not row.nodes_running)
        cursor = found.cursor
        if cursor is None:
            return


def _is_stuck(engine: Engine, run_id: str) -> bool:
    pinned = engine.pinned(run_id)
    waits = [each for each in explain_run(engine, pinned[0]) if each.state != "pending"] if pinned else []
    return bool(waits) and all(each.state == "ready" for each in waits)


def _of_set_aside(engine: Engine) -> Iterator[Finding]:
    for part in engine.store.aside.parts():
        yield Finding(
            "set-aside",
            f"{part.kind} {part.name} cannot be handled since {part.since:%Y-%m-%d %H:%M} UTC, everything else goes on "
            f"without it: {part.reason}",
            "the run: cancel it, or put back what it lacks",
        )


def _of_memory(engine: Engine) -> Iterator[Finding]:
    memory = engine.store.server_info("memory")
    used, most = int(memory.get("used_memory", 0)), int(memory.get("maxmemory", 0))
    if not most or used < most * FULL:
        return
    parts, freed = [], 0
    for counts in queries.count_runs(engine.store, sorted(engine.registry.flows), children=True):
        ended = counts.succeeded + counts.failed + counts.cancelled + counts.compensation_failed
        rows = queries.list_runs(
            engine.store, queries.Filter(counts.flow, children=True), limit=LOOKED_AT, cursor=None
        ).rows
        if rows:
            mean = sum(engine.store.upkeep.bytes_of_run(row.id) for row in rows) / len(rows)
            parts.append(f"{counts.flow} about {mean * (ended + counts.open) / MIB:.1f} MiB")
            freed += round(mean * ended)
    yield Finding(
        "memory",
        f"Redis at {engine.store.place} uses {used / MIB:.0f} of {most / MIB:.0f} MiB: {', '.join(parts) or '-'}. "
        f"Runs that have ended hold about {freed / MIB:.1f} MiB, which Settings.retention "
        f"({engine.settings.retention}) frees. Raise maxmemory, or shorten the retention",
        "maxmemory, Settings.retention",
    )


def _some(names: list[str]) -> str:
    shown = ", ".join(sorted(names)[:NAMED])
    return shown + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


CHECKS = (
    *(_of_server, _of_app, _of_prefetch, _of_queues, _of_workers, _of_clocks, _of_beat, _of_limits, _of_runs),
    *(_of_set_aside, _of_memory),
)
"""Every check, in the order in which findings are shown."""
