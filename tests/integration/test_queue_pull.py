"""Runs of a fused flow that wait in the queue: a pool process begins them by itself, each as if it had come alone."""

from __future__ import annotations

import json
import time
from base64 import b64decode, b64encode
from collections import Counter
from types import SimpleNamespace

import pytest
import redis
from celery import Celery
from celery.events import EventReceiver
from celery.signals import task_prerun

from orchestrator import FlowBuilder, Node, Orchestrator, RetryPolicy, manual
from orchestrator.engine import engine_of
from orchestrator.execution import attempt as attempt_module
from orchestrator.execution import queue_pull as pull_module
from orchestrator.execution.queue_pull import pulled
from tests.harness import load_program, wait_until, workers

QUEUE = "fused-waiting"
FLOW = "fused-waiting"


def nothing() -> None:
    """Do nothing."""


def refuses() -> None:
    """Fail."""
    raise ValueError("no way")


class Client:
    """A client and worker in one, with runs that wait in its queue."""

    def __init__(self, url):
        app = Celery("pulled", broker=url, backend=url, set_as_current=False)
        app.conf.task_default_queue = "pulled"
        self.orchestrator = Orchestrator(app)
        for name in ("pulled", "other"):
            builder = FlowBuilder(name).triggered_by(manual("test")).then(Node("a", nothing)).then(Node("b", nothing))
            self.orchestrator.register(builder.fused().build())
        once = RetryPolicy(maximum_attempts=1)
        failing = FlowBuilder("failing").triggered_by(manual("test")).then(Node("a", refuses).with_retry(once))
        self.orchestrator.register(failing.fused().build())
        self.engine = engine_of(app)
        self.redis = redis.Redis.from_url(url)
        self.task = app.tasks["pulled.a"]

    def start(self, count=1, *, flow="pulled"):
        return [self.orchestrator.start(flow).id for _ in range(count)]

    def work(self, run_id, *, flow="pulled"):
        """Do what the worker does with the oldest message, that of this run."""
        assert run_id in self.waiting()[0].decode()
        self.redis.rpop("pulled")
        task = self.orchestrator.app.tasks[f"{flow}.a"]
        task.push_request(delivery_info={"routing_key": "pulled"}, hostname="w0@here")
        try:
            task.run(run_id, 1, self.engine.registry.flows[flow].plan.hash)
        finally:
            task.pop_request()

    def pull(self, *, routing_key="pulled"):
        self.task.push_request(delivery_info={"routing_key": routing_key}, hostname="w0@here")
        try:
            plan = self.engine.registry.flows["pulled"].plan
            found = pulled(self.engine, plan, self.task, since=time.monotonic())
            return [(message.run_id, self.task.request.root_id) for message in found]
        finally:
            self.task.pop_request()

    def waiting(self):
        return self.redis.lrange("pulled", 0, -1)[::-1]

    def change_oldest(self, change):
        message = json.loads(self.waiting()[0])
        self.redis.rpop("pulled")
        change(message)
        self.redis.rpush("pulled", json.dumps(message))


@pytest.fixture
def client(server, monkeypatch):
    monkeypatch.setattr(pull_module, "GOES_ON_FOR_S", 30)  # however long this machine takes for a run
    made = Client(server.url)
    yield made
    made.redis.delete("pulled")


def test_messages_are_taken_in_their_order_and_each_is_the_task_s_request(client):
    runs = client.start(3)
    assert client.pull() == [(run, run) for run in runs]
    assert client.waiting() == []
    assert client.task.request.root_id is None


def test_behind_a_run_that_is_stored_the_others_are_worked_through(client):
    runs = client.start(3)
    client.work(runs[0])
    assert {client.orchestrator.get(run).status for run in runs} == {"succeeded"}
    assert client.waiting() == []


def test_a_failure_is_told_before_any_other_run_begins(client):
    first, _ = client.start(2, flow="failing")
    with pytest.raises(ValueError, match="no way"):
        client.work(first, flow="failing")
    assert len(client.waiting()) == 1


def test_a_message_that_comes_too_late_for_this_process_goes_back(client, monkeypatch):
    """The worker begins to shut down between the look and the claim."""
    first, _ = client.start(2)
    before = client.waiting()[1:]
    monkeypatch.setattr(attempt_module, "is_draining", lambda: len(client.waiting()) == 0)
    client.work(first)
    assert client.waiting() == before


