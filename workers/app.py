"""Celery app that `celery -A workers.app` loads, with every flow of `workers.flows` registered on it.

Settings are in `celeryconfig.py`; a new file in `flows/` needs no line here.
"""

from celery import Celery

from orchestrator import Orchestrator

app = Celery("workers")
app.config_from_object("celeryconfig")

orchestrator = Orchestrator(app)
orchestrator.autodiscover(["workers"])
