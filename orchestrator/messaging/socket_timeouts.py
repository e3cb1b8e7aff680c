"""Default socket timeouts for Celery's Redis connections, so that no read blocks for ever.

Celery's defaults set no timeout on a broker's socket, two minutes on a backend's, and leave a consumer deaf for most of
a minute after its connection vanished. Whatever the app itself sets is left alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.messaging.celery_addresses import has_redis_broker

if TYPE_CHECKING:
    from celery import Celery

BROKER = {
    "socket_timeout": 3.0,  # seconds; above the one of a blocking pop, and a worker may wait for two in a row
    "socket_connect_timeout": 5.0,
    # A firewall that drops an idle connection tells neither side (celery#10205 for the consumer's).
    "socket_keepalive": True,
    "health_check_interval": 5,  # a consumer without an answer connects anew after 1 s and at most twice this
}
BACKEND = {"redis_socket_timeout": 3.0, "redis_socket_connect_timeout": 5.0}


def limited_options(app: Celery) -> dict[str, Any]:
    """The app's transport options for its broker, with the limits that it does not set."""
    options = dict(app.conf.broker_transport_options or {})
    return BROKER | options if has_redis_broker(app) else options


def limit_sockets(app: Celery) -> None:
    """Give the broker and backend of a worker or a beat the limits that its app does not set; again changes nothing.

    The app of a client stays as it is: only the engine's own messages have limits there.
    """
    conf: Any = app.conf
    conf.broker_transport_options = limited_options(app)
    if not any(source is BACKEND for source in conf.maps):
        for sources in (conf.maps, conf.defaults):
            sources.insert(-1, BACKEND)  # before Celery's defaults, behind all that is the app's