def test_what_is_not_of_the_same_task_stays_and_nothing_passes_it(client):
    (first,) = client.start()
    client.start(flow="other")
    client.start()
    before = client.waiting()
    assert client.pull() == [(first, first)]
    assert client.waiting() == before[1:]


def test_nothing_is_taken_while_it_might_overtake_what_is_more_urgent(client, server):
    """Only the list that is received from first: of the others, the process that receives knows what is before them."""
    given = client.orchestrator.start("pulled", priority=0)
    less = client.orchestrator.start("pulled", priority=6)
    assert client.pull() == [(given.id, given.id)]
    app = Celery("later", broker=server.url, backend=server.url, set_as_current=False)
    app.conf.update(task_default_queue="pulled", task_default_priority=6)
    other = Orchestrator(app)
    other.register(FlowBuilder("later").triggered_by(manual("test")).then(Node("a", nothing)).fused().build())
    engine = engine_of(app)
    assert engine.publisher.first_list(engine.registry.flows["later"].plan, "pulled") == ""
    assert client.redis.delete("pulled\x06\x166") == 1
    assert less.status == "pending"


def later(message):
    message["headers"]["eta"] = "2040-01-01T00:00:00+00:00"


def limited(message):
    message["headers"]["timelimit"] = [10, None]


def packed_otherwise(message):
    message["content-type"] = "application/x-msgpack"


def of_another_task(message):
    message["headers"] |= {"task": "pulled.b", "meta": {"task": "pulled.a"}}


def damaged(message):
    message["body"] = "?"


def endless(message):
    message["body"] = b64encode(b"[" * 100_000).decode()


def with_a_chain(message):
    arguments, named, embedded = json.loads(b64decode(message["body"]))
    message["body"] = b64encode(json.dumps([arguments, named, embedded | {"chain": [{}]}]).encode()).decode()


def without_headers(message):
    message["headers"] = {"task": "pulled.a"}


def no_message(message):
    message["headers"] = [1]


