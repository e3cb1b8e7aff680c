"""The patches of kombu and Celery, each by itself and without a worker: what it repairs is broken without it."""

from __future__ import annotations

import contextlib
import gc
import os
import struct
import threading
import time
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

import billiard
import pytest
import redis
from billiard.reduction import ForkingPickler
from celery import Celery
from celery.concurrency import asynpool
from celery.worker.consumer import Consumer as CeleryConsumer
from kombu.asynchronous import Hub
from kombu.common import ignore_errors
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.exceptions import OperationalError
from kombu.messaging import Consumer
from kombu.transport import redis as transport
from kombu.utils import functional

from orchestrator import ConfigurationError, FlowBuilder, Node, Orchestrator, RegistrationError, Settings, manual
from orchestrator.messaging.canvas import SINCE_HEADER
from orchestrator.messaging.patches import AT_START, BEFORE_POOL, patched
from orchestrator.server import EmbeddedServer
from orchestrator.settings import PATCHES
from tests.harness import wait_until

STOCK = {
    "QoS": transport.Channel.QoS,
    "disconnect": transport.Channel._disconnect_pools,
    "client": transport.Channel._create_client,
    "handler": asynpool.AsynPool.ResultHandler,
    "worker": asynpool.AsynPool.Worker,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def admin(server):
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        yield client
        client.config_set("maxmemory", 0)
        client.flushall()


@contextmanager
def only(*names, worker=None):
    """Some of the patches, as a worker has them."""
    with patched({**BEFORE_POOL, **AT_START}, worker, Settings(patches=names)):
        yield
    found = (transport.Channel.QoS, transport.Channel._disconnect_pools, transport.Channel._create_client)
    pool = (asynpool.AsynPool.ResultHandler, asynpool.AsynPool.Worker)
    assert (*found, *pool) == tuple(STOCK.values()), "nothing is left behind"
    assert not {"basic_ack", "basic_reject"} & set(vars(transport.Channel)), "nor is this"


class Consuming:
    """A consumer with one message of a queue, which it has not acknowledged."""

    def __init__(self, server, **headers):
        self.connection = Connection(server.url)
        self.messages: list[Any] = []
        self.channel = self.connection.default_channel
        queue = Queue("work", channel=self.channel)
        queue.declare()
        self.connection.Producer(self.channel).publish({}, routing_key="work", headers=headers)
        Consumer(self.channel, queue, on_message=self.messages.append).consume()
        while not self.messages:
            self.connection.drain_events(timeout=10)

    def close(self):
        """End it without what kombu does at the end of a process for messages that are left."""
        self.channel.qos._on_collect.cancel()
        self.channel.qos._delivered.clear()
        self.connection.close()


@pytest.fixture
def consume(server):
    with contextlib.ExitStack() as stack:

        def consume(**headers):
            return stack.enter_context(contextlib.closing(Consuming(server, **headers)))

        yield consume


def test_the_settings_name_all_patches_and_choose_among_them():
    assert (*BEFORE_POOL, *AT_START, "late_handlers", "node_names") == PATCHES
    assert Settings().patches == PATCHES
    assert Settings(patches=("closed_channels",)).patches == ("closed_channels",)
    assert set(PATCHES) - set(Settings(patches=("-refused_acks",)).patches) == {"refused_acks"}
    assert Settings(patches=()).patches == ()
    for wrong in (("refused",), ("refused_acks", "-closed_channels"), "refused_acks", (1,)):
        with pytest.raises(ConfigurationError, match="patches"):
            Settings(patches=wrong)  # type: ignore[arg-type]


def test_the_environment_chooses_patches(monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_PATCHES", "-refused_acks, -closed_channels")
    assert set(PATCHES) - set(Settings().patches) == {"refused_acks", "closed_channels"}
    monkeypatch.setenv("ORCHESTRATOR_PATCHES", "none")
    assert Settings().patches == ()


# --- refused_acks ----------------------------------------------------------------------------------
def test_a_message_that_cannot_be_noted_for_memory_waits(consume, admin):
    with only():
        consuming = consume()
    admin.config_set("maxmemory", 1)
    with pytest.raises(redis.OutOfMemoryError):
        consuming.messages[0].requeue()
    admin.config_set("maxmemory", 0)
    with only("refused_acks"):
        consuming = consume()
    admin.config_set("maxmemory", 1)
    requeued = threading.Thread(target=consuming.messages[0].requeue)
    requeued.start()
    requeued.join(0.6)
    assert requeued.is_alive()
    admin.config_set("maxmemory", 0)
    requeued.join(30)
    assert not requeued.is_alive()
    assert admin.llen("work") == 1


# --- refused_connections ---------------------------------------------------------------------------
def test_whatever_redis_refuses_is_a_lost_connection_for_the_workers_consumer_with_a_pause(monkeypatch):
    class Worker:
        class consumer:  # noqa: N801 - as Celery's
            connection_errors = (OSError,)
            reported: ClassVar[list[BaseException]] = []
            on_connection_error_before_connected = on_connection_error_after_connected = reported.append

    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    errors = [redis.OutOfMemoryError(), redis.ReadOnlyError(), redis.ResponseError("UNBLOCKED force unblock")]
    lost = [redis.ConnectionError(), OperationalError("lost")]
    with only("refused_connections", worker=Worker):
        assert all(isinstance(error, Worker.consumer.connection_errors) for error in (*errors, *lost))
        for error in (*errors, *lost):
            Worker.consumer.on_connection_error_after_connected(error)
    assert len(Worker.consumer.reported) == 2 + len(slept) == 2 + len(errors), "a connection that is lost waits itself"
    assert Worker.consumer.connection_errors == (OSError,)


# --- unacked_in_memory -----------------------------------------------------------------------------
@pytest.mark.parametrize(("names", "copies"), [((), 1), (("unacked_in_memory",), 0)])
def test_a_delivered_message_of_a_node_is_copied_only_without_the_patch(consume, admin, names, copies):
    with only(*names):
        consuming = consume(**{SINCE_HEADER: 1})
        assert admin.hlen("unacked") == copies
        consuming.messages[0].requeue()
        assert (admin.llen("work"), admin.hlen("unacked")) == (1, 0)
        admin.flushall()
        consume()
        assert admin.hlen("unacked") == 1, "of any other task it is"


# --- client_per_channel ----------------------------------------------------------------------------
@pytest.mark.parametrize(("names", "is_kept"), [((), False), (("client_per_channel",), True)])
def test_a_channel_keeps_its_client_only_with_the_patch(server, names, is_kept):
    with only(*names), Connection(server.url) as connection:
        channel = connection.default_channel
        with channel.conn_or_acquire() as one, channel.conn_or_acquire() as other:
            assert (one is other) == is_kept
            assert one.ping()


# --- greenlet_sleep --------------------------------------------------------------------------------
@pytest.mark.parametrize(("names", "yields"), [((), False), (("greenlet_sleep",), True)])
def test_kombu_waits_as_greenlets_do_only_with_the_patch(monkeypatch, names, yields):
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)  # as gevent does, behind kombu's import
    calls = iter([OSError("refused"), None])

    def connect():
        if error := next(calls):
            raise error

    with only(*names):
        functional.retry_over_time(connect, OSError, interval_start=0.01, interval_max=0.01)
    assert bool(slept) == yields


# --- closed_channels -------------------------------------------------------------------------------
@pytest.mark.parametrize("names", [(), ("closed_channels",)])
def test_a_channel_that_outlived_its_connection_still_acknowledges(tmp_path, names):
    with only(*names), contextlib.ExitStack() as stack:
        if not names:
            stack.enter_context(pytest.raises(AttributeError))
        lose_the_connection_and_acknowledge(tmp_path)


def lose_the_connection_and_acknowledge(tmp_path):
    with EmbeddedServer(tmp_path) as server:
        connection = Connection(server.url)
        messages: list[Any] = []
        channel = connection.default_channel
        queue = Queue("work", channel=channel)
        queue.declare()
        connection.Producer(channel).publish({}, routing_key="work")
        Consumer(channel, queue, on_message=messages.append).consume()
        while not messages:
            connection.drain_events(timeout=10)
        other = connection.channel()  # as the one for remote control: closing it deletes a queue, which needs Redis
        Consumer(other, Queue("box", Exchange("box", type="fanout"), auto_delete=True), on_message=print).consume()
        connection.drain_events(timeout=10)  # the subscription is confirmed
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.1)
        assert channel.__dict__["_in_poll"], "it does not wait for its next message"

        server.stop()
        connection.collect()  # these two are what Celery does with a lost connection
        ignore_errors(connection, connection.close)
        assert channel.closed
        server.start()

        with redis.Redis.from_url(server.url) as client:
            assert client.hlen("unacked") == 1
            messages[0].ack()
            assert client.hlen("unacked") == 0
            wait_until(lambda: len(client.client_list()) == 1, "nothing that the channel connected again is left")


