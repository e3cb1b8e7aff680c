"""Program of a plain Celery app: what its workers do with nothing to do is what `rested` is compared with."""

from __future__ import annotations

import os

from celery import Celery

URL = os.environ["TEST_REDIS_URL"]
app = Celery("stock", broker=URL, backend=URL)
