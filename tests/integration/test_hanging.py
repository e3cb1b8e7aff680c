"""Nothing waits without a word: what keeps a node from running is refused, warned of by a worker, or explained."""

from __future__ import annotations

import gc
import re
import time
from types import SimpleNamespace

import pytest
import redis
from celery import Celery
from kombu.entity import Queue

from orchestrator import ConfigurationError, FlowBuilder, Node, Orchestrator, Settings, manual
from orchestrator.engine import engine_of
from orchestrator.maintenance.bootstep import OrchestratorStep
from orchestrator.maintenance.flow_worker import misplaced_flows
from orchestrator.server import EmbeddedServer
from orchestrator.starts import known_flows
from tests.harness import Ledger, load_program, wait_until, workers

PROGRAM = "tests.programs.picky"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of this module's: its settings are changed."""
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as running:
        yield running
        gc.collect()  # a result of Celery unsubscribes when it goes, and would wait for a server that has gone


@pytest.fixture(scope="module")
def picky(server):
    return load_program("picky", server.url)


@pytest.fixture(scope="module")
def worker(picky, server, tmp_path_factory):
    """One worker of one pool process that consumes one of the queues."""
    options = ["-c", "1", "-Q", "picky"]
    with workers(PROGRAM, server.url, tmp_path_factory.mktemp("picky"), count=1, options=options) as (running,):
        yield running


@pytest.fixture
def other(server):
    """An app that declares every queue it sends to, with the flows of the picky one."""
    return Orchestrator(Celery("other", broker=server.url, backend=server.url, set_as_current=False))


def line(name, queue):
    return FlowBuilder(name).triggered_by(manual("test")).on_queue(queue).then(Node("first", lambda: 1)).build()


def reason(run, node):
    return next((each.reason for each in run.explain() if each.node == node), "")


def test_a_worker_of_an_app_without_json_runs_flows_and_its_own_tasks(picky, worker):
    run = picky.orchestrator.start("picky-fan")
    assert run.result(str, timeout=30) == "end"
    assert [run.output(key, int) for key in ("left", "right")] == [2, 2]
    assert picky.own.delay([3]).get(timeout=30) == [3, 4]


@pytest.mark.parametrize(
    ("flow", "queue", "users"),
    [("picky-nowhere", "nowhere", "last"), ("picky-elsewhere", "elsewhere", "steps and compensations, first")],
)
def test_a_queue_that_the_app_does_not_declare_is_refused_before_anything_is_stored(picky, server, flow, queue, users):
    said = f"flow {flow} is not started: queue {queue} (for {users}) is not in task_queues of the Celery app 'picky'"
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        picky.orchestrator.start(flow, idempotency_key="once")
    assert picky.orchestrator.runs(flow=flow) == []
    with redis.Redis.from_url(server.url) as client:
        assert list(client.scan_iter(f"*idem:{flow}*")) == []


def test_only_what_this_app_sends_itself_is_looked_at_of_a_flow_that_is_only_announced(picky, worker, server):
    wait_until(lambda: "picky-nowhere" in known_flows(engine_of(picky.app)), "the flows are announced")
    app = Celery("sends", broker=server.url, backend=server.url, set_as_current=False)
    app.conf.update(task_create_missing_queues=False, task_queues=[Queue("picky")], task_default_queue="picky")
    run = Orchestrator(app).start("picky-nowhere")
    wait_until(
        lambda: "which no worker consumes: queue nowhere (for last) is not" in reason(run, "last"), "it is explained"
    )
    began, late = time.monotonic(), Orchestrator(app).start("picky-late")
    assert time.monotonic() - began < 5
    wait_until(lambda: "queue picky-idle of length 1, which no worker consumes" in reason(late, "last"), "explained")
    run.cancel()
    late.cancel()


def test_a_run_that_cannot_be_sent_keeps_no_other_waiting(picky, worker, other, server):
    other.register(line("picky-elsewhere", "elsewhere"))
    hanging = [other.start("picky-elsewhere") for _ in range(3)]
    with redis.Redis.from_url(server.url) as client:
        client.delete("elsewhere")
        good = picky.orchestrator.start("picky-fan")
        client.delete("picky")
    assert good.result(str, timeout=30) == "end", "its lost message is sent again"
    said = "flow picky-elsewhere: its messages are not sent: "
    wait_until(lambda: said in worker.log.read_text(), "the worker says so")
    log = worker.log.read_text()
    assert log.count(said) == 1, "and not every second"
    assert "a step failed" not in log
    for run in hanging:
        assert "which no worker consumes" in reason(run, "first")
        run.cancel()


