"""The seams by which a worker's main process outlives its connection, each by itself and without a worker."""

from __future__ import annotations

import os
import struct
from typing import Any

import pytest
import redis
from billiard.reduction import ForkingPickler
from celery.concurrency import asynpool
from kombu.asynchronous import Hub
from kombu.common import ignore_errors
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.messaging import Consumer
from kombu.transport import redis as transport

from orchestrator.messaging import resilient_broker
from orchestrator.server import EmbeddedServer


@pytest.fixture
def patient(monkeypatch):
    """What a worker installs, for one test."""
    monkeypatch.setattr(transport.Channel, "QoS", transport.Channel.QoS)
    monkeypatch.setattr(transport.Channel, "_disconnect_pools", transport.Channel._disconnect_pools)
    monkeypatch.setattr(asynpool.AsynPool, "ResultHandler", asynpool.AsynPool.ResultHandler)
    resilient_broker.install()


@pytest.mark.usefixtures("patient")
def test_a_channel_that_outlived_its_connection_still_acknowledges(tmp_path):
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


def report(value):
    body = ForkingPickler.dumps((asynpool.WORKER_UP, (value,)))
    return struct.pack("!i", len(body)) + bytes(body)


@pytest.fixture
def reports():
    made = Reports(resilient_broker.ResumingResultHandler)
    yield made
    made.hub.close()
    os.close(made.reader)
    os.close(made.writer)


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


def test_a_report_that_its_process_did_not_end_is_not_read_on_in_the_next_process_s(reports):
    reports.write(report("lost")[:6])
    reports.handler.fileno_to_outq[reports.reader] = object()  # another one on the same descriptor
    reports.hub.reset()
    reports.connect()
    reports.write(report("whole"))
    assert reports.arrived == ["whole"]
