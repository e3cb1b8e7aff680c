"""Translate the settings of an app as Celery reads them; what runs cannot use is refused by the setting's name."""

from __future__ import annotations

import ssl

import flask
import pytest
import redis
from celery import Celery
from celery.local import Proxy

from orchestrator import ConfigurationError, Orchestrator, Settings
from orchestrator.messaging.celery_addresses import address_of_runs, has_redis_backend, has_redis_broker
from orchestrator.store.run_store import Store

FOREIGN = "amqp://127.0.0.1:1//"
SECRET = "p@ss:w/ord#1%?&"
ENCODED = "p%40ss%3Aw%2Ford%231%25%3F%26"
NO_CERTIFICATE = {"ssl_cert_reqs": ssl.CERT_NONE}
MASTER = {"master_name": "m", "sentinel_kwargs": {"password": "of-sentinel"}, "min_other_sentinels": 1}


class Provider(redis.CredentialProvider):
    def get_credentials(self):
        return "of-provider", "secret"


PROVIDER = f"{__name__}.Provider"


def app_of(*, broker=FOREIGN, backend="rpc://", **settings):
    app = Celery("shop", broker=broker, backend=backend, set_as_current=False)
    app.conf.update(settings)
    return app


def connection_to(app, url=None, **settings):
    """A connection as the store makes it, not open."""
    return Store(address_of_runs(app, url), Settings(**settings)).client.connection_pool.make_connection()


