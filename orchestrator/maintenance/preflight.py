"""Preflight checks: warn at a worker's start of what would lose or repeat work, or let strangers in.

Each warning is one sentence that says what is wrong, where, and what to do. Nothing is refused: a laptop may well run
without any of it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import redis
from celery.app.annotations import resolve_all

from orchestrator.errors import StoreError, StoreRefused
from orchestrator.execution.task_calls import HOOKS
from orchestrator.messaging.celery_addresses import has_redis_broker
from orchestrator.messaging.start_checks import refused_content, undeclared_queues
from orchestrator.store.eviction import eviction_of, find_eviction

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from celery import Celery

    from orchestrator.definition.registry import Registry
    from orchestrator.engine import Engine
    from orchestrator.store.run_store import Store

logger = logging.getLogger(__name__)
OLDEST = (6, 2)
OTHERS_COME_UP_S = 5.0
NAMED = 5
VISIBILITY_S = 3600
"""Celery's `visibility_timeout` for Redis where the app sets none."""
UNSAFE = {"pickle", "application/x-python-serialize", "yaml", "application/x-yaml"}


@dataclass(frozen=True)
class Finding:
    """Something of a deployment that will hurt.

    Attributes:
        name: Which finding, such as "eviction"; stable, for programs.
        what: A sentence that says what is wrong, where, and what to do.
        setting: The setting to change.
    """

    name: str
    what: str
    setting: str

    def __str__(self) -> str:
        """Return the sentence."""
        return self.what

    def to_json(self) -> dict[str, str]:
        """Return the finding as JSON values."""
        return asdict(self)


def warn_of_problems(engine: Engine) -> None:
    """Log one warning for each problem that a worker can see."""
    problems = [str(each) for each in (*app_problems(engine.app, engine.registry), *seen_from_here(engine.store))]
    for entry in engine.registry.flows.values():
        hanging = (*undeclared_queues(engine.app, entry.plan).values(), *refused_content(engine.app, engine.settings))
        problems += [f"runs of flow {entry.plan.flow} would hang, `start` refuses them: {text}" for text in hanging]
    for problem in problems:
        logger.warning("%s", problem)
    # Workers of a deployment start one by one: a queue is missed only once the others had the time to announce theirs.
    look = threading.Timer(OTHERS_COME_UP_S, warn_of_unconsumed_queues, [engine])
    # It must not hold a worker that ends at once.
    look.daemon = True
    look.start()


def warn_of_unconsumed_queues(engine: Engine) -> None:
    """Log one warning for each queue of a flow of this process that no worker consumes."""
    with contextlib.suppress(StoreError):  # it is away, which the lease renewer reports
        for finding in unconsumed_queues(engine):
            logger.warning("%s", finding)


def unconsumed_queues(engine: Engine) -> Iterator[Finding]:
    """Yield each queue of a flow of this process that no worker consumes.

    Raises:
        StoreError: Redis does not say which workers there are.
    """
    consumed = {queue for worker in engine.store.workers() for queue in worker["queues"]}
    waiting: dict[str, list[str]] = {}
    for flow, entry in engine.registry.flows.items():
        for name, node in entry.plan.nodes.items():
            if node.queue not in consumed:
                waiting.setdefault(node.queue, []).append(f"{flow}.{name}")
    for queue, names in waiting.items():
        shown = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
        yield Finding(
            "no-consumer",
            f"no worker consumes queue {queue}, in which {shown} would wait; start one with -Q {queue}",
            f"-Q {queue}",
        )


def seen_from_here(store: Store) -> list[Finding]:
    """Return the problems of the server of the runs, as far as it tells."""
    try:
        with store.guarded():
            return list(server_problems(store))
    except StoreRefused:  # some managed servers refuse INFO
        unknown = eviction_of(store.place, None)
        return [Finding("eviction", unknown.problem, "maxmemory-policy")] if unknown else []
    except (StoreError, redis.RedisError) as error:
        logger.info("Redis at %s does not say how it is set up: %s", store.place, error)
        return []


def server_problems(store: Store) -> Iterator[Finding]:
    """Yield the problems of the server of the runs.

    Raises:
        redis.RedisError: It did not answer, or does not tell this user.
    """
    where = f"Redis at {store.place}"
    persistence = store.server_info("persistence")
    version = str(store.server_info("server").get("redis_version", ""))
    if lost := store.upkeep.loss():
        yield Finding("lost-writes", f"{where}: {lost.sentence()}", "min-replicas-to-write")
    if evicts := find_eviction(store):
        yield Finding("eviction", evicts.problem, "maxmemory-policy")
    if not int(persistence.get("aof_enabled", 1)):
        yield Finding(
            "aof-off",
            f"{where} has appendonly no: a restart of it loses runs that were accepted. "
            "Set appendonly yes, and appendfsync everysec or always",
            "appendonly",
        )
    if store.server_info("replication").get("role", "master") != "master":
        yield Finding(
            "replica",
            f"{where} is a replica, which refuses writes or loses them. Name the master, or its Sentinels",
            store.address.setting,
        )
    if _numbers(version) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        yield Finding(
            "old-server",
            f"{where} has version {version}, older than the oldest that is supported. Use {oldest} or newer",
            "the server's version",
        )


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading two numbers of a version; one that cannot be read counts as new."""
    numbers = [int(part) for part in version.split(".")[:2] if part.isdigit()]
    return tuple(numbers) or OLDEST


def _ignored_annotations(app: Celery, tasks: Iterable[str]) -> set[str]:
    annotations = [
        annotation for name in tasks for annotation in resolve_all(app.annotations, SimpleNamespace(name=name))
    ]
    return {key for annotation in annotations for key in annotation if key.removeprefix("@") not in HOOKS}


def app_problems(app: Celery, registry: Registry) -> Iterator[Finding]:
    """Yield the app's settings that do not suit the flows of this process."""
    conf: Any = app.conf
    limits = {
        f"{flow}.{name}": node.timeout_ms / 1000
        for flow, entry in registry.flows.items()
        for name, node in entry.plan.nodes.items()
    }
    # Redis delivers an unacknowledged message again after this time, whether or not its task still runs.
    visibility = float((conf.broker_transport_options or {}).get("visibility_timeout", VISIBILITY_S))
    longest = max(limits, key=limits.__getitem__, default=None)
    if longest and has_redis_broker(app) and visibility < limits[longest]:
        yield Finding(
            "visibility-timeout",
            f"the app {app.main!r} has visibility_timeout {visibility:g} s, shorter than the longest node timeout, "
            f"{limits[longest]:g} s of {longest}: Redis delivers its message again while it runs, each time for "
            "nothing. Raise visibility_timeout in broker_transport_options, or lower the node's timeout",
            "broker_transport_options['visibility_timeout']",
        )
    if ignored := sorted(_ignored_annotations(app, limits)):
        yield Finding(
            "annotations",
            f"the app {app.main!r} has {', '.join(ignored)} in task_annotations for tasks of nodes, where only hooks "
            "apply. Set the nodes' own policies, and annotate your own tasks by their names",
            "task_annotations",
        )
    if unsafe := sorted(UNSAFE.intersection(conf.accept_content or ())):
        yield Finding(
            "unsafe-content",
            f"the app {app.main!r} has {', '.join(unsafe)} in accept_content: a message that a stranger wrote into the "
            "broker may run code in this worker. Set accept_content = ['json']",
            "accept_content",
        )
