"""Workers built in a program: their queue, the queues of their flows, and clients that know only names."""

from __future__ import annotations

import os

import pytest
from celery import Celery

import tests.programs.built as built_flows
from orchestrator import (
    FlowBuilder,
    InvalidInput,
    Node,
    Orchestrator,
    Settings,
    UnknownFlow,
    Worker,
    WorkerConfig,
    manual,
    schedule,
)
from orchestrator.engine import engine_of
from orchestrator.server import EmbeddedServer
from tests.harness import ROOT, environment_for, wait_until
from tests.processes import running


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of its own: nobody else must consume these queues."""
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as own:
        yield own


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("built")


def built(server, folder, kind: str):
    """A worker of tests/programs/built.py, run as a program in an empty folder."""
    return running(
        [str(ROOT / "tests/programs/built.py"), kind],
        folder=folder / kind,
        log=folder / f"{kind}.log",
        environment=environment_for(server.url) | {"ORCHESTRATOR_REDIS_URL": server.url},
    )


@pytest.fixture(scope="module")
def named(server, folder):
    with built(server, folder, "named") as process:
        process.wait_for(" ready.", timeout=60)
        yield process


@pytest.fixture(scope="module")
def client(server):
    """A process without any flow's code."""
    app = Celery("client", broker=server.url, backend=server.url, set_as_current=False)
    return Orchestrator(app)


def test_a_flow_without_a_queue_runs_on_the_workers(named, client):
    run = client.start("plain", 21)
    assert run.result(str, timeout=30) == "named-queue"
    assert run.output("double") == 42
    both = client.start("second", 1)
    assert both.wait(timeout=30) == "succeeded"
    assert [both.output(key) for key in ("left", "right")] == ["named-queue", "named-queue"]


def test_a_client_with_the_code_finds_the_queue_of_the_workers(named, server):
    app = Celery("knowing", broker=server.url, backend=server.url, set_as_current=False)
    knowing = Orchestrator(app)
    for given in (built_flows.second, "second"):
        run = knowing.start(given, 1)
        assert run.wait(timeout=30) == "succeeded"
        assert run.output("left", str) == "named-queue"
    assert engine_of(app).registry.flows["second"].plan.queue == "named-queue"


def test_a_client_with_other_code_does_not_take_the_announced_plan(named, server):
    app = Celery("other", broker=server.url, backend=server.url, set_as_current=False)
    other = flow_of("second")
    run = Orchestrator(app).start(other)
    assert engine_of(app).registry.flows["second"].plan.queue == "celery"
    run.cancel()
    assert run.wait(timeout=30) == "cancelled"


def test_a_client_by_name_is_told_what_it_got_wrong(named, client):
    with pytest.raises(UnknownFlow, match="plain"):
        client.start("plane", 1)
    run = client.start("plain", "no number")
    assert run.wait(timeout=30) == "failed"
    assert run.error.type.endswith(InvalidInput.__qualname__)


def test_a_flow_with_a_queue_keeps_it_and_waits_for_a_worker_there(named, client, server, folder):
    assert "flow elsewhere: another worker has to consume elsewhere-queue" in named.text
    store = engine_of(client.app).store
    plan = store.announced_plan("elsewhere")
    assert plan is not None
    assert plan.queue == "elsewhere-queue"
    run = client.start("elsewhere", 1)
    wait_until(lambda: store.client.llen("elsewhere-queue") > 0, "a message")
    assert client.start("plain", 1).wait(timeout=30) == "succeeded"
    assert not run.status.is_final

    with built(server, folder, "free") as free:
        assert run.result(str, timeout=60) == "elsewhere-queue"
        free.wait_for("beat: Starting...")
        assert free.stop() == 0
        assert "ended with free" in free.text
    assert list((folder / "free").iterdir()) == []  # its beat wrote none either


# --- without a process ----------------------------------------------------------------------------------------------


@pytest.fixture
def app():
    url = "redis://127.0.0.1:1/0"
    with Celery("own", broker=url, backend=url, set_as_current=False) as own:
        yield own


def flow_of(name: str, queue: str | None = None, *triggers):
    builder = FlowBuilder(name).triggered_by(manual("test"), *triggers).then(Node("only", lambda: None))
    return builder.on_queue(queue).build() if queue else builder.build()


def option(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


def test_a_queue_of_its_own_leaves_the_apps_configuration_alone(app):
    before = dict(app.conf)
    flows = [flow_of("one"), flow_of("two", "queue-of-two")]
    worker = Worker(app).with_config(WorkerConfig(task_queue="mine")).with_flow(flows[0]).with_flow(flows[1])
    worker.register_flows()
    registered = engine_of(app).registry.flows
    assert {name: entry.plan.queue for name, entry in registered.items()} == {"one": "mine", "two": "queue-of-two"}
    assert option(worker.arguments(), "--queues") == "mine"
    assert dict(app.conf) == before  # the app's own tasks go where they went


def test_a_flow_that_was_registered_before_gets_the_workers_queue_too(app):
    flow = flow_of("early", None, schedule("0 4 * * *"))
    orchestrator = Orchestrator(app)
    orchestrator.register(flow)
    orchestrator.register(other := flow_of("not-this-workers"))
    Worker(app).with_config(WorkerConfig(task_queue="mine")).with_flow(flow).register_flows()
    registered = engine_of(app).registry.flows
    plan = registered["early"].plan
    assert (plan.queue, plan.nodes["only"].queue) == ("mine", "mine")
    assert registered[other.name].plan.queue == "celery"
    assert [entry["options"]["queue"] for entry in app.conf.beat_schedule.values()] == ["mine"]


def test_an_orchestrator_that_the_app_has_is_used_as_it_is(app):
    orchestrator = Orchestrator(app, redis_url="redis://127.0.0.1:2/0", settings=Settings(prefix="mine"))
    Worker(app).with_flow(flow_of("one")).register_flows()
    engine = engine_of(app)
    assert engine is orchestrator._engine
    assert engine.settings.prefix == "mine"


def test_without_a_queue_a_worker_consumes_the_apps_and_its_flows(app):
    worker = Worker(app).with_flow(flow_of("one")).with_flow(flow_of("two", "queue-of-two"))
    assert option(worker.arguments(), "--queues") == "celery,queue-of-two"


def test_the_command_line_says_no_more_than_the_configuration(app):
    assert Worker(app).arguments() == [
        "worker", "--loglevel", "INFO", "--hostname", f"orchestrator-{os.getpid()}@%h", "--queues", "celery",
    ]  # fmt: skip
    everything = WorkerConfig(task_queue="q", concurrency=3, beat=True, log_level="WARNING")
    arguments = Worker(app).with_config(everything).arguments()
    assert [option(arguments, name) for name in ("--loglevel", "--queues", "--concurrency", "--scheduler")] == [
        "WARNING", "q", "3", "celery.beat:Scheduler",
    ]  # fmt: skip
    assert "--beat" in arguments


def test_without_an_app_the_environment_says_where_redis_is(monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_REDIS_URL", "redis://elsewhere:6380/1")
    assert Worker().app.conf.broker_url == "redis://elsewhere:6380/1"
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("ORCHESTRATOR_REDIS_URL")
        else:
            monkeypatch.setenv("ORCHESTRATOR_REDIS_URL", unset)
        assert Worker().app.conf.result_backend == "redis://127.0.0.1:6379/0"
