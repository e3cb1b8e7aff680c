"""Which limits the sockets of an app get, and that its own choices stay."""

from __future__ import annotations

import pytest
from celery import Celery

from orchestrator import Orchestrator
from orchestrator.socket_limits import BROKER, limit_sockets

URL = "redis://127.0.0.1:1/0"


class Prefixed:
    """A configuration with a namespace, as Django apps have it."""

    CELERY_BROKER_URL = URL
    CELERY_RESULT_BACKEND = URL
    CELERY_REDIS_SOCKET_TIMEOUT = 77
    CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 60, "socket_timeout": 33}  # noqa: RUF012 - as people write it


def test_an_app_that_says_nothing_gets_limits():
    app = Celery("plain", broker=URL, backend=URL, set_as_current=False)
    Orchestrator(app)
    assert app.conf.broker_transport_options == BROKER
    assert app.backend.connparams["socket_timeout"] == 3
    assert app.backend.connparams["socket_connect_timeout"] == 5
    channel = app.connection_for_read().transport
    assert channel.client.transport_options["socket_timeout"] == 3


def test_what_the_app_sets_stays():
    app = Celery("prefixed", set_as_current=False)
    app.config_from_object(Prefixed, namespace="CELERY")
    Orchestrator(app)
    limit_sockets(app)
    assert app.conf.broker_transport_options == BROKER | {"visibility_timeout": 60, "socket_timeout": 33}
    assert app.backend.connparams["socket_timeout"] == 77
    app.conf.update(redis_socket_timeout=44)
    assert app.conf.redis_socket_timeout == 44


@pytest.mark.parametrize("broker", ["amqp://127.0.0.1:1//", "memory://"])
def test_another_broker_gets_no_options_of_redis(broker):
    app = Celery("foreign", broker=broker, backend=URL, set_as_current=False)
    Orchestrator(app)
    assert not app.conf.broker_transport_options


def test_options_that_are_set_later_are_completed_at_the_start_of_a_worker():
    app = Celery("late", broker=URL, backend=URL, set_as_current=False)
    Orchestrator(app)
    app.conf.update(broker_transport_options={"visibility_timeout": 60})
    limit_sockets(app)
    assert app.conf.broker_transport_options == BROKER | {"visibility_timeout": 60}
