"""Decide who may act from a page of the Flows tab, and which request is one of our own pages."""

from __future__ import annotations

from base64 import b64encode
from types import SimpleNamespace
from typing import Any

import pytest
from tornado.httputil import HTTPHeaders

from orchestrator.web.rights import is_loopback, name_of, why_foreign, why_not


def options(**given: Any) -> SimpleNamespace:
    usual = {"read_only": False, "basic_auth": [], "auth": "", "unix_socket": "", "address": "127.0.0.1"}
    return SimpleNamespace(**(usual | given))


def headers(**given: str) -> HTTPHeaders:
    return HTTPHeaders({"Host": "localhost:5555"} | {name.replace("_", "-"): value for name, value in given.items()})


@pytest.mark.parametrize(
    ("flower", "request_headers"),
    [
        ({}, {}),
        ({"address": "localhost"}, {"Host": "127.0.0.1:5555"}),
        ({"address": "::1"}, {"Host": "[::1]:5555"}),
        ({"unix_socket": "/run/flower.sock", "address": ""}, {"Host": "localhost"}),
        ({"basic_auth": ["ada:secret"], "address": ""}, {"Host": "flower.example", "X_Forwarded_For": "10.0.0.1"}),
        ({"auth": ".*@example", "address": ""}, {"Host": "flower.example"}),
    ],
)
def test_may_act(flower, request_headers):
    assert why_not(options(**flower), headers(**request_headers)) == ""


@pytest.mark.parametrize(
    ("flower", "request_headers", "reason"),
    [
        ({"read_only": True}, {}, "--read-only"),
        ({"read_only": True, "basic_auth": ["ada:secret"]}, {}, "--read-only"),
        ({"address": ""}, {}, "Anybody who reaches"),
        ({"address": "0.0.0.0"}, {}, "Anybody who reaches"),
        ({"address": "10.0.0.7"}, {}, "Anybody who reaches"),
        ({}, {"Host": "flower.example"}, "not opened as localhost"),
        ({}, {"Host": "127.0.0.1.evil.example"}, "not opened as localhost"),
        ({}, {"Host": "localhost.evil.example:5555"}, "not opened as localhost"),
        ({}, {"Host": ""}, "not opened as localhost"),
        ({}, {"X_Forwarded_For": "10.0.0.1"}, "proxy"),
        ({}, {"Forwarded": "for=10.0.0.1"}, "proxy"),
        ({}, {"X_Forwarded_Host": "flower.example"}, "proxy"),
        ({"unix_socket": "/run/flower.sock"}, {"Host": "flower.example"}, "not opened as localhost"),
    ],
)
def test_may_not_act_and_is_told_why(flower, request_headers, reason):
    assert reason in why_not(options(**flower), headers(**request_headers))


@pytest.mark.parametrize(
    ("given", "is_foreign"),
    [
        ({}, False),
        ({"Sec_Fetch_Site": "same-origin"}, False),
        ({"Sec_Fetch_Site": "same-origin", "Origin": "http://localhost:5555"}, False),
        ({"Origin": "http://LOCALHOST:5555"}, False),
        ({"Sec_Fetch_Site": "cross-site"}, True),
        ({"Sec_Fetch_Site": "same-site"}, True),
        ({"Sec_Fetch_Site": "none"}, True),
        ({"Origin": "http://evil.example"}, True),
        ({"Origin": "http://localhost:6666"}, True),
        ({"Origin": "null"}, True),
        ({"Sec_Fetch_Site": "same-origin", "Origin": "http://evil.example"}, True),
    ],
)
def test_only_our_own_pages_post(given, is_foreign):
    assert bool(why_foreign(headers(**given), "localhost:5555")) is is_foreign


def test_who_acts():
    anybody = object()  # what Flower says of a reader whose header it has verified
    header = {"Authorization": "Basic " + b64encode(b"ada:secret").decode()}
    assert name_of(anybody, headers(**header), options(basic_auth=["ada:secret"])) == "ada"
    assert name_of("ada@example", headers(), options(auth=".*")) == "ada@example"
    assert name_of(anybody, headers(**header), options()) == ""  # nobody has verified it
    assert name_of(anybody, headers(Authorization="Basic ?"), options(basic_auth=["ada:secret"])) == ""


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.3.2.1", "::1", "[::1]"])
def test_loopback(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "10.0.0.1", "example.org", "localhost.example"])
def test_no_loopback(host):
    assert not is_loopback(host)
