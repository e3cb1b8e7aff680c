"""The proxy does what its methods say, seen by a Redis client."""

from __future__ import annotations

import socket
import threading
import time

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.chaos.proxy import Proxy
from tests.harness import wait_until

BUMP = "return redis.call('INCR', KEYS[1])"
COUNTER = "proxied"


@pytest.fixture
def direct(server):
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        client.delete(COUNTER)
        yield client
        client.delete(COUNTER)


@pytest.fixture
def proxy(server):
    with Proxy(server.port) as made:
        yield made


@pytest.fixture
def through(proxy):
    """A client that tries everything once."""
    once = Retry(NoBackoff(), 0)
    with redis.Redis.from_url(proxy.url, decode_responses=True, socket_timeout=0.5, retry=once) as client:
        yield client


def test_it_passes_what_both_sides_say(through, proxy, direct):
    assert through.set(COUNTER, "x" * 1_000_000)
    assert through.get(COUNTER) == direct.get(COUNTER) == "x" * 1_000_000
    assert proxy.links == 1


def test_a_cut_closes_what_is_open_and_refuses_what_comes(through, proxy):
    assert through.ping()
    cut = threading.Thread(target=proxy.cut, args=(0.5,))
    cut.start()
    wait_until(lambda: proxy.links == 0, "the connection is closed")
    for _ in range(2):  # the one that was open, then a new one
        with pytest.raises(redis.ConnectionError):
            through.ping()
    cut.join()
    assert through.ping()


@pytest.mark.parametrize("forget", [True, False])
def test_a_stall_swallows_bytes_and_may_forget_its_connections(forget, through, proxy):
    assert through.ping()
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as patient:
        patient.sendall(b"PING\r\n")
        assert patient.recv(100) == b"+PONG\r\n"
        stall = threading.Thread(target=proxy.stall, args=(1.0,), kwargs={"forget": forget})
        stall.start()
        wait_until(proxy.is_stalled, "the stall has begun")
        patient.sendall(b"PING\r\n")
        with pytest.raises(redis.TimeoutError):
            through.ping()
        stall.join()
        if forget:
            patient.settimeout(0.5)
            with pytest.raises(TimeoutError):
                patient.recv(100)
        else:
            assert patient.recv(100) == b"+PONG\r\n"
        assert through.ping()  # a new connection


def test_a_delay_makes_every_answer_late(through, proxy):
    assert through.ping()
    proxy.delay(0.1)
    began = time.monotonic()
    assert through.ping()
    assert time.monotonic() - began >= 0.2
    proxy.delay(0)
    assert through.ping()


def test_a_lost_reply_is_of_a_request_that_the_server_answered(through, proxy, direct):
    bump = through.register_script(BUMP)
    direct.script_flush()
    rule = proxy.lose_reply(bump.sha.encode(), [2])
    assert bump(keys=[COUNTER]) == 1  # NOSCRIPT was no answer
    with pytest.raises(redis.ConnectionError):
        bump(keys=[COUNTER])
    assert direct.get(COUNTER) == "2"
    assert bump(keys=[COUNTER]) == 3
    assert (rule.answered, rule.lost) == (3, 1)
    proxy.lose_nothing()
    assert bump(keys=[COUNTER]) == 4
    assert rule.answered == 3


def test_other_requests_keep_their_replies_and_a_closed_proxy_refuses(through, proxy, direct):
    rule = proxy.lose_reply(b"INCR", lambda _: True)
    assert through.set(COUNTER, "7")
    with pytest.raises(redis.ConnectionError):
        through.incr(COUNTER)
    assert through.get(COUNTER) == "8"
    assert rule.lost == 1
    proxy.close()
    with pytest.raises(redis.ConnectionError):
        through.get(COUNTER)