CHANGES = [
    later, limited, packed_otherwise, of_another_task, damaged, endless, with_a_chain, without_headers, no_message,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_celery_has_to_look_at_is_put_back(client, change):
    client.start(2)
    client.change_oldest(change)
    before = client.waiting()
    assert client.pull() == []
    assert client.waiting() == before


def test_headers_that_somebody_made_up_are_not_the_request_s(client):
    (run,) = client.start()
    client.change_oldest(lambda message: message["headers"].update({"self": 1, "root_id": "x", "chord": {}}))
    assert client.pull() == [(run, run)]


def test_a_damaged_message_is_never_taken(client):
    client.redis.rpush("pulled", b"{\xff", b"[" * 100_000)
    assert client.pull() == []
    assert len(client.waiting()) == 2


def test_whoever_listens_to_celery_s_signals_hears_every_node_of_every_run(client):
    runs = client.start(3)
    heard = []

    def hears(sender, **_):
        heard.append((sender.name, sender.request.root_id))

    task_prerun.connect(hears)
    try:
        client.work(runs[0])
    finally:
        task_prerun.disconnect(hears)
    own, *pulled_ones = runs
    expected = [("pulled.b", own), *((f"pulled.{node}", run) for run in pulled_ones for node in "ab")]
    assert heard == expected, "the first attempt of the message is Celery's to tell of"
    assert client.waiting() == []


def test_nothing_is_taken_from_a_queue_that_the_present_message_did_not_come_from(client):
    client.start()
    assert client.pull(routing_key="another") == []
    assert len(client.waiting()) == 1


@pytest.mark.parametrize(
    ("name", "value"), [("is_draining", lambda: True), ("is_worn_out", lambda: True), ("GOES_ON_FOR_S", 0)]
)
def test_nothing_is_taken_at_a_shutdown_or_when_the_time_is_over(client, monkeypatch, name, value):
    client.start()
    monkeypatch.setattr(pull_module, name, value)
    assert client.pull() == []
    assert len(client.waiting()) == 1


def test_a_redis_that_is_away_ends_it(client, monkeypatch, caplog):
    client.start()
    client.pull()

    def away(*_):
        raise redis.ConnectionError("gone")

    monkeypatch.setattr(client.engine.store, "scripts", SimpleNamespace(pop_message=away))
    assert client.pull() == []
    assert "flow pulled: no further run is begun here" in caplog.text


# --- with a worker ------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def fused(server):
    return load_program("fused", server.url)


def a_worker(server, folder, *more):
    options = ["-c", "1", "-Q", QUEUE, *more]
    return workers(
        "tests.programs.fused", server.url, folder, count=1, options=options, lease="3", reconcile_every="0.5"
    )


def received(folder, task=f"{FLOW}.a"):
    lines = [line for path in folder.glob("*.log") for line in path.read_text().splitlines()]
    return sum(f"Task {task}[" in line and line.endswith("received") for line in lines)


def starts_of(ledger, runs):
    mine = {run.id: run for run in runs}
    return Counter(name for name in ledger.names("start") if name.split("/")[0] in mine)


def test_runs_that_wait_share_messages_and_end_as_if_each_had_its_own(fused, server, tmp_path, ledger):
    ways = ["well"] * 15 + ["dies"] + ["well"] * 4 + ["fails"] + ["well"] * 19
    runs = [fused.orchestrator.start(FLOW, way) for way in ways]
    between = fused.orchestrator.start("fused-between")
    runs += [fused.orchestrator.start(FLOW, "well") for _ in range(10)]
    ways += ["well"] * 10
    with a_worker(server, tmp_path):
        ended = [run.wait(timeout=60) for run in runs]
        assert between.wait(timeout=30) == "succeeded"
        messages = received(tmp_path)
    assert ended == ["failed" if way == "fails" else "succeeded" for way in ways]
    attempts = {"well": 1, "dies": 2, "fails": 3}
    expected = {f"{run.id}/a": 1 for run in runs}
    expected |= {f"{run.id}/b": attempts[way] for run, way in zip(runs, ways, strict=True)}
    assert starts_of(ledger, runs) == expected
    well = [run for run, way in zip(runs, ways, strict=True) if way == "well"]
    assert [run.output("b")[1] for run in well] == [run.id for run in well], "each is its task's request"
    assert 1 <= messages <= len(runs) / 2


def test_a_worker_that_is_stopped_begins_no_further_run(fused, server, tmp_path, ledger):
    runs = [fused.orchestrator.start(FLOW, "slow") for _ in range(40)]
    with a_worker(server, tmp_path / "first") as (worker,):
        wait_until(lambda: ledger.names("start"), "it works")
        worker.terminate()
        assert worker.process.wait(timeout=30) == 0
    assert len(starts_of(ledger, runs)) < 2 * len(runs)
    with a_worker(server, tmp_path / "second"):
        assert {run.wait(timeout=60) for run in runs} == {"succeeded"}
    assert set(starts_of(ledger, runs).values()) == {1}


def test_a_monitor_sees_every_node_of_every_run(fused, server, tmp_path, ledger):
    """They wait behind one that goes on when the pool process is known to know of the monitor."""
    runs: set[str] = set()
    done: set[tuple[str, str]] = set()

    def succeeded(event):
        done.add((event["root_id"], event["name"]))

    def probe(_beat):
        if not runs:
            fused.orchestrator.start(FLOW, "well")

    with fused.app.connection_for_read() as connection, a_worker(server, tmp_path, "-E"):
        handlers = {"task-succeeded": succeeded, "worker-heartbeat": probe, "*": len}
        receiver = EventReceiver(connection, handlers=handlers, app=fused.app)
        deadline = time.monotonic() + 60
        for _ in receiver.itercapture(timeout=30):
            assert time.monotonic() < deadline, "every node is told within a minute"
            if not runs and f"{FLOW}.b" in {name for _, name in done}:
                first = fused.orchestrator.start(FLOW, "waits")
                ledger.wait_for("start", f"{first.id}/b")
                runs = {fused.orchestrator.start(FLOW, "well").id for _ in range(20)}
                ledger.client.set("go", 1)
            if runs and done >= {(run_id, f"{FLOW}.{name}") for run_id in runs for name in "ab"}:
                break
        assert 1 <= received(tmp_path) < len(runs)