# --- dropped_connections ---------------------------------------------------------------------------
def lose(*_: object) -> None:
    raise redis.ConnectionError("lost")


def worker_that_connects(server):
    """A worker whose consumer is to connect as Celery's does."""
    consumer = SimpleNamespace(hub=object(), amqheartbeat=None)
    consumer.connection_for_read = lambda **_: Connection(server.url).ensure_connection()
    consumer.connect = partial(CeleryConsumer.connect, consumer)
    return SimpleNamespace(consumer=consumer)


@pytest.mark.parametrize("names", [(), ("dropped_connections",)])
def test_a_connection_that_is_lost_before_the_consumer_has_it_is_closed(server, admin, monkeypatch, names):
    def connections():
        return {each["id"] for each in admin.client_list()}

    worker, before = worker_that_connects(server), connections()
    monkeypatch.setattr(transport.Transport, "register_with_event_loop", lose)
    with only(*names, worker=worker), pytest.raises(redis.ConnectionError) as kept:
        worker.consumer.connect()
    # Of the new ones: what other tests have left may be collected meanwhile.
    wait_until(lambda: len(connections() - before) == (not names), "what was dropped is closed")
    assert kept.traceback  # keeps the connection from being collected


@pytest.mark.parametrize("names", [(), ("dropped_connections",)])
def test_channels_are_closed_although_closing_another_one_fails(server, monkeypatch, names):
    connection = Connection(server.url)
    channels = [connection.channel() for _ in range(4)]
    for failing in (channels[1], channels[3]):
        monkeypatch.setattr(failing, "close", lose)
    with only(*names, worker=worker_that_connects(server)):
        connection.close()
    assert [channel.closed for channel in channels] == [bool(names), False, bool(names), False]
    monkeypatch.undo()
    for channel in channels:
        channel.close()


