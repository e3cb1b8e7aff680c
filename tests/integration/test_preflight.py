"""Warnings of a worker at its start about a server or an app that does not suit it, and silence otherwise."""

from __future__ import annotations

import os
import re
import threading
from datetime import timedelta

import pytest
import redis
from celery import Celery

from orchestrator import FlowBuilder, Node, Orchestrator, manual
from orchestrator.engine import engine_of
from orchestrator.maintenance.preflight import app_problems, server_problems, warn_of_problems
from orchestrator.server import EmbeddedServer
from tests.harness import WorkerProcess, environment_for, wait_until

PROGRAM = "tests.programs.careless"


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A server whose configuration is this module's."""
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as running:
        yield running
        running.process.kill()  # it may be writing its file anew, and nobody needs that


@pytest.fixture
def admin(own):
    with redis.Redis.from_url(own.url, decode_responses=True) as client:
        before = {name: client.config_get(name)[name] for name in ("maxmemory", "maxmemory-policy", "appendonly")}
        yield client
        for name, value in before.items():
            client.config_set(name, value)


def engine(url, **settings):
    app = Celery("careful", broker=url, backend=url, set_as_current=False)
    app.conf.update(settings)
    flow = (
        FlowBuilder("slow")
        .triggered_by(manual("test"))
        .then(Node("quick", lambda: 1).with_timeout(timedelta(minutes=1)))
        .then(Node("slowest", lambda: 1).with_timeout(timedelta(minutes=10)))
        .build()
    )
    Orchestrator(app).register(flow)
    return engine_of(app)


def test_a_server_and_an_app_that_suit_are_passed_in_silence(own, caplog):
    caplog.set_level("INFO")
    warn_of_problems(engine(own.url))
    assert [record for record in caplog.records if record.name == "orchestrator.maintenance.preflight"] == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"maxmemory-policy": "allkeys-lru"}, "as soon as a maxmemory is set, runs vanish in silence"),
        ({"maxmemory-policy": "volatile-ttl", "maxmemory": "1gb"}, "maxmemory-policy volatile-ttl: when it is full"),
        ({"appendonly": "no"}, "has appendonly no: a restart of it loses runs"),
    ],
)
def test_a_server_that_would_lose_runs_is_named(settings, said, own, admin):
    for name, value in settings.items():
        admin.config_set(name, value)
    (problem,) = map(str, server_problems(engine(own.url).store))
    assert said in problem
    assert problem.startswith(f"Redis at 127.0.0.1:{own.port}/0 has ")
    assert ". Set " in problem


@pytest.mark.parametrize(("version", "is_old"), [("5.0.14", True), ("6.0.20", True), ("6.2.0", False), ("7.2", False)])
def test_a_server_that_is_too_old_is_named(version, is_old, own, monkeypatch):
    store = engine(own.url).store
    info = store.client.info
    monkeypatch.setattr(store.client, "info", lambda section: info(section) | {"redis_version": version})
    problems = [str(each) for each in server_problems(store)]
    assert [f"has version {version}, older than" in problem for problem in problems] == [True] * is_old


@pytest.mark.parametrize(("seconds", "is_short"), [(599, True), (600, False), (None, False)])
def test_a_visibility_timeout_that_ends_before_a_node_is_named(seconds, is_short, own):
    options = {} if seconds is None else {"visibility_timeout": seconds}
    made = engine(own.url, broker_transport_options=options)
    problems = [str(each) for each in app_problems(made.app, made.registry)]
    assert len(problems) == is_short
    if is_short:
        assert "visibility_timeout 599 s, shorter than the longest node timeout, 600 s of slow.slowest" in problems[0]
    foreign = engine(own.url, broker_url="amqp://127.0.0.1:1//", broker_transport_options=options)
    assert list(app_problems(foreign.app, foreign.registry)) == []


@pytest.mark.parametrize("content", ["pickle", "yaml", "application/x-python-serialize"])
def test_an_app_that_accepts_more_than_json_is_named(content, own):
    made = engine(own.url, accept_content=["json", content])
    (problem,) = map(str, app_problems(made.app, made.registry))
    assert f"the app 'careful' has {content} in accept_content" in problem


@pytest.mark.parametrize(
    ("annotations", "said"),
    [
        ({"*": {"rate_limit": "1/h", "acks_late": False, "on_failure": print}}, "acks_late, rate_limit"),
        ([{"own": {"rate_limit": "1/h"}}, {"slow.quick": {"time_limit": 3, "@__call__": print}}], "time_limit"),
        ({"own": {"rate_limit": "1/h"}, "slow.quick": {"before_start": print}}, None),
    ],
)
def test_annotations_that_do_not_apply_to_nodes_are_named(annotations, said, own):
    made = engine(own.url, task_annotations=annotations)
    problems = [str(each) for each in app_problems(made.app, made.registry)]
    assert len(problems) == (said is not None)
    for problem in problems:
        assert f"'careful' has {said} in task_annotations for tasks of nodes" in problem
    node = made.app.tasks["slow.quick"]
    assert (node.rate_limit, node.time_limit, node.acks_late) == (None, None, True)


def test_hooks_of_annotations_are_called_for_each_node(own):
    called = []

    def on_success(task, retval, *_):
        called.append((task.name, retval))

    made = engine(own.url, task_annotations={"*": {"on_success": on_success}}, task_always_eager=True)
    run = Orchestrator(made.app).start("slow")
    assert run.wait(timeout=10) == "succeeded"
    assert called == [("slow.quick", 1), ("slow.slowest", 1)]


def test_a_server_that_does_not_tell_is_warned_of(own, admin, caplog):
    admin.acl_setuser("shy", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-info"])
    caplog.set_level("INFO")
    warn_of_problems(engine(own.url.replace("//", "//shy:none@")))
    # Others' looks at queues come seconds later, from threads of their own.
    here = [record for record in caplog.records if record.thread == threading.get_ident()]
    (record,) = [record for record in here if record.name == "orchestrator.maintenance.preflight"]
    assert record.levelname == "WARNING"
    assert "does not say whether it throws keys away" in record.getMessage()
    assert "none@" not in record.getMessage()
    admin.acl_deluser("shy")


def test_a_worker_says_all_of_it_once(own, admin, tmp_path):
    admin.config_set("maxmemory-policy", "allkeys-lfu")
    admin.config_set("appendonly", "no")
    environment = environment_for(own.url) | {"TEST_LEDGER_URL": own.url, "TEST_VISIBILITY_S": "1"}
    environment["C_FORCE_ROOT"] = "1"  # Celery itself refuses pickle, but only for root
    worker = WorkerProcess(PROGRAM, "w", tmp_path / "log", environment=os.environ | environment, options=["-c", "1"])
    try:
        wait_until(worker.is_up, "the worker is up", timeout=60)
    finally:
        worker.stop()
    said = re.findall(r"WARNING/MainProcess\] (?:Redis at|the app) .*", worker.log.read_text())
    names = ("visibility_timeout", "accept_content", "maxmemory-policy", "appendonly")
    assert len(said) == len(names)
    assert [name in line for name, line in zip(names, said, strict=True)] == [True] * 4
