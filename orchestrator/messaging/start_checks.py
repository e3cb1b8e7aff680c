"""Refuse to start a run that would hang: what the app's own settings, or the store, show to be impossible.

An absent, busy or old worker is no reason to refuse: the run is stored, and `explain` says what it waits for.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from orchestrator.definition.plan import FIRST_FORMAT
from orchestrator.errors import ConfigurationError
from orchestrator.messaging.accepted_content import accepts_json
from orchestrator.store.eviction import find_eviction

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from celery import Celery

    from orchestrator.definition.plan import Plan
    from orchestrator.settings import Settings
    from orchestrator.store.run_store import Store

logger = logging.getLogger(__name__)


class StartChecks:
    """The checks of one process; what a plan has passed is not looked at again."""

    def __init__(self, app: Celery, store: Store) -> None:
        self._app = app
        self._store = store
        self._passed: set[str] = set()
        self._store_is_known = False

    def refuse(self, plan: Plan, *, is_registered: bool) -> None:
        """Let a run of a plan pass, or raise before anything of it is stored.

        Args:
            plan: The plan of the run.
            is_registered: Whether this process has the flow's code; else only the queue that it sends to is looked at.

        Raises:
            ConfigurationError: No message of the run could be sent or read, or the store throws runs away and
                `Settings.allow_eviction` or `evicting_store` says not to use it; names the setting.
        """
        # Settings of an app do not change while it runs, and a start is to cost one round trip.
        if plan.hash in self._passed:
            return
        problems = [*undeclared_queues(self._app, plan, all_of_them=is_registered).values()]
        problems += refused_content(self._app, self._store.settings)
        if problems:
            raise ConfigurationError(f"flow {plan.flow} is not started: {'; '.join(problems)}")
        self._look_at_store(plan.flow)
        self._passed.add(plan.hash)

    def _look_at_store(self, flow: str) -> None:
        if self._store_is_known:
            return
        settings = self._store.settings
        with self._store.guarded():
            found = find_eviction(self._store)
        if found and found.takes_live_runs and not settings.allow_eviction:
            raise ConfigurationError(refused_eviction(flow, found.problem))
        if found and settings.evicting_store == "refuse":
            raise ConfigurationError(f"{found.problem}; Settings.evicting_store is 'refuse', so nothing is started")
        if found:
            logger.warning("%s", found.problem)
        self._store_is_known = True


def refuse_old_workers(plan: Plan, workers: Sequence[Mapping[str, Any]], needed: int) -> None:
    """Refuse a run that some live worker cannot read: it may be the one that keeps runs going.

    Args:
        plan: The run's plan.
        workers: What the live ones have announced.
        needed: The number of the format that they have to know.

    Raises:
        ConfigurationError: Names the workers.
    """
    old = [worker.get("name", "a worker") for worker in workers if worker.get("format", FIRST_FORMAT) < needed]
    if old:
        raise ConfigurationError(
            f"flow {plan.flow} is not started: older workers do not know all that it needs; update {', '.join(old)}"
        )


def refused_eviction(flow: str, problem: str) -> str:
    """What `start` raises where the server throws keys of live runs away."""
    return f"flow {flow} is not started: {problem}; or set Settings.allow_eviction, in every process"


def undeclared_queues(app: Celery, plan: Plan, *, all_of_them: bool = True) -> dict[str, str]:
    """Queues of a plan that the app declares nowhere, although it sends to declared ones only, to a sentence each.

    Args:
        app: The app.
        plan: The plan.
        all_of_them: Also those of later messages, which workers send.
    """
    declared: Any = app.amqp.queues
    # Celery declares whatever it is asked to send to: nothing can hang for want of a queue.
    if declared.create_missing:
        return {}
    sent_to = queues_of(plan, all_of_them=all_of_them)
    return {
        queue: f"queue {queue} (for {', '.join(users)}) is not in task_queues of the Celery app {app.main!r}, "
        "and task_create_missing_queues is off; declare it, or name another one by on_queue or with_queue"
        for queue, users in sorted(sent_to.items())
        if queue not in declared and queue not in declared.aliases
    }


def queues_of(plan: Plan, *, all_of_them: bool) -> dict[str, list[str]]:
    """Queues to which messages of a plan are sent, or only that of the first one, each with who is sent there."""
    users: dict[str, list[str]] = {plan.queue: ["steps and compensations"]}
    for node in plan.nodes.values():
        users.setdefault(node.queue, []).append(node.name)
    first = plan.steps[0]
    if all_of_them:
        return users
    queue = plan.nodes[first.nodes[0]].queue if first.rules.is_single else plan.queue
    return {queue: users[queue]}


def refused_content(app: Celery, settings: Settings) -> Iterator[str]:
    """Say so if the workers of an app like this one refuse every message of a node."""
    if not settings.accept_json and not accepts_json(app):
        yield (
            f"accept_content of the Celery app {app.main!r} has no json, in which the messages of nodes are written, "
            "and Settings.accept_json is off; add 'json' to accept_content, or set accept_json=True"
        )