# --- mute_subscriptions ----------------------------------------------------------------------------
@pytest.mark.parametrize("names", [(), ("mute_subscriptions",)])
def test_an_event_of_a_subscription_that_is_lost_stops_nothing(server, names):
    heard: list[str] = []
    news = Exchange("news", type="fanout")
    with only(*names), Connection(server.url) as connection:
        channel = connection.channel()
        with Consumer(channel, [Queue("all-news", news)], callbacks=[lambda body, _: heard.append(body)]):
            connection.transport.cycle.on_poll_start()
            channel.subclient.connection.disconnect()

            def read():
                with contextlib.suppress(Exception):  # of whatever kind: its connection is taken from it in the end
                    channel.handlers["LISTEN"]()

            reading = threading.Thread(target=read)
            reading.start()
            reading.join(2)
            assert reading.is_alive() == (not names), "it waits for what nobody sends"
            channel.subclient.connection.disconnect()
            reading.join(10)
            if names:
                connection.transport.cycle.on_poll_start()
                with Connection(server.url) as other:
                    other.Producer().publish("at last", exchange=news, declare=[news])
                while not heard:
                    connection.drain_events(timeout=10)


# --- result_connections ----------------------------------------------------------------------------
@pytest.mark.parametrize("names", [(), ("result_connections",)])
def test_a_backend_that_lost_a_connection_leaves_none_open(server, admin, names):
    def connections():
        return len(admin.client_list())

    with only(*names):
        backend = Celery("results", broker=server.url, backend=server.url, set_as_current=False).backend
        backend.result_consumer.start("some-task")
        backend.client.ping()
        before = connections()
        gc.disable()
        try:
            for _ in range(3):
                backend.result_consumer._reconnect_pubsub()
                backend.client.ping()
            if names:
                wait_until(lambda: connections() <= before, "what was dropped is closed")
            else:
                assert connections() >= before + 3
        finally:
            gc.enable()
        backend.result_consumer.stop()
        backend.client.close()