EVERYWHERE = [
    ("redis://h/3", {"host": "h", "port": 6379, "db": 3, "password": None}),
    (f"redis://:{ENCODED}@h:1", {"password": SECRET, "username": None, "db": 0}),
    (f"redis://me:{ENCODED}@h:1/1", {"password": SECRET, "username": "me", "port": 1}),
    ("redis+socket:///tmp/x.sock?virtual_host=3", {"path": "/tmp/x.sock", "db": 3}),
    ("redis+socket://me:pw@/tmp/x.sock", {"path": "/tmp/x.sock", "username": "me", "password": "pw"}),
    ("rediss://h/0?ssl_cert_reqs=CERT_NONE", {"cert_reqs": ssl.CERT_NONE}),
    ("rediss://h/0?ssl_cert_reqs=none", {"cert_reqs": ssl.CERT_NONE}),
    (
        "rediss://h/0?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs=/a&ssl_certfile=/b&ssl_keyfile=/c",
        {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": "/a", "certfile": "/b", "keyfile": "/c"},
    ),
    (f"redis://h/0?credential_provider={PROVIDER}", {"username": None, "password": None}),
]


@pytest.mark.parametrize("place", ["broker", "backend", "url"])
@pytest.mark.parametrize(("url", "expected"), EVERYWHERE)
def test_a_url_means_what_celery_makes_of_it(url, expected, place):
    connection = connection_to(app_of(), url) if place == "url" else connection_to(app_of(**{place: url}))
    assert {name: getattr(connection, name) for name in expected} == expected
    if "provider" in url:
        assert isinstance(connection.credential_provider, Provider)


ONLY_BACKEND = [
    ("redis://h/0?protocol=2", {"protocol": 2}),
    ("redis://h/0?protocol=3", {"protocol": 3}),
    ("redis://h/0?socket_timeout=20&health_check_interval=9", {"socket_timeout": 20, "health_check_interval": 9}),
    ("redis://h/0?socket_connect_timeout=7&socket_keepalive=no", {"socket_connect_timeout": 7}),
]


@pytest.mark.parametrize("place", ["backend", "url"])
@pytest.mark.parametrize(("url", "expected"), ONLY_BACKEND)
def test_options_of_a_backends_url_hold(url, expected, place):
    connection = connection_to(app_of(), url) if place == "url" else connection_to(app_of(backend=url))
    assert {name: getattr(connection, name) for name in expected} == expected


def test_what_the_store_reads_stays_bytes_whatever_the_url_says():
    assert not connection_to(app_of(backend="redis://h/0?decode_responses=true")).encoder.decode_responses


def test_a_socket_may_be_spelled_as_redis_py_does():
    connection = connection_to(app_of(), "unix://me:pw@/tmp/x.sock?db=2")
    assert (connection.path, connection.db, connection.username, connection.password) == ("/tmp/x.sock", 2, "me", "pw")


def test_limits_are_those_of_the_settings_and_not_of_celerys_own_connections():
    app = app_of(backend="redis://h", redis_socket_timeout=77, redis_max_connections=3)
    connection = connection_to(app)
    assert (connection.socket_timeout, connection.socket_connect_timeout, connection.health_check_interval) == (
        5,
        5,
        25,
    )
    assert connection.socket_keepalive


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
@pytest.mark.parametrize("place", ["broker", "backend"])
def test_tls_may_stand_in_the_settings(place, scheme):
    name = {"broker": "broker_use_ssl", "backend": "redis_backend_use_ssl"}[place]
    connection = connection_to(app_of(**{place: f"{scheme}://h", name: NO_CERTIFICATE | {"ssl_ca_certs": "/a"}}))
    assert (connection.cert_reqs, connection.ca_certs) == (ssl.CERT_NONE, "/a")


def test_settings_of_the_backend_say_where_and_as_whom():
    app = app_of(backend="redis", redis_host="h", redis_port=7, redis_db=2, redis_username="me", redis_password="pw")
    connection = connection_to(app)
    assert (connection.host, connection.port, connection.db) == ("h", 7, 2)
    assert (connection.username, connection.password) == ("me", "pw")
    app = app_of(backend="redis://h", redis_backend_credential_provider=Provider())
    assert isinstance(connection_to(app).credential_provider, Provider)


def test_a_given_url_says_itself_where_as_whom_and_whether_over_tls():
    app = app_of(
        backend="rediss://other",
        redis_backend_use_ssl=NO_CERTIFICATE,
        redis_username="other",
        redis_password="foreign",
    )
    plain = connection_to(app, "redis://h/1")
    assert type(plain) is redis.Connection
    assert (plain.host, plain.username, plain.password) == ("h", None, None)
    assert connection_to(app, "rediss://h").cert_reqs == ssl.CERT_NONE
    own = connection_to(app_of(redis_backend_credential_provider=Provider()), "redis://me:pw@h")
    assert (own.username, own.password, own.credential_provider) == ("me", "pw", None)


@pytest.mark.parametrize("place", ["broker", "backend", "url"])
@pytest.mark.parametrize("is_safe", [False, True])
def test_sentinels_are_asked_for_the_master(place, is_safe):
    url = "sentinel://me:pw@a:1/2;sentinel://b:2/2"
    settings: dict[str, object] = {
        "broker_transport_options" if place == "broker" else "result_backend_transport_options": MASTER
    }
    if is_safe:
        settings["broker_use_ssl" if place == "broker" else "redis_backend_use_ssl"] = NO_CERTIFICATE
    app = app_of(**settings) if place == "url" else app_of(**{place: url}, **settings)
    store = Store(address_of_runs(app, url if place == "url" else None), Settings())
    pool = store.client.connection_pool
    asked = [each.connection_pool.connection_kwargs for each in pool.sentinel_manager.sentinels]
    assert [(each["host"], each["port"]) for each in asked] == [("a", 1), ("b", 2)]
    assert all((each["password"], each["socket_timeout"]) == ("of-sentinel", 5) for each in asked)
    assert (pool.service_name, pool.is_master, pool.sentinel_manager.min_other_sentinels) == ("m", True, 1)
    connection = pool.make_connection()
    assert (connection.username, connection.password, connection.db) == ("me", "pw", 2)
    assert isinstance(connection, redis.SSLConnection) == is_safe
    assert store.place == "m of Sentinel a:1, b:2/2"


def test_the_backend_comes_before_the_broker_and_a_given_url_before_both():
    app = app_of(broker="redis://broker", backend="redis://backend")
    assert connection_to(app).host == "backend"
    assert connection_to(app, "redis://given").host == "given"
    assert connection_to(app, "").host == "backend"
    assert connection_to(app_of(broker="redis://broker", backend="database")).host == "broker"


REFUSED = [
    (
        {},
        None,
        "has no Redis as result_backend or broker_url, and runs live in Redis; pass Orchestrator(app, redis_url=",
    ),
    ({"broker": "redis://a;redis://b"}, None, "broker_url of the Celery app 'shop' is a list of servers"),
    ({"broker": ["redis://a", "redis://b"]}, None, "broker_url of the Celery app 'shop' is a list of servers"),
    ({"backend": "redis://a;redis://b"}, None, "result_backend of the Celery app 'shop' is a list of servers"),
    (
        {"broker": "redis://h?protocol=2"},
        None,
        "broker_url of the Celery app 'shop' cannot be used: kombu takes no protocol in its query",
    ),
    ({"broker": "redis://h?protocol=2", "backend": "redis://h"}, None, "put it into broker_transport_options"),
    ({"broker": "nonsense://h", "backend": "redis://h"}, None, "cannot be used: No such transport: nonsense"),
    ({"broker": "unix:///x"}, None, "a Redis behind a socket is redis+socket://"),
    ({"broker": "sentinel://h"}, None, "set broker_transport_options = {'master_name': '...'}"),
    ({"backend": "sentinel://h"}, None, "set result_backend_transport_options = {'master_name': '...'}"),
    ({}, "sentinel://h", "redis_url names Sentinels and not which master they are asked for"),
    ({}, "amqp://h", "redis_url is not the URL of a Redis: it has to begin with redis://, rediss://"),
    ({}, "localhost:6379", "redis_url is not the URL of a Redis"),
    ({"backend": "rediss://h"}, None, "must have parameter ssl_cert_reqs"),
    ({"backend": "redis://h/x"}, None, "result_backend of the Celery app 'shop' cannot be used"),
    ({"broker": "redis://h/x"}, None, "broker_url of the Celery app 'shop' cannot be used"),
    ({"backend": "redis://h?no_option=1"}, None, "result_backend has an option that redis-py does not take"),
    ({"backend": "redis://h?protocol=4"}, None, "result_backend has an option that redis-py does not take"),
    ({"backend": "redis://:top/secret@h"}, None, "every special character has to be percent-encoded"),
    ({"broker": "redis://:top/secret@h"}, None, "every special character has to be percent-encoded"),
    ({}, "redis://:top#secret@h", "every special character has to be percent-encoded"),
    ({"backend": "redis://h?credential_provider=no.module.Here"}, None, "cannot be used: No module named 'no'"),
]


@pytest.mark.parametrize(("urls", "given", "said"), REFUSED)
def test_what_cannot_be_is_refused_by_the_settings_name(urls, given, said):
    with pytest.raises(ConfigurationError) as caught:
        Orchestrator(app_of(**urls), given)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["redis://h", "rediss://h", "redis+socket:///x", "sentinel://h", "redis://a;redis://b"])
