"""Publishing of whatever a transition left goes over one connection of the app's pool, or is left within a limit."""

from __future__ import annotations

import time

import pytest
import redis
from celery import Celery
from kombu import pools

from orchestrator import FlowBuilder, Node, Orchestrator, manual
from orchestrator.engine import engine_of
from orchestrator.server import EmbeddedServer
from orchestrator.store.scripts.results import Work

QUEUE = "celery"
A, B, C = (Node(name, lambda: 1) for name in "abc")
FAN = FlowBuilder("fan").triggered_by(manual("test")).then_parallel("both", A, B).then(C).build()
OPEN_FAN = FlowBuilder("open-fan").triggered_by(manual("test")).then_parallel("both", A, B).build()
LINE = FlowBuilder("line").triggered_by(manual("test")).then(A).then(B).then(C).build()
WAIT_S = 1.0
MEMBERS = ("a", "b")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def app(server):
    """An app whose pool has one connection, as `broker_pool_limit = 1` makes it."""
    usual = pools.get_limit()  # kombu has one limit for all apps of a process
    made = Celery("narrow", broker=server.url, backend=server.url, set_as_current=False)
    made.conf.update(broker_pool_limit=1, broker_pool_acquire_timeout=WAIT_S)
    orchestrator = Orchestrator(made)
    for flow in (FAN, OPEN_FAN, LINE):
        orchestrator.register(flow)
    yield made
    made.backend.result_consumer.subscribed_to.clear()  # to results of groups, which unsubscribe when they go
    made.close()
    pools.set_limit(usual)
    with redis.Redis.from_url(server.url) as client:
        client.flushdb()


def publish(app, flow, work):
    engine = engine_of(app)
    engine.publish(engine.registry.flows[flow.name].plan, "f" * 32, 1, work)


def queued(server):
    with redis.Redis.from_url(server.url) as client:
        return client.llen(QUEUE)


@pytest.mark.parametrize(
    ("flow", "work", "messages"),
    [
        pytest.param(FAN, Work("step", 0, 0, joined_in_store=False, names=MEMBERS), 2, id="chord"),
        pytest.param(OPEN_FAN, Work("step", 0, 0, joined_in_store=False, names=MEMBERS), 2, id="group"),
        pytest.param(FAN, Work("step", 0, 0, joined_in_store=True, names=MEMBERS), 2, id="batch"),
        pytest.param(LINE, Work("step", 0, 0, joined_in_store=False, names=("a",)), 1, id="chain"),
        pytest.param(LINE, Work("nodes", 0, 0, joined_in_store=False, names=("b",)), 1, id="single"),
    ],
)
def test_one_connection_of_the_pool_is_enough(server, app, flow, work, messages):
    for number in (1, 2):
        publish(app, flow, work)
        assert queued(server) == number * messages
    with redis.Redis.from_url(server.url) as client:
        assert client.pubsub_channels() == [], "who publishes waits for the result of nobody"


@pytest.mark.parametrize("names", [("a",), MEMBERS])
def test_a_pool_that_others_hold_is_waited_for_with_a_limit(server, app, caplog, names):
    with engine_of(app).publisher.producer():
        began = time.monotonic()
        publish(app, FAN, Work("nodes", 0, 0, joined_in_store=False, names=names))
        assert time.monotonic() - began < 3 * WAIT_S
    (record,) = caplog.records
    assert "all 1 connections of the app's pool were in use for 1 s; raise broker_pool_limit" in record.getMessage()
    assert queued(server) == 0
    publish(app, FAN, Work("nodes", 0, 0, joined_in_store=False, names=names))
    assert queued(server) == len(names)
