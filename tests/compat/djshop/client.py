"""Code of the project's site: what the tests call in processes that have Django."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import django

django.setup()

import structlog  # noqa: E402
from django.apps import apps  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import transaction  # noqa: E402
from django_celery_beat.models import PeriodicTask, PeriodicTasks  # noqa: E402
from django_celery_beat.schedulers import DatabaseScheduler  # noqa: E402
from redbeat import RedBeatScheduler, RedBeatSchedulerEntry  # noqa: E402
from redbeat.schedulers import get_redis  # noqa: E402

from orchestrator import InvalidInput  # noqa: E402
from orchestrator.contrib.django import start_on_commit  # noqa: E402
from orchestrator.engine import engine_of  # noqa: E402
from tests.compat.djshop.celery import app, orchestrator  # noqa: E402
from tests.compat.djshop.store.models import Order  # noqa: E402


class Undo(Exception):
    """Rolls a transaction back."""


def migrate() -> None:
    for alias in ("default", "archive"):
        call_command("migrate", run_syncdb=True, verbosity=0, database=alias)


def has_all_migrations() -> bool:
    try:
        call_command("makemigrations", "orchestrator_outbox", check=True, dry_run=True, verbosity=0)
    except SystemExit:
        return False
    return True


def registered() -> list[str]:
    """The flows of this process, before it has started any."""
    return sorted(engine_of(app).registry.flows)


def run(flow: str, given: Any = None) -> tuple[str, dict[str, Any]]:
    started = orchestrator.start(flow, given)
    status = started.wait(timeout=30).value
    plan = engine_of(app).registry.flows[flow].plan
    return status, {node: started.output(node) for node in plan.nodes}


def runs(flow: str) -> list[str]:
    """The inputs of the runs of a flow, oldest first."""
    found = reversed(orchestrator.runs(flow=flow))
    return [each.state().input(str) for each in found if each.wait(timeout=30) == "succeeded"]


def order(item: str) -> tuple[str, dict[str, Any]]:
    return run("order", Order.objects.create(item=item).pk)


def connections(flow: str, times: int) -> list[tuple[str, dict[str, Any]]]:
    pk = Order.objects.create(item="pipe").pk
    return [run(flow, pk) for _ in range(times)]


def commits(name: str) -> tuple[str, str]:
    """Start one in a transaction; returns whether it was there before the commit, and behind it."""
    with transaction.atomic():
        started = start_on_commit("noted", name)
        Order.objects.create(item=f"{name} {started.id}")
        before = [each.id for each in orchestrator.runs(flow="noted")]
    return str(started.id in before), started.wait(timeout=30).value


def commits_with_a_priority(name: str) -> tuple[int | None, str]:
    """Start one with a priority; returns that of the run, and why another number is refused in the transaction."""
    with transaction.atomic():
        started = start_on_commit("noted", name, priority=3)
        try:
            start_on_commit("noted", name, priority=10)
        except InvalidInput as error:
            refused = str(error)
    return started.priority, refused


def rolls_back(name: str) -> None:
    with suppress(Undo), transaction.atomic():
        start_on_commit("noted", name)
        raise Undo


def commits_and_rolls_back(kept: str, undone: str) -> tuple[str, str]:
    rolls_back(undone)
    return commits(kept)


def rolls_back_a_savepoint(kept: str, undone: str) -> None:
    with transaction.atomic():
        start_on_commit("noted", kept)
        with suppress(Undo), transaction.atomic():
            start_on_commit("noted", undone)
            raise Undo


def uses_another_database(undone: str, kept: str) -> None:
    """Two transactions, of which one is rolled back."""
    with suppress(Undo), transaction.atomic(using="default"):
        with transaction.atomic(using="archive"):
            start_on_commit("noted", undone)
            start_on_commit("noted", kept, using="archive")
        raise Undo


def refuses() -> str:
    """What an input that does not fit raises inside the transaction."""
    with transaction.atomic():
        try:
            start_on_commit("noted", {"no": "text"})
        except InvalidInput as error:
            return str(error)
    return ""


def rows() -> int:
    return int(apps.get_model("orchestrator_outbox", "Entry").objects.count())


def dies_behind_commit(name: str) -> None:
    """End this process, as a host that goes away does, when the transaction is committed and nothing is published."""
    with transaction.atomic():
        transaction.on_commit(lambda: os.kill(os.getpid(), signal.SIGKILL))
        start_on_commit("noted", name)


def dies_before_delete(name: str) -> None:
    """End it when the run is started and its row is still there."""
    entry = apps.get_model("orchestrator_outbox", "Entry")
    entry.delete = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    with transaction.atomic():
        start_on_commit("noted", name)


def dies_before_commit(name: str) -> None:
    with transaction.atomic():
        start_on_commit("noted", name)
        os.kill(os.getpid(), signal.SIGKILL)


def starts_in_a_context(flow: str) -> tuple[str, dict[str, Any]]:
    with structlog.contextvars.bound_contextvars(request_id="abc"):
        return run(flow)


def make_due(instant: datetime) -> None:
    """Let an instant of the schedule be due, and the entry of every scheduler."""
    store = engine_of(app).store
    (slot,) = store.client.hkeys(store.keys.slots)
    store.client.hset(store.keys.slots, slot, round((instant - timedelta(minutes=1)).timestamp() * 1000))
    app.loader.init_worker()
    long_ago = datetime.now(UTC) - timedelta(minutes=5)
    DatabaseScheduler(app=app)
    PeriodicTask.objects.filter(task="orchestrator.tick").update(last_run_at=long_ago)
    PeriodicTasks.update_changed()
    RedBeatScheduler(app=app, lazy=False)
    for key in get_redis(app).keys("redbeat:orchestrator.tick*"):
        RedBeatSchedulerEntry.from_key(key, app=app).reschedule(long_ago)


def scheduled() -> list[str]:
    return [each.wait(timeout=30).value for each in orchestrator.runs(flow="nightly")]
