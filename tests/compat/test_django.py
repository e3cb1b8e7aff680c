"""A Django project: flows found by discovery, transactions, an outbox, connections, schedulers, and structlog."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from importlib import import_module

import pytest
import redis

from orchestrator.server import EmbeddedServer
from tests.harness import ROOT, environment_for, wait_until, workers
from tests.processes import Running

CLIENT = "tests.compat.djshop.client"
# An instant that is due when the tests make it so, and then not for most of an hour.
INSTANT = (datetime.now(UTC) - timedelta(minutes=2)).replace(second=0, microsecond=0)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of its own: the outbox of another module is not this one's."""
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as own:
        yield own


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("djshop")


@pytest.fixture(scope="module")
def variables(server, folder):
    return {
        "TEST_REDIS_URL": server.url,
        "TEST_DB_FOLDER": str(folder),
        "TEST_CRON": f"{INSTANT.minute} * * * *",
        "TEST_OUTBOX": "1",
        "DJANGO_SETTINGS_MODULE": "tests.compat.djshop.settings",
        "PYTHONPATH": str(ROOT),
    }


def call_client(name, *given):
    return getattr(import_module(CLIENT), name)(*given)


def set_up(variables):
    os.environ.update(variables)
    sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="module")
def site(variables):
    """A process of the project's site; this one has other apps, and no Django."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), set_up, (variables,)) as processes:

        def call(name, *given):
            return processes.submit(call_client, name, *given).result(timeout=60)

        call("migrate")
        yield call


@pytest.fixture(scope="module")
def worker(site, server, folder, variables):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        with workers("tests.compat.djshop", server.url, folder, count=1, options=["-c", "2"]) as (running,):
            yield running


def runs_alone(variables, name, *given):
    """Call something in a process of its own; returns its exit code, and its result behind what structlog prints."""
    code = f"from {CLIENT} import *; print({name}(*{given!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | variables, stdout=subprocess.PIPE, timeout=60, check=False
    )
    return done.returncode, done.stdout.decode().strip().rpartition("\n")[2]


def dies(variables, name, *given):
    code, _ = runs_alone(variables, name, *given)
    assert code == -signal.SIGKILL


def test_flows_are_found_by_the_discovery_of_tasks(site, worker):
    assert site("registered") == [], "it was too early when the module of the Celery app asked"
    status, outputs = site("order", "cup")
    assert (status, outputs["aload"], outputs["finish"]) == ("succeeded", "cup", "marked+done")
    assert "order" in site("registered")


@pytest.mark.parametrize("flow", ["connections", "connections-fused"])
def test_connections_are_closed_between_nodes(site, worker, flow):
    for status, outputs in site("connections", flow, 3):
        assert status == "succeeded"
        assert [outputs[node] for node in ("first", "second", "behind", "async", "none", "last")] == [0] * 6


def test_a_run_starts_with_the_commit(site, worker):
    assert site("commits", "committed") == ("False", "succeeded")
    site("rolls_back", "rolled back")
    site("rolls_back_a_savepoint", "kept", "undone")
    site("uses_another_database", "undone too", "kept too")
    assert site("runs", "noted") == ["committed", "kept", "kept too"]
    priority, refused = site("commits_with_a_priority", "urgent")
    assert (priority, "a whole number from 0 to 9" in refused) == (3, True)
    assert site("rows") == 0


def test_a_run_starts_with_the_commit_without_an_outbox_too(site, worker, variables):
    alone = {name: value for name, value in variables.items() if name != "TEST_OUTBOX"}
    before = site("runs", "noted")
    assert runs_alone(alone, "commits_and_rolls_back", "direct", "undone") == (0, "('False', 'succeeded')")
    assert site("runs", "noted") == [*before, "direct"]


def test_the_migration_of_the_outbox_is_complete(site):
    assert site("has_all_migrations")


def test_an_input_that_does_not_fit_is_refused_within_the_transaction(site, worker):
    assert "the input of flow noted" in site("refuses")


def test_a_process_that_dies_behind_its_commit_has_started_its_run(site, worker, variables):
    before = site("runs", "noted")
    dies(variables, "dies_behind_commit", "saved")
    dies(variables, "dies_before_commit", "never")
    dies(variables, "dies_before_delete", "once")
    wait_until(lambda: site("rows") == 0, "the worker has looked into the outbox", timeout=30)
    assert site("runs", "noted") == [*before, "saved", "once"]


def test_context_of_structlog_is_in_every_node(site, worker):
    status, outputs = site("starts_in_a_context", "logged")
    assert status == "succeeded"
    assert {each["request_id"] for each in outputs.values()} == {"abc"}
    assert len({each["task_id"] for each in outputs.values()}) == 4


SCHEDULERS = {
    "database": [],
    "redbeat": ["-S", "redbeat.RedBeatScheduler"],
    "plain": ["-S", "celery.beat.PersistentScheduler", "-s", "plain"],
}


def test_each_scheduler_fires_and_an_instant_is_one_run(site, worker, server, folder, variables):
    site("make_due", INSTANT)
    environment = environment_for(server.url) | variables
    beats = [
        Running(
            ["-m", "celery", "-A", "tests.compat.djshop", "beat", "-l", "INFO", *options],
            folder=folder,
            log=folder / f"{name}.log",
            environment=environment,
        )
        for name, options in SCHEDULERS.items()
    ]
    try:
        for beat in beats:
            beat.wait_for("Sending due task orchestrator.tick")
        runs = wait_until(lambda: site("scheduled"), "the run of the instant")
        client = redis.Redis.from_url(server.url)
        wait_until(lambda: client.llen("djshop") == 0, "every tick is taken")
        site("order", "behind the ticks")
        assert runs == site("scheduled") == ["succeeded"]
    finally:
        for beat in beats:
            beat.stop()
