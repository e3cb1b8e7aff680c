"""examples/: what they show is so, also when their worker is killed."""

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import ExitStack, closing

import pytest
from celery import Celery

from examples.issue_api import ISSUES_AT_FIRST
from examples.issue_flow import flow
from examples.sync_issues import count_pages, count_requests, running_api
from orchestrator import Orchestrator
from orchestrator.server import EmbeddedServer
from tests.harness import WorkerProcess, child_pids, environment_for, wait_until

SIZE = 50


@pytest.fixture
def sync(tmp_path):
    """What the example brings, without its worker: client, API, database, and how a worker is started."""
    with ExitStack() as stack:
        url = stack.enter_context(EmbeddedServer(tmp_path / "server")).url
        api = stack.enter_context(running_api(tmp_path))
        database = tmp_path / "issues.sqlite"
        environment = environment_for(url, lease="2", reconcile_every="0.5") | {
            "ORCHESTRATOR_REDIS_URL": url,
            "ISSUES_API": api,
            "ISSUES_DB": str(database),
        }

        def start_worker(name: str) -> WorkerProcess:
            log = tmp_path / f"{name}.log"
            worker = WorkerProcess("examples.issue_flow", name, log, environment=environment, options=["-c", "2"])
            stack.callback(lambda: worker.kill() if worker.process.poll() is None else None)
            wait_until(worker.is_up, "the worker is ready", timeout=60)
            return worker

        client = Orchestrator(Celery("client", broker=url, backend=url, set_as_current=False))
        yield client, api, database, start_worker


def stored(database):
    with closing(sqlite3.connect(database)) as issues:
        return [number for (number,) in issues.execute("SELECT number FROM issues ORDER BY number")]


@pytest.mark.parametrize("whole", [True, False])
def test_a_sync_whose_worker_is_killed_stores_every_issue_once(sync, whole):
    client, api, database, start_worker = sync
    worker = start_worker("first")
    run = client.start(flow)
    wait_until(lambda: count_pages(run) >= 5, "pages are fetched")
    if whole:
        worker.kill()
        start_worker("second")
    else:
        for pid in child_pids(worker.pid):
            os.kill(pid, signal.SIGKILL)
    assert count_pages(run) < ISSUES_AT_FIRST // SIZE, "the kill came too late"
    assert run.wait(timeout=60) == "succeeded"
    # It was hit in a page, or while it waited for the token of the next one.
    assert {"lost", "republished"} & {event.event for event in run.history()}
    assert stored(database) == list(range(1, ISSUES_AT_FIRST + 1))
    asked = count_requests(api)
    assert asked["503"] >= 2
    assert asked["hang-up"] >= 1
    pages = {f"after {number}": 1 for number in range(0, ISSUES_AT_FIRST, SIZE)}
    more = {name: asked[name] - count for name, count in pages.items() if asked[name] != count}
    assert list(more.values()) in ([], [1]), "only the page that was being fetched is fetched again"