def test_a_task_that_the_pool_processes_lack_is_named(picky, worker):
    run = picky.orchestrator.start("picky-lost")
    said = r"waits for picky-lost\.lost in a pool process; those of w0@\S+ do not have it"
    wait_until(lambda: re.fullmatch(said, reason(run, "lost")), "it is explained", timeout=10)
    run.cancel()


def test_a_busy_pool_is_named(picky, worker, server):
    ledger = Ledger(server.url)
    ledger.clear()
    blocking = picky.orchestrator.start("picky-block")
    ledger.wait_for("block", blocking.id)
    run = picky.orchestrator.start("picky-fan")
    said = r"waits in queue picky of length \d for one of 1 workers; every pool process of w0@\S+ is busy"
    wait_until(lambda: re.match(said, reason(run, "first")), "it is explained", timeout=10)
    ledger.client.set("go-on", 1)
    assert run.result(str, timeout=30) == "end"


def test_a_worker_warns_at_its_start(worker):
    wait_until(lambda: "no worker consumes queue nowhere" in worker.log.read_text(), "the queues are looked at")
    said = re.findall(r"WARNING/MainProcess\] (.*)", worker.log.read_text())
    of_app = "is not in task_queues of the Celery app 'picky', and task_create_missing_queues is off"
    assert [line for line in said if of_app in line and line.startswith("runs of flow picky-nowhere would hang")]
    assert (
        "no worker consumes queue picky-idle, in which picky-late.last would wait; start one with -Q picky-idle" in said
    )


def test_a_default_queue_that_comes_after_the_orchestrator_is_named(server, caplog):
    app = Celery("late", broker=server.url, backend=server.url, set_as_current=False)
    builder = FlowBuilder("late-nowhere").triggered_by(manual("test")).then(Node("first", lambda: 1))
    orchestrator = Orchestrator(app)
    orchestrator.register(builder.build())
    orchestrator.register(line("late-named", "elsewhere"))
    assert misplaced_flows(engine_of(app)) == ""
    app.conf.task_default_queue = "later"
    worker = SimpleNamespace(app=app, pool_cls=object, hostname="w@h", blueprint=SimpleNamespace(on_stopped=None))
    step = OrchestratorStep(worker)
    step.start(worker)
    step._end()
    said = (
        "task_default_queue of the Celery app 'late' was celery at Orchestrator(app) and is later now: runs of flow "
        "late-nowhere wait in queue celery, which this worker does not consume. Put Orchestrator(app) after the "
        "configuration of the app"
    )
    assert [record.getMessage() for record in caplog.records] == [said]
    app.amqp.queues.select_add("celery")
    assert misplaced_flows(engine_of(app)) == ""


def test_json_may_be_kept_off_and_then_a_start_is_refused(server):
    def entrance(name, **settings):
        app = Celery(name, broker=server.url, backend=server.url, set_as_current=False)
        app.conf.accept_content = ["auth"]  # app.setup_security() makes it known later
        return Orchestrator(app, settings=Settings(**settings))

    entrance("mixed").start(line("mixed", "mixed")).cancel()
    orchestrator = entrance("signed", accept_json=False)
    with pytest.raises(ConfigurationError, match=r"accept_content of the Celery app 'signed' has no json.*accept_json"):
        orchestrator.start(line("signed", "signed"))
    assert orchestrator.runs(flow="signed") == []


def test_a_store_that_evicts_is_warned_of_or_refused_as_set(server, caplog):
    def entrance(policy):
        app = Celery("evicted", broker=server.url, backend=server.url, set_as_current=False)
        return Orchestrator(app, settings=Settings(evicting_store=policy))

    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            strict = entrance("refuse")
            with pytest.raises(ConfigurationError, match=r"policy allkeys-lru: .*evicting_store is 'refuse'"):
                strict.start(line("evicted", "evicted"))
            lenient = entrance("warn")
            for _ in range(2):
                lenient.start(line("evicted", "evicted") if not _ else "evicted").cancel()
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    assert strict.runs(flow="evicted")
    (record,) = [record for record in caplog.records if "maxmemory-policy allkeys-lru" in record.getMessage()]
    assert "or give runs a server of their own by Orchestrator(app, redis_url=...)" in record.getMessage()
    strict.start("evicted").cancel()
    assert engine_of(strict.app).settings.evicting_store == "refuse"
