"""Thread of a worker that starts what the processes of the site have left in the outbox."""

from __future__ import annotations

import logging
from datetime import timedelta
from threading import Event, Thread
from typing import TYPE_CHECKING

from celery.signals import worker_shutting_down
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections
from django.utils import timezone

from orchestrator.contrib.django.starts import relay
from orchestrator.errors import StoreError
from orchestrator.liveness.fork_gate import gate

if TYPE_CHECKING:
    from datetime import datetime

    from celery import Celery

logger = logging.getLogger(__name__)
EVERY_S = 5.0


class RelayThread(Thread):
    """Looks into the outbox every `ORCHESTRATOR_OUTBOX_EVERY` seconds, by default 5.

    The databases are those of `ORCHESTRATOR_OUTBOX_DATABASES`, by default the default one.
    """

    def __init__(self, app: Celery) -> None:
        super().__init__(name="orchestrator-outbox", daemon=True)
        self._app = app
        self._every_s = float(getattr(settings, "ORCHESTRATOR_OUTBOX_EVERY", EVERY_S))
        self._ended = Event()
        worker_shutting_down.connect(self._end, weak=False)

    def run(self) -> None:
        """Relay until the worker ends."""
        while not self._ended.wait(self._every_s):
            # A younger row is being started by the process that has written it.
            before = timezone.now() - timedelta(seconds=self._every_s)
            for using in getattr(settings, "ORCHESTRATOR_OUTBOX_DATABASES", [DEFAULT_DB_ALIAS]):
                with gate.closed():
                    self._relay(using, before)

    def _relay(self, using: str, before: datetime) -> None:
        try:
            relay(using=using, before=before, app=self._app)
        except (StoreError, DatabaseError) as error:
            logger.warning("the outbox in database %s waits: %s", using, error)
        except Exception:
            logger.exception("the outbox in database %s cannot be read", using)
        finally:
            connections[using].close()

    def _end(self, **_: object) -> None:
        self._ended.set()
