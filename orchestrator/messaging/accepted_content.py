"""Let a worker read the messages of nodes, which are JSON, where its app accepts other content only."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from celery.app import trace

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)
JSON = frozenset({"json", "application/json"})


def accepts_json(app: Celery) -> bool:
    """Whether a worker of the app reads messages in JSON."""
    return bool(JSON.intersection(app.conf.accept_content or ()))


def accept_json(app: Celery, hostname: str) -> None:
    """Add JSON to what a worker of an app reads, before its pool and its consumer are made."""
    if accepts_json(app):
        return
    conf: Any = app.conf
    conf.accept_content = [*(conf.accept_content or ()), "json"]
    trace.setup_worker_optimizations(app, hostname)  # what the pool reads was taken from the configuration before
    logger.info("accept_content of the app %r has no json; this worker also reads it, for its flows", app.main)
