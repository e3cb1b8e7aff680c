"""The Django app of the outbox: a worker looks into it every few seconds."""

from __future__ import annotations

from typing import Any

from celery.signals import worker_ready
from django.apps import AppConfig

from orchestrator.contrib.django.relay_thread import RelayThread
from orchestrator.contrib.django.starts import APP, LABEL
from orchestrator.engine import Engine


class OutboxConfig(AppConfig):
    """The outbox."""

    name = APP
    label = LABEL
    verbose_name = "Orchestrator outbox"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Let workers that start from now on look into the outbox."""
        worker_ready.connect(_start_relaying, dispatch_uid=APP)


def _start_relaying(sender: Any, **_: Any) -> None:
    if hasattr(sender.app, Engine.ATTRIBUTE):
        RelayThread(sender.app).start()
