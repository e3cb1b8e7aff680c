"""Settings of the project."""

import os
from pathlib import Path

URL = os.environ["TEST_REDIS_URL"]
FOLDER = Path(os.environ["TEST_DB_FOLDER"])
SECRET_KEY = "not kept secret"
USE_TZ = True
TIME_ZONE = "Europe/Vienna"
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django_celery_beat",
    "django_structlog",
    "tests.compat.djshop.store",
]
if "TEST_OUTBOX" in os.environ:
    INSTALLED_APPS.append("orchestrator.contrib.django")


def database(name: str) -> dict[str, object]:
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": FOLDER / f"{name}.sqlite3", "OPTIONS": {"timeout": 20}}


DATABASES = {"default": database("default"), "archive": database("archive")}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ORCHESTRATOR_OUTBOX_DATABASES = ["default", "archive"]
ORCHESTRATOR_OUTBOX_EVERY = 0.5
DJANGO_STRUCTLOG_CELERY_ENABLED = True
CELERY_BROKER_URL = CELERY_RESULT_BACKEND = URL
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_DEFAULT_QUEUE = "djshop"
CELERY_TIMEZONE = TIME_ZONE
CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
CELERY_REDBEAT_REDIS_URL = URL
