"""Translate what Celery makes of an app's settings into the address of the Redis that its runs live in.

URL forms, TLS, Sentinel, credentials and options are read by Celery's result backend and kombu's transport themselves,
which open no connection for it; what is left here is what runs cannot use, each refused with the setting's name.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from celery.app.backends import by_url
from celery.backends.redis import RedisBackend, SentinelBackend
from celery.exceptions import ImproperlyConfigured
from kombu.transport import redis as transport
from kombu.utils.url import url_to_parts
from redis import Connection
from redis.sentinel import SentinelManagedConnection as ThroughSentinel

from orchestrator.errors import ConfigurationError
from orchestrator.store.address import Address, Sentinels

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from celery import Celery

# Any: neither Celery nor kombu says what its objects are.
Backend: Any = RedisBackend
Transport: Any = transport.Transport
SentinelTransport: Any = transport.SentinelTransport
LIMITS = frozenset({"socket_timeout", "socket_connect_timeout", "socket_keepalive", "health_check_interval"})
"""Options that are taken from a URL only: Celery's settings of them are for its connections, `Settings` has ours."""
NOT_OURS = frozenset(
    {
        *("connection_class", "max_connections", "retry", "retry_on_timeout", "retry_on_error", "hosts"),
        *("driver_info", "lib_name", "lib_version", "decode_responses", "encoding", "encoding_errors"),
    }
)
IDENTITY = frozenset({"username", "password", "credential_provider"})
SPELLINGS = "redis://, rediss://, redis+socket://, unix:// or sentinel://"


def address_of_runs(app: Celery, redis_url: str | None) -> Address:
    """The Redis that the runs of an app live in: the given one, else the result backend's, else the broker's.

    Args:
        app: The app; its settings say how to connect.
        redis_url: A URL as `result_backend` may have it, or redis-py's `unix://<path>?db=<n>`. It says itself where,
            as whom and whether over TLS; details of TLS and of Sentinel are those of the result backend.

    Raises:
        ConfigurationError: There is no Redis, or not one that runs can live in; the message names the setting.
    """
    _refuse_unreadable_broker(app)
    if redis_url:
        return _address_of_url(app, redis_url)
    if has_redis_backend(app):
        return _address_of_backend(app, _backend_of(app), "result_backend")
    if has_redis_broker(app):
        return _address_of_broker(app)
    msg = (
        f"the Celery app {app.main!r} has no Redis as result_backend or broker_url, and runs live in Redis; "
        "pass Orchestrator(app, redis_url='redis://...')"
    )
    raise ConfigurationError(msg)


def has_redis_backend(app: Celery) -> bool:
    """Whether results are stored in Redis, whose chords the canvas relies on."""
    return issubclass(_backend_kind(app, _backend_of(app))[0], Backend)


def has_redis_broker(app: Celery) -> bool:
    """Whether the app's messages go through Redis."""
    with app.connection_for_write() as connection:
        return issubclass(connection.get_transport_cls(), Transport)


def address_of_channel(channel: Any) -> Address | None:
    """The Redis that a channel is connected to; None where it is none, or may be another one later."""
    if not isinstance(channel, transport.Channel) or _is_list(channel.connection.client):
        return None
    return _read_channel(channel)


def list_name(channel: Any, queue: str, priority: int) -> str:
    """The Redis key of the list in which a channel's messages of a queue and a priority wait."""
    return str(channel.global_keyprefix + channel._q_for_pri(queue, priority))  # noqa: SLF001 - kombu has no public name


def _backend_of(app: Celery) -> Any:
    # As Celery itself chooses: what was given to Celery(backend=...) beats the configuration.
    return getattr(app, "backend_cls", None) or app.conf.result_backend


def _backend_kind(app: Celery, backend: Any) -> tuple[type, str | None]:
    try:
        kind, url = by_url(backend, app.loader)
    except (ImportError, ImproperlyConfigured):  # Celery will say so when it stores a result
        return object, None
    return kind, url


def _refuse_unreadable_broker(app: Celery) -> None:
    """Refuse a broker URL that neither a worker nor a client can use, before a run is stored for it."""
    urls = app.conf.broker_write_url
    url = ";".join(urls) if isinstance(urls, list | tuple) else str(urls or "")
    with _reading(app, "broker_url", url):
        try:
            with app.connection_for_write() as connection:
                connection.get_transport_cls()
        # Kombu passes the query of a URL to its connection as keyword arguments.
        except TypeError as error:
            options = ", ".join(dict(parse_qsl(urlsplit(url).query))) or "options"
            msg = f"kombu takes no {options} in its query; put it into broker_transport_options"
            raise ValueError(msg) from error
        except KeyError as error:
            hint = "; a Redis behind a socket is redis+socket://" if url.startswith("unix://") else ""
            raise ValueError(f"{error.args[0]}{hint}") from error


