"""Worker of the examples that wait: `celery -A examples.worker worker`; `ORCHESTRATOR_REDIS_URL` says where Redis is.

`running_worker` starts Redis and this worker for as long as one example takes.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from celery import Celery

from examples import drafts, foreign_job, paid_order
from examples.sync_issues import running
from orchestrator import Orchestrator
from orchestrator.server import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Iterator

REDIS = os.environ.get("ORCHESTRATOR_REDIS_URL", "redis://127.0.0.1:6379/0")

app = Celery("examples", broker=REDIS, backend=REDIS)
app.conf.broker_connection_retry_on_startup = True
orchestrator = Orchestrator(app)
for module in (paid_order, drafts, foreign_job):
    orchestrator.register(module.flow)


@contextmanager
def running_worker() -> Iterator[Orchestrator]:
    """Run a server and a worker, and return a client."""
    with tempfile.TemporaryDirectory() as name, EmbeddedServer(Path(name) / "server") as server:
        command = ("celery", "-A", "examples.worker", "worker", "-c", "2")
        environment = {"ORCHESTRATOR_REDIS_URL": server.url}
        with running(*command, environment=environment, log=Path(name) / "worker.log"):
            yield Orchestrator(Celery("client", broker=server.url, backend=server.url, set_as_current=False))
