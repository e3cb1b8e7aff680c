"""What about a deployment would lose or repeat work, or let strangers in: said loudly when a worker starts.

Each problem is one sentence of what is wrong, where, and what to do. Nothing is refused: a laptop may well run without
any of it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import redis

from orchestrator.errors import StoreError
from orchestrator.messaging.celery_addresses import has_redis_broker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

    from orchestrator.definition.registry import Registry
    from orchestrator.engine import Engine
    from orchestrator.store.run_store import Store

logger = logging.getLogger(__name__)
OLDEST = (6, 2)
VISIBILITY_S = 3600
"""Celery's `visibility_timeout` for Redis where the app sets none."""
UNSAFE = {"pickle", "application/x-python-serialize", "yaml", "application/x-yaml"}


def warn_of_problems(engine: Engine) -> None:
    """Log one warning for each problem that can be seen from a worker."""
    for problem in (*app_problems(engine.app, engine.registry), *_seen_from_here(engine.store)):
        logger.warning("%s", problem)


def _seen_from_here(store: Store) -> list[str]:
    try:
        with store.guarded():
            return list(server_problems(store))
    except (StoreError, redis.RedisError) as error:  # some managed servers tell nobody how they are set up
        logger.info("Redis at %s does not say how it is set up: %s", store.place, error)
        return []


def server_problems(store: Store) -> Iterator[str]:
    """What the server of the runs is not fit for.

    Raises:
        redis.RedisError: It did not answer, or does not tell this user.
    """
    where = f"Redis at {store.place}"
    memory, persistence = store.client.info("memory"), store.client.info("persistence")
    version = str(store.client.info("server").get("redis_version", ""))
    policy = memory.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        when = "when it is full" if int(memory.get("maxmemory", 0)) else "as soon as a maxmemory is set"
        yield f"{where} has maxmemory-policy {policy}: {when}, runs vanish in silence. Set maxmemory-policy noeviction"
    if not int(persistence.get("aof_enabled", 1)):
        yield (
            f"{where} has appendonly no: a restart of it loses runs that were accepted. "
            "Set appendonly yes, and appendfsync everysec or always"
        )
    if _numbers(version) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        yield f"{where} has version {version}, older than the oldest that is supported. Use {oldest} or newer"


def _numbers(version: str) -> tuple[int, ...]:
    """The leading two numbers of a version; one that cannot be read counts as new."""
    numbers = [int(part) for part in version.split(".")[:2] if part.isdigit()]
    return tuple(numbers) or OLDEST


def app_problems(app: Celery, registry: Registry) -> Iterator[str]:
    """What in the app's settings does not suit the flows of this process."""
    conf: Any = app.conf
    limits = {
        f"{flow}.{name}": node.timeout_ms / 1000
        for flow, entry in registry.flows.items()
        for name, node in entry.plan.nodes.items()
    }
    visibility = float((conf.broker_transport_options or {}).get("visibility_timeout", VISIBILITY_S))
    longest = max(limits, key=limits.__getitem__, default=None)
    if longest and has_redis_broker(app) and visibility < limits[longest]:
        yield (
            f"the app {app.main!r} has visibility_timeout {visibility:g} s, shorter than the longest node timeout, "
            f"{limits[longest]:g} s of {longest}: Redis delivers its message again while it runs, each time for "
            "nothing. Raise visibility_timeout in broker_transport_options, or lower the node's timeout"
        )
    if unsafe := sorted(UNSAFE.intersection(conf.accept_content or ())):
        yield (
            f"the app {app.main!r} has {', '.join(unsafe)} in accept_content: a message that a stranger wrote into the "
            "broker may run code in this worker. Set accept_content = ['json']"
        )