def _address_of_url(app: Celery, redis_url: str) -> Address:
    url = "redis+socket" + redis_url.removeprefix("unix") if redis_url.startswith("unix://") else redis_url
    kind, spelled = _backend_kind(app, url)
    if spelled is None or not issubclass(kind, Backend):
        raise ConfigurationError(f"redis_url is not the URL of a Redis: it has to begin with {SPELLINGS}")
    address = _address_of_backend(app, url, "redis_url")
    parts = url_to_parts(spelled.partition(";")[0])
    own = {"username": parts.username, "password": parts.password, **parts.query}
    # The backend's password is for the backend's server, and the URL may name another one.
    foreign = {name for name in IDENTITY if not own.get(name)}
    is_plain = parts.scheme == "redis"
    if is_plain:
        foreign |= {name for name in address.options if name.startswith("ssl_")}
    options = {name: value for name, value in address.options.items() if name not in foreign}
    kind = Connection if is_plain else address.kind
    return Address(address.setting, kind, options, address.sentinels, redis_url)


def _address_of_backend(app: Celery, backend: Any, setting: str) -> Address:
    kind, url = _backend_kind(app, backend)
    if ";" in (url or "") and not issubclass(kind, SentinelBackend):
        msg = f"{setting} of the Celery app {app.main!r} is a list of servers, and runs live in one of them only"
        raise ConfigurationError(msg)
    with _reading(app, setting, url):
        # What it would read is not of interest here: a serializer may be installed later.
        made: Any = kind(app=app, url=url, serializer="json", accept=["json"])
        options: Mapping[str, Any] = made.connparams
        given = parse_qsl(urlsplit(url or "").query)
        if not issubclass(kind, SentinelBackend):
            return _address(setting, options, Connection, chosen=dict(given))
        manager = made._get_sentinel_instance(**options)  # noqa: SLF001 - Celery has no public name for it
        told = app.conf.result_backend_transport_options or {}
        return _address(
            setting, options, ThroughSentinel, chosen=dict(given), sentinels=_sentinels(manager, told, setting)
        )


def _address_of_broker(app: Celery) -> Address:
    with app.connection_for_write() as connection:
        if _is_list(connection):
            msg = (
                f"broker_url of the Celery app {app.main!r} is a list of servers, and runs live in one of them only; "
                "pass Orchestrator(app, redis_url='redis://...')"
            )
            raise ConfigurationError(msg)
        with _reading(app, "broker_url"):
            channel_class = connection.transport.Channel
            # Not connected: making a channel pings the server.
            channel = channel_class.__new__(channel_class)
            channel.connection = connection.transport
            for name in set(channel_class.from_transport_options).intersection(connection.transport_options):
                setattr(channel, name, connection.transport_options[name])
            return _read_channel(channel)


def _is_list(connection: Any) -> bool:
    """Whether a connection may lead to another server when the present one is away."""
    # Kombu goes on to the next server of a list when one is away: half of a run would be on each.
    return len(connection.alt) > 1 and not issubclass(connection.get_transport_cls(), SentinelTransport)


def _read_channel(channel: Any) -> Address:
    """What a channel's connections are made with; it need not have one."""
    options = channel._connparams()  # noqa: SLF001 - kombu has no public name
    if not isinstance(channel, transport.SentinelChannel):
        return _address("broker_url", options, Connection)
    told = channel.connection.client.transport_options
    if not told.get("master_name"):
        raise _without_master("broker_url", "broker_transport_options")
    sentinels = _sentinels(channel.pool.sentinel_manager, told, "broker_url")
    return _address("broker_url", options, ThroughSentinel, sentinels=sentinels)


def _address(
    setting: str,
    options: Mapping[str, Any],
    kind: Any,
    *,
    chosen: Collection[str] = (),
    sentinels: Sentinels | None = None,
) -> Address:
    elsewhere = {"host", "port"} if sentinels else set()
    kept = {
        name: value
        for name, value in options.items()
        if value is not None and name not in NOT_OURS | elsewhere and (name not in LIMITS or name in chosen)
    }
    return Address(setting, options.get("connection_class") or kind, kept, sentinels)


def _sentinels(manager: Any, told: Mapping[str, Any], setting: str) -> Sentinels:
    service = told.get("master_name")
    if not service:
        raise _without_master(setting, "result_backend_transport_options")
    places = [client.connection_pool.connection_kwargs for client in manager.sentinels]
    nodes = tuple((place["host"], place["port"]) for place in places)
    return Sentinels(nodes, service, manager.min_other_sentinels, told.get("sentinel_kwargs") or {})


def _without_master(setting: str, options: str) -> ConfigurationError:
    return ConfigurationError(
        f"{setting} names Sentinels and not which master they are asked for: set {options} = {{'master_name': '...'}}"
    )


@contextmanager
def _reading(app: Celery, setting: str, url: str | None = None) -> Iterator[None]:
    """Say which setting it is that Celery cannot read, and nothing of a password."""
    for chunk in (url or "").split(";"):
        try:
            urlsplit("//" + chunk.partition("://")[2]).port  # noqa: B018 - raises
        except ValueError:
            msg = (
                f"{setting} of the Celery app {app.main!r} has no host and port that can be read; in its user and "
                "password every special character has to be percent-encoded (urllib.parse.quote(text, safe=''))"
            )
            raise ConfigurationError(msg) from None
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, ImportError, ImproperlyConfigured) as error:
        text = " ".join(str(error).split())
        raise ConfigurationError(f"{setting} of the Celery app {app.main!r} cannot be used: {text}") from error
