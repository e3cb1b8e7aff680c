"""The project's Celery app, made before Django has loaded its apps."""

import os

from celery import Celery
from django_structlog.celery.steps import DjangoStructLogInitStep

from orchestrator import Orchestrator

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.compat.djshop.settings")
app = Celery("djshop")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.steps["worker"].add(DjangoStructLogInitStep)
app.autodiscover_tasks()

orchestrator = Orchestrator(app)
orchestrator.autodiscover(["tests.compat.djshop.store"])  # too early for models, and not needed in a worker
