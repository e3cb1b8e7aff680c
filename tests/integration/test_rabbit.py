"""Run flows over RabbitMQ, with the runs in Redis: every kind of step, nodes that run long, and long queues."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.messaging import Consumer

from orchestrator import FlowBuilder, Node, Orchestrator, Settings, manual
from orchestrator.engine import engine_of
from orchestrator.messaging.patches import AT_START, patched
from orchestrator.messaging.queue_inspection import QueueHead, look_at_queue
from tests.harness import Ledger, child_pids, wait_until, workers
from tests.integration.test_connections import ENDS, PROGRAM, connected
from tests.rabbit import Rabbit

pytestmark = pytest.mark.rabbitmq
HELD_MS = 4000


def nothing() -> None:
    """Do nothing."""


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory):
    """A broker that ends the connection of a consumer that holds a message for 4 s."""
    with Rabbit(tmp_path_factory.mktemp("rabbit"), consumer_timeout_ms=HELD_MS) as running:
        yield running


@pytest.fixture(scope="module", params=["classic", pytest.param("quorum", marks=pytest.mark.chaos_long)])
def deployed(request, rabbit, server, tmp_path_factory):
    """The program and a worker of two processes on a queue of either type."""
    celery = {"broker_url": rabbit.url, "result_backend": server.url, "task_default_queue": request.param}
    celery |= {"task_default_queue_type": request.param}
    Ledger(server.url).clear()
    with (
        connected(server, celery, hold_s="1", prefix=request.param) as program,
        workers(PROGRAM, server.url, tmp_path_factory.mktemp("w"), count=1, options=["-c", "2"], lease="4") as (
            worker,
        ),
    ):
        yield program, worker


def test_every_kind_of_step_works(deployed):
    program, _ = deployed
    runs = {name: program.orchestrator.start(name) for name in ENDS}
    assert {name: run.wait(timeout=60) for name, run in runs.items()} == ENDS
    assert program.own.delay(1).get(timeout=30) == 2


def test_nodes_that_run_long_keep_their_worker_and_hold_no_other_message(deployed, server):
    program, worker = deployed
    ledger = Ledger(server.url)
    ledger.clear()
    wait_until(lambda: is_whole(worker) and not waiting_in(program), "it has both processes, and nothing is left")
    long = [program.orchestrator.start("connected-stay") for _ in range(2)]
    for run in long:
        ledger.wait_for("stay", run.id)
    wait_until(lambda: worker_has_let_go(program), "the messages are acknowledged", timeout=10)
    short = program.orchestrator.start("connected-fan")
    waits = "waits in queue .* of length 1 for one of 1 workers; every pool process of .* is busy"
    wait_until(
        lambda: re.fullmatch(waits, reason(short, "one")), "it waits in the queue, and is not held by the worker"
    )
    ledger.note("seen", "")
    assert [run.result(int, timeout=60) for run in long] == [1, 1], "in their first attempt"
    assert short.result(int, timeout=30) == 2
    assert worker.process.poll() is None
    assert "PRECONDITION_FAILED" not in worker.log.read_text()
    assert program.orchestrator.start("connected-map").result(list[int], timeout=30) == [0, 2, 4, 6, 8]


def reason(run, node):
    return next((each.reason for each in run.explain() if each.node == node), "")


def is_whole(worker):
    """Whether both pool processes live: a test before has killed one, which Celery replaces within 5 s."""
    states = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in child_pids(worker.pid)]
    return len(states) == 2 and "Z" not in states


def waiting_in(program):
    """How many messages are in the queue."""
    with program.app.connection_for_read() as connection:
        queue = program.app.conf.task_default_queue
        return connection.default_channel.queue_declare(queue, passive=True).message_count


def worker_has_let_go(program):
    """Whether nothing is held at the broker: with both processes busy, the worker does not consume then."""
    with program.app.connection_for_read() as connection:
        queue = program.app.conf.task_default_queue
        return connection.default_channel.queue_declare(queue, passive=True).consumer_count == 0


@pytest.mark.parametrize("deployed", ["classic"], indirect=True)
def test_a_long_queue_is_not_multiplied(deployed):
    program, worker = deployed
    before = worker.log.read_text().count(" received")
    runs = [program.orchestrator.start("connected-work") for _ in range(30)]
    assert {run.wait(timeout=60) for run in runs} == {"succeeded"}
    assert worker.log.read_text().count(" received") - before < 1.2 * 30 * 5


def drain(connection):
    """Take what the broker sends until it ends the connection."""
    while True:
        connection.drain_events(timeout=30)


@pytest.mark.parametrize(("patches", "is_lost"), [((), False), (("held_messages",), True)])
def test_a_channel_that_is_closed_for_a_held_message_is_a_lost_connection(rabbit, patches, is_lost):
    messages: list[Any] = []
    with patched(AT_START, None, Settings(patches=patches)), Connection(rabbit.url) as connection:
        queue = Queue("held", channel=connection.default_channel)
        queue.declare()
        connection.Producer().publish({}, routing_key="held")
        Consumer(connection.default_channel, queue, on_message=messages.append).consume()
        with pytest.raises((*connection.connection_errors, *connection.channel_errors), match="timed out") as caught:
            drain(connection)
        assert isinstance(caught.value, connection.connection_errors) == is_lost
        with pytest.raises(connection.channel_errors):  # a refused command stays one
            connection.channel().queue_declare("nowhere", passive=True)
    assert messages


def test_of_a_queue_only_the_length_is_seen(rabbit, server):
    app = Celery("seen", broker=rabbit.url, backend=server.url, set_as_current=False)
    app.conf.task_queues = [Queue("seen")]
    assert look_at_queue(app, "seen") == QueueHead(0, None, is_opaque=True), "there is none"
    for _ in range(3):
        app.send_task("seen", queue="seen")
    wait_until(lambda: look_at_queue(app, "seen") == QueueHead(3, None, is_opaque=True), "they are there")


@pytest.mark.parametrize("deployed", ["classic"], indirect=True)
def test_nothing_is_pushed_into_a_redis_that_is_not_the_broker(deployed):
    program, _ = deployed
    engine = engine_of(program.app)
    plan = engine.registry.flows["connected-fan"].plan
    assert engine.publisher.first_message(plan, "run") == ("", "")


def test_the_highest_number_is_received_first(rabbit, server):
    app = Celery("ranked", broker=rabbit.url, backend=server.url, set_as_current=False)
    app.conf.update(task_default_queue="ranked", task_queue_max_priority=9)
    orchestrator = Orchestrator(app)
    ranked = FlowBuilder("ranked").triggered_by(manual("test")).then(Node("a", nothing)).then(Node("b", nothing))
    orchestrator.register(ranked.build())
    runs = {given: orchestrator.start("ranked", priority=given) for given in (1, None, 9, 5)}
    wait_until(lambda: look_at_queue(app, "ranked").length == len(runs), "they are there")
    with app.connection_for_read() as connection:
        queue = app.amqp.queues["ranked"].bind(connection.default_channel)
        received = [queue.get(no_ack=True) for _ in runs]
    found = [(message.properties.get("priority"), message.headers["root_id"]) for message in received]
    assert found == [(given, runs[given].id) for given in (9, 5, 1, None)]
    for run in runs.values():
        run.cancel()
