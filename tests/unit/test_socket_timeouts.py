"""Socket timeouts that an app gets, while its own choices stay."""

from __future__ import annotations

import pytest
from celery import Celery

from orchestrator import FlowBuilder, Node, Orchestrator, manual
from orchestrator.engine import engine_of
from orchestrator.messaging.socket_timeouts import BROKER, limit_sockets

URL = "redis://127.0.0.1:1/0"


class Prefixed:
    """A configuration with a namespace, as Django apps have it."""

    CELERY_BROKER_URL = URL
    CELERY_RESULT_BACKEND = URL
    CELERY_REDIS_SOCKET_TIMEOUT = 77
    CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 60, "socket_timeout": 33}  # noqa: RUF012 - as people write it


def test_a_worker_whose_app_says_nothing_gets_limits():
    app = Celery("plain", broker=URL, backend=URL, set_as_current=False)
    limit_sockets(app)
    limit_sockets(app)
    assert app.conf.broker_transport_options == BROKER
    assert app.backend.connparams["socket_timeout"] == 3
    assert app.backend.connparams["socket_connect_timeout"] == 5
    assert app.connection_for_read().transport_options["socket_timeout"] == 3


def test_what_the_app_sets_stays():
    app = Celery("prefixed", set_as_current=False)
    app.config_from_object(Prefixed, namespace="CELERY")
    limit_sockets(app)
    assert app.conf.broker_transport_options == BROKER | {"visibility_timeout": 60, "socket_timeout": 33}
    assert app.backend.connparams["socket_timeout"] == 77
    app.conf.update(redis_socket_timeout=44)
    assert app.conf.redis_socket_timeout == 44


@pytest.mark.parametrize("broker", ["amqp://127.0.0.1:1//", "memory://"])
def test_another_broker_gets_no_options_of_redis(broker):
    app = Celery("foreign", broker=broker, backend=URL, set_as_current=False)
    limit_sockets(app)
    assert not app.conf.broker_transport_options


def test_a_clients_app_stays_as_it_is_and_its_messages_have_limits(server):
    url = f"{server.url.rsplit('/', 1)[0]}/4"  # what is started here waits for nobody
    app = Celery("client", broker=url, backend=url, set_as_current=False)
    Orchestrator(app)
    publisher = engine_of(app).publisher
    with publisher.producer() as producer, publisher.producer() as other:
        assert producer.connection.transport_options.items() >= BROKER.items()
        assert other is not producer
    with publisher.producer() as producer:
        assert producer.channel.connection.client.transport_options["socket_timeout"] == 3
    first, second = Node("first", lambda: 1), Node("second", lambda: 2)
    Orchestrator(app).start(FlowBuilder("unlimited").triggered_by(manual("test")).then(first).then(second).build())
    assert app._pool is None, "a message went over a connection without limits"
    assert app.conf.broker_transport_options == {}
    limit_sockets(app)
    with publisher.producer() as producer, app.producer_pool.acquire(block=True) as own:
        assert producer.connection.transport_options.items() >= BROKER.items()
        assert own.connection.transport_options.items() >= BROKER.items()
