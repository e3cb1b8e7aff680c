"""examples/: what they show is so, also when their worker is killed."""

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import ExitStack, closing

import pytest
import redis
from celery import Celery

from examples import drafts, foreign_job, paid_order
from examples.issue_api import ISSUES_AT_FIRST
from examples.issue_flow import flow
from examples.sync_issues import count_pages, count_requests, running_api
from orchestrator import Orchestrator
from orchestrator.server import EmbeddedServer
from tests.harness import WorkerProcess, child_pids, environment_for, wait_until, workers

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


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A client of the examples that wait, with their worker behind it."""
    folder = tmp_path_factory.mktemp("examples")
    with ExitStack() as stack:
        url = stack.enter_context(EmbeddedServer(folder / "server")).url
        stack.enter_context(workers("examples.worker", url, folder, options=["-c", "2"], redis_url=url))
        yield Orchestrator(Celery("client", broker=url, backend=url, set_as_current=False))


def test_an_order_is_paid_agreed_to_and_shipped_or_taken_back(client, capsys):
    paid_order.play(client)
    assert capsys.readouterr().out.splitlines() == [
        "lamp: delivered, 30 paid",
        "piano: failed - it does not fit through the door",
        "its shipping: cancelled - undone: call-back unpack put-back",
    ]


def test_a_loop_ends_when_its_draft_is_good_or_its_budget_is_used_up(client, capsys):
    drafts.play(client)
    assert capsys.readouterr().out.splitlines() == [
        "to be seen: ['turn 1', 'turn 2']",
        "fog: 6 words after 2 turns",
        "failed - its until asked for more than max_iterations=5",
    ]


def test_a_job_of_others_is_waited_for_with_one_row(client, capsys):
    foreign_job.play(client, redis.Redis.from_url(client.app.conf.broker_url))
    assert capsys.readouterr().out.splitlines() == [
        "1 row in Redis: look has 1 iterations; waits for its next iteration",
        "name='export of the year' looks=6 is_done=True",
    ]