def test_a_redis_broker_is_told_by_its_transport(url):
    assert has_redis_broker(app_of(broker=url))


@pytest.mark.parametrize("url", [FOREIGN, "memory://", "filesystem://"])
def test_another_broker_is_none(url):
    assert not has_redis_broker(app_of(broker=url))


@pytest.mark.parametrize(
    ("backend", "is_redis"),
    [
        ("redis", True),
        ("redis://h", True),
        ("sentinel://h", True),
        ("rpc://", False),
        (None, False),
        ("none.such", False),
    ],
)
def test_a_redis_backend_is_told_by_its_class(backend, is_redis):
    assert has_redis_backend(app_of(backend=backend)) == is_redis


SAME = "redis://me:pw@h/1"


@pytest.mark.parametrize(
    ("other", "is_same"),
    [
        ("redis://me:other@h:6379/1", True),
        (f"redis://h/1?credential_provider={PROVIDER}", False),
        ("redis://h/1", False),
        ("redis://me:pw@h/2", False),
        ("redis://me:pw@h:1/1", False),
        ("redis://me:pw@i/1", False),
        ("redis+socket://me:pw@/h?virtual_host=1", False),
    ],
)
def test_rights_are_the_same_on_one_database_as_one_user(other, is_same):
    app = app_of()
    assert address_of_runs(app, SAME).has_rights_of(address_of_runs(app, other)) == is_same
    own = "redis://of-provider:x@h/1"
    provided = address_of_runs(app, f"redis://h/1?credential_provider={PROVIDER}")
    assert provided.has_rights_of(address_of_runs(app, own))


def test_one_app_has_one_place_for_its_runs():
    app = app_of(backend=f"redis://h/1?credential_provider={PROVIDER}")
    Orchestrator(app)
    Orchestrator(app, f"redis://h/1?credential_provider={PROVIDER}")
    with pytest.raises(ConfigurationError, match="another Redis"):
        Orchestrator(app, "redis://h/2")


def flask_app(**extensions):
    app = flask.Flask("shop")
    app.extensions |= extensions
    return app


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("shop", r"a Celery app, not 'shop' of type str; pass the object that `app = Celery\(\"shop\", broker=...\)`"),
        (None, "a Celery app, not None; pass the object"),
        (Celery, "a Celery app, not the class Celery; pass the object"),
        (flask_app(), "of type Flask; pass the object"),
        (flask_app(celery=object()), r"this Flask app keeps its Celery app in app.extensions\[\"celery\"\]"),
    ],
)
def test_what_is_no_celery_app_is_refused_with_what_to_pass(given, said):
    with pytest.raises(ConfigurationError, match=said):
        Orchestrator(given)


def test_an_app_may_be_a_subclass_or_stand_behind_a_proxy():
    class Own(Celery):
        """An app of a user's class."""

    app = Own("own", broker="redis://localhost/3", set_as_current=False)
    proxy = Proxy(lambda: app)
    assert Orchestrator(proxy)._engine is Orchestrator(app)._engine
