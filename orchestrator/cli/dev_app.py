"""Celery app of `orchestrator dev`: the one that its modules have, or one of its own for flows that have none."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from celery import Celery

from orchestrator.cli.dev_state import MODULES_VARIABLE
from orchestrator.client import Orchestrator
from orchestrator.definition.flow import Flow
from orchestrator.web import install


def load(names: list[str]) -> Orchestrator:
    """Import modules and register every flow that they hold, with the first orchestrator or app among them."""
    values = [value for name in names for value in vars(import_module(name)).values()]
    found = next((value for value in values if isinstance(value, Orchestrator)), None)
    if found is None:
        app = next((value for value in values if isinstance(value, Celery)), None) or own_app()
        found = Orchestrator(app)
    for value in values:
        if isinstance(value, Flow):
            found.register(value)
    return found


def own_app() -> Celery:
    """Make an app for flows without one; its default queue is theirs alone, so no process hoards messages."""
    own = Celery("dev")
    own.conf.worker_prefetch_multiplier = 1
    return own


if "flower" in sys.argv:
    install()
orchestrator = load(os.environ[MODULES_VARIABLE].split(","))
app = orchestrator.app
app.conf.broker_connection_retry_on_startup = True
