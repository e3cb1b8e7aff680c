"""The app of the guide's worker: `celery -A tests.guide.app worker`, with the flow of every page."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

from celery import Celery

from orchestrator import Orchestrator

URL = os.environ["TEST_REDIS_URL"]
app = Celery("guide", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
orchestrator = Orchestrator(app)
for page in sorted(Path(__file__).parent.glob("test_*.py")):
    orchestrator.register(importlib.import_module(f"tests.guide.{page.stem}").flow)