# --- partial_reports -------------------------------------------------------------------------------
class Reports:
    """The main process's end of one pool process's pipe, and the event loop that reads it."""

    def __init__(self, handler_class):
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.process = object()
        self.arrived: list[str] = []
        self.hub = Hub()
        self.handler = handler_class(
            *[None] * 9, fileno_to_outq={self.reader: self.process}, on_process_alive=self.arrived.append
        )
        self.connect()

    def connect(self):
        """Do what a pool does at each connection to the broker."""
        self.handler.register_with_event_loop(self.hub)
        self.hub.add_reader(self.reader, self.handler.handle_event, self.reader)
        self.loop = self.hub.create_loop()

    def write(self, data):
        os.write(self.writer, data)
        next(self.loop)

    def close(self):
        self.hub.close()
        os.close(self.reader)
        os.close(self.writer)


def report(value):
    body = ForkingPickler.dumps((asynpool.WORKER_UP, (value,)))
    return struct.pack("!i", len(body)) + bytes(body)


@pytest.fixture
def reports():
    with only("partial_reports"):
        made = Reports(asynpool.AsynPool.ResultHandler)
    yield made
    made.close()


@pytest.mark.parametrize("read", [2, 4, 40])
def test_a_report_that_is_read_in_part_is_read_on_after_a_reconnect(reports, read):
    text = "x" * 100
    whole = report(text)
    reports.write(whole[:read])
    reports.hub.reset()
    reports.connect()
    reports.write(whole[read:])
    assert reports.arrived == [text]
    reports.write(report("next"))
    assert reports.arrived == [text, "next"]


def test_without_the_patch_the_rest_of_a_report_is_taken_for_another_one():
    reports = Reports(STOCK["handler"])
    whole = report("x" * 100)
    reports.write(whole[:40])
    reports.hub.reset()
    reports.connect()
    with contextlib.suppress(Exception):  # whatever it makes of it
        reports.write(whole[40:])
    assert reports.arrived == []
    reports.close()


def test_a_report_that_its_process_did_not_end_is_not_read_on_in_the_next_process_s(reports):
    reports.write(report("lost")[:6])
    reports.handler.fileno_to_outq[reports.reader] = object()  # another one on the same descriptor
    reports.hub.reset()
    reports.connect()
    reports.write(report("whole"))
    assert reports.arrived == ["whole"]


# --- fork_server -----------------------------------------------------------------------------------
@pytest.mark.parametrize(("names", "is_known"), [((), False), (("fork_server",), True)])
def test_a_fork_servers_child_reports_under_the_pipe_s_number_only_with_the_patch(names, is_known):
    with only(*names):
        kind = asynpool.AsynPool.Worker
    context = billiard.get_context("forkserver")
    pipes = [context.SimpleQueue() for _ in range(2)]
    worker = kind(*pipes)
    made, arguments = worker.__reduce__()
    # As a child gets them: over other files.
    others = tuple(context.SimpleQueue() if each in pipes else each for each in arguments)
    if names:
        make, inner, *numbers = arguments
        others = (make, tuple(context.SimpleQueue() if each in pipes else each for each in inner), *numbers)
    assert (made(*others).inqW_fd == worker.inqW_fd) == is_known


# --- node_names, late_handlers ---------------------------------------------------------------------
def app_with_a_flow(*patches):
    address = "redis://127.0.0.1:1/0"
    app = Celery("patched", broker=address, backend=address, set_as_current=False)
    orchestrator = Orchestrator(app, settings=Settings(patches=patches))
    orchestrator.register(FlowBuilder("orders").triggered_by(manual("test")).then(Node("ship", lambda: None)).build())
    return app


def test_a_task_that_takes_a_nodes_name_is_dropped_in_silence_without_the_patch():
    app = app_with_a_flow()
    node = app.tasks["orders.ship"]
    assert app.task(name="orders.ship", shared=False)(lambda: 1).name == "orders.ship"
    assert app.tasks["orders.ship"] is node, "the function is nowhere"
    app = app_with_a_flow("node_names")
    with pytest.raises(RegistrationError, match="that of a node"):
        app.task(name="orders.ship", shared=False)(lambda: 1)


@pytest.mark.parametrize(("patches", "is_called"), [((), False), (("late_handlers",), True)])
def test_a_handler_that_comes_after_the_orchestrator_is_called_only_with_the_patch(patches, is_called):
    app = app_with_a_flow(*patches)
    called = []
    app.on_after_configure.connect(lambda **_: called.append(1), weak=False)
    app.loader.init_worker()
    assert bool(called) == is_called
