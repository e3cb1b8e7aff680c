"""Start runs when a transaction commits: directly, or through a row of the outbox in the same transaction."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import current_app
from django.apps import apps
from django.db import DEFAULT_DB_ALIAS, transaction

from orchestrator import starts
from orchestrator.engine import Engine
from orchestrator.errors import ConfigurationError, IdempotencyConflict, InvalidInput, StoreError, UnknownFlow
from orchestrator.runs import FlowRun

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from celery import Celery

    from orchestrator.definition.flow import Flow

logger = logging.getLogger(__name__)
APP = "orchestrator.contrib.django"
LABEL = "orchestrator_outbox"
"""Label of the Django app."""
AT_ONCE = 100


def start_on_commit(
    flow: str | Flow,
    input: Any = None,
    *,
    using: str | None = None,
    idempotency_key: str | None = None,
    tags: Mapping[str, str] | None = None,
    priority: int | None = None,
    app: Celery | None = None,
) -> FlowRun:
    """Start a run when the current transaction commits; a transaction or savepoint that is rolled back starts none.

    Without a transaction it starts now. With the outbox, which is this package in `INSTALLED_APPS`, the run starts also
    if this process dies behind the commit or Redis is away: a worker sees to it within seconds. Without it, what
    `Orchestrator.start` raises is raised where the transaction has committed.

    Args:
        flow: A flow, or its name.
        input: The run's input; checked at once.
        using: Alias of the database whose transaction it is; None is the default one.
        idempotency_key: As of `Orchestrator.start`.
        tags: As of `Orchestrator.start`.
        priority: As of `Orchestrator.start`; checked at once.
        app: The Celery app with the orchestrator; None is Celery's current app.

    Returns:
        The run, which exists once it has started; its id may be stored in the same transaction. Where the idempotency
        key has a run already, it is that one that exists.

    Raises:
        UnknownFlow, InvalidInput, PayloadTooLarge: As of `Orchestrator.start`, at once.
        ConfigurationError: The Celery app has no orchestrator, or its broker has no priorities and one is given.
    """
    engine = _engine_of(app)
    start = starts.prepare(engine, flow, input, idempotency_key=idempotency_key, tags=tags, priority=priority)
    if apps.is_installed(APP):
        row = apps.get_model(LABEL, "Entry")(
            run_id=start.run_id,
            flow=start.plan.flow,
            input=start.input_json.decode(),
            idempotency_key=idempotency_key,
            tags=json.dumps(dict(start.tags)),
            priority=priority,
        )
        row.save(using=using, force_insert=True)
        transaction.on_commit(partial(_relay_at_once, engine, row), using=using)
    else:
        transaction.on_commit(partial(starts.send, engine, start), using=using)
    return FlowRun(engine, start.run_id)


def relay(*, using: str | None = None, before: datetime | None = None, app: Celery | None = None) -> int:
    """Start the runs of rows that are left in the outbox, oldest first; returns how many were started.

    A row is deleted behind its start. A process that dies between the two, and several that do this at the same time,
    start the run again under its id, which changes nothing.

    Args:
        using: Alias of the database; None is the default one.
        before: Only rows that were written before; None is all.
        app: The Celery app with the orchestrator; None is Celery's current app.

    Raises:
        StoreError: Redis refuses or does not answer; the rows stay.
        ConfigurationError: The Celery app has no orchestrator.
    """
    engine = _engine_of(app)
    rows = apps.get_model(LABEL, "Entry").objects.using(using or DEFAULT_DB_ALIAS).filter(error="")
    if before is not None:
        rows = rows.filter(created_at__lt=before)
    return sum(_relay(engine, row) for row in rows.order_by("created_at")[:AT_ONCE])


def _engine_of(app: Celery | None) -> Engine:
    app = app or current_app._get_current_object()  # noqa: SLF001 - Celery's proxy
    engine: Engine | None = getattr(app, Engine.ATTRIBUTE, None)
    if engine is None:
        msg = (
            f"the Celery app {app.main!r} has no orchestrator; make one, Orchestrator(app), and import its module in "
            "the `__init__` of the project as Celery's documentation says, or pass `app`"
        )
        raise ConfigurationError(msg)
    return engine


def _relay_at_once(engine: Engine, row: Any) -> None:
    try:
        _relay(engine, row)
    except StoreError as error:  # the transaction is committed, and the row is in it
        logger.warning("flow %s run %s: left to the workers, in the outbox: %s", row.flow, row.run_id, error)


def _relay(engine: Engine, row: Any) -> bool:
    try:
        plan = starts.find_plan(engine, row.flow)
        start = starts.Start(plan, row.input.encode(), row.run_id, row.idempotency_key, json.loads(row.tags))
        starts.send(engine, replace(start, priority=row.priority))
    except IdempotencyConflict as error:
        logger.exception("flow %s run %s: not started, its row stays in the outbox", row.flow, row.run_id)
        row.error = str(error)
        row.save(update_fields=["error"])
        return False
    except (UnknownFlow, ConfigurationError, InvalidInput) as error:  # the last of a priority that another broker has
        logger.warning("flow %s run %s: not started yet, its row stays in the outbox: %s", row.flow, row.run_id, error)
        return False
    row.delete()
    return True
