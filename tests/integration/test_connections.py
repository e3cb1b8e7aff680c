"""Run flows over the connections that Celery's settings describe: TLS, a socket, users with few rights, Sentinel."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
import redis

from orchestrator import ConfigurationError, IdempotencyConflict, StoreRefused
from orchestrator.engine import engine_of
from orchestrator.schedules import remember_slots, slots_of, start_due
from tests.harness import wait_until, workers
from tests.servers import HOST, Behind, Certificates, Sentinel, ServerWith

ROOT = Path(__file__).parents[2]
PROGRAM = "tests.programs.connected"
SECRET = "p@ss:w/ord#1%?&"


@contextmanager
def connected(server, celery, **variables):
    """The program in this process, and in the processes that are started meanwhile, with these settings of Celery."""
    given = {"TEST_REDIS_URL": server.url, "TEST_CELERY": json.dumps(celery)}
    given |= {f"TEST_{name.upper()}": value for name, value in variables.items()}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TEST_STORE_URL", "TEST_PREFIX"):
            patch.delenv(name, raising=False)
        for name, value in given.items():
            patch.setenv(name, value)
        sys.modules.pop(PROGRAM, None)
        yield importlib.import_module(PROGRAM)


def both(url, **settings):
    return {"broker_url": url, "result_backend": url, "task_default_queue": "connected"} | settings


async def awaited(orchestrator):
    """Results that are waited for on an event loop, together."""
    runs = [await orchestrator.start_async("connected-fan") for _ in range(3)]
    return await asyncio.gather(*(run.result_async(int, timeout=30) for run in runs))


# --- TLS -------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    """A server with a password, and its port behind TLS that asks clients for a certificate."""
    folder = tmp_path_factory.mktemp("tls")
    certificates = Certificates.make(folder / "certificates")
    with (
        ServerWith(folder / "server", "--requirepass", "") as server,
        Behind(server.port, certificates.context()) as front,
    ):
        yield server, front.port, certificates


def test_a_worker_and_a_client_speak_tls_with_certificates_of_both_sides(secured, tmp_path):
    server, port, certificates = secured
    files = {
        "ssl_ca_certs": certificates.authority,
        "ssl_certfile": certificates.client,
        "ssl_keyfile": certificates.client,
    }
    query = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in files.items())
    url = f"rediss://default:{quote(SECRET, safe='')}@{HOST}:{port}/0"
    as_settings = {"ssl_cert_reqs": "required"} | {name: str(value) for name, value in files.items()}
    celery = {
        "broker_url": url,
        "broker_use_ssl": as_settings,
        "result_backend": f"{url}?ssl_cert_reqs=CERT_REQUIRED&{query}",
    }
    server.client.config_set("requirepass", SECRET)
    try:
        url_of_ledger = server.url.replace("//", f"//:{quote(SECRET, safe='')}@")
        with (
            connected(server, celery, redis_url=url_of_ledger) as program,
            workers(PROGRAM, url_of_ledger, tmp_path, count=1),
        ):
            assert program.own.delay(1).get(timeout=30) == 2
            assert program.orchestrator.start("connected-fan").result(int, timeout=30) == 2
            assert program.orchestrator.start("connected-fused").result(int, timeout=30) == 1
            assert asyncio.run(awaited(program.orchestrator)) == [2, 2, 2]
    finally:
        redis.Redis(HOST, server.port, password=SECRET).config_set("requirepass", "")


def test_a_server_of_another_authority_is_refused_by_name(secured, tmp_path):
    server, port, _ = secured
    stranger = Certificates.make(tmp_path)
    query = f"ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={quote(str(stranger.authority), safe='')}"
    said = f"Redis at {HOST}:{port}/0 and this client do not agree on TLS: .*certificate verify failed.*of redis_url"
    with (
        connected(server, both(server.url), store_url=f"rediss://{HOST}:{port}/0?{query}") as program,
        pytest.raises(StoreRefused, match=said),
    ):
        program.orchestrator.start("connected-fan")


# --- Sentinel --------------------------------------------------------------------------------------
def test_a_worker_and_a_client_find_a_master_with_a_password_through_sentinel(tmp_path):
    with (
        ServerWith(tmp_path / "master") as server,
        Sentinel(tmp_path / "sentinel", server, password=SECRET) as sentinel,
    ):
        server.client.config_set("requirepass", SECRET)
        password = f":{quote(SECRET, safe='')}@"
        url_of_ledger = server.url.replace("//", f"//{password}")
        by_name = {"master_name": "main"}
        celery = both(
            f"sentinel://{password}{HOST}:{sentinel.port}/0",
            broker_transport_options=by_name,
            result_backend_transport_options=by_name,
        )
        with (
            connected(server, celery, redis_url=url_of_ledger) as program,
            workers(PROGRAM, url_of_ledger, tmp_path, count=1),
        ):
            assert program.own.delay(1).get(timeout=30) == 2
            assert program.orchestrator.start("connected-fused").result(int, timeout=30) == 1
            assert asyncio.run(awaited(program.orchestrator)) == [2, 2, 2]


# --- a socket, and users with few rights -----------------------------------------------------------
@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A server that listens on a socket too, whose user `runs` has the rights that the docs print."""
    folder = tmp_path_factory.mktemp("few")
    with ServerWith(folder, "--unixsocket", str(folder / "s")) as server:
        text = (ROOT / "docs/deployments.md").read_text()
        printed = re.search(r"^ACL SETUSER runs (.*(?:\n +\+.*)*)", text, re.MULTILINE)
        assert printed is not None
        server.client.execute_command("ACL", "SETUSER", "runs", *printed[1].split())
        yield server, folder / "s"


@pytest.fixture(scope="module")
def rights(few, tmp_path_factory):
    """The program and a worker, connected to their runs as that user over the socket, in a database of their own."""
    server, path = few
    store = f"unix://runs:password@{path}?db=3&protocol=2"
    with (
        connected(server, both(server.url), store_url=store) as program,
        workers(PROGRAM, server.url, tmp_path_factory.mktemp("rights"), count=1, lease="4") as (worker,),
    ):
        server.client.acl_log_reset()
        yield program, worker
    refused = [each for each in server.client.acl_log() if each["username"] == "runs" and each["reason"] != "auth"]
    assert refused == [], "the user of the runs asked for more than it has"


ENDS = {
    "connected-fan": "succeeded",
    "connected-fused": "succeeded",
    "connected-local": "succeeded",
    "connected-map": "succeeded",
    "connected-pages": "succeeded",
    "connected-undone": "failed",
    "connected-dies": "succeeded",
    "connected-limited": "succeeded",
    "connected-later": "succeeded",
    "connected-slots": "succeeded",
    "connected-branch": "succeeded",
    "connected-timed": "failed",
}


def test_every_kind_of_step_works_with_the_rights_that_the_docs_print(rights):
    program, _ = rights
    runs = {name: program.orchestrator.start(name, idempotency_key="one") for name in ENDS}
    assert {program.orchestrator.start(name, idempotency_key="one").id for name in ENDS} == {
        run.id for run in runs.values()
    }
    more = program.orchestrator.start("connected-slots")
    assert {name: run.wait(timeout=60) for name, run in runs.items()} == ENDS
    assert more.wait(timeout=30) == "succeeded"
    assert runs["connected-map"].result(list[int]) == [0, 2, 4, 6, 8]


def test_what_a_client_asks_works_with_those_rights(rights):
    program, _ = rights
    orchestrator = program.orchestrator
    run = orchestrator.start("connected-undone", idempotency_key="two", tags={"a": "b"})
    with pytest.raises(IdempotencyConflict):
        orchestrator.start("connected-undone", {"other": 1}, idempotency_key="two")
    assert run.wait(timeout=30) == "failed"
    assert run.failures()["b"].message == "no"
    assert [event.event for event in run.history()][-1] == "run-failed"
    run.resume()
    assert run.wait(timeout=30) == "failed"
    waiting = orchestrator.start("connected-timed")
    assert "which no worker consumes" in waiting.explain()[0].reason
    waiting.cancel("enough")
    assert waiting.wait(timeout=30) == "cancelled"
    assert {each.id for each in orchestrator.runs(flow="connected-undone", status="failed")} >= {run.id}
    assert orchestrator.cursor("connected-pages", "connected") in {None, "3", "2"}
    orchestrator.reset_cursor("connected-pages", "connected")
    engine = engine_of(program.app)
    entry = engine.registry.flows["connected-scheduled"]
    with engine.store.guarded():
        remember_slots(engine, entry)
        (slot,) = slots_of(entry)
        long_ago = round((datetime.now(UTC) - timedelta(minutes=2)).timestamp() * 1000)
        engine.store.client.hset(engine.store.keys.slots, slot, long_ago)
        (tick,) = start_due(engine, entry, slot)
    assert orchestrator.get(tick).wait(timeout=30) == "succeeded"


def test_a_store_user_without_rights_on_queues_pushes_nothing(rights):
    program, _ = rights
    publisher = engine_of(program.app).publisher
    plan = engine_of(program.app).registry.flows["connected-fan"].plan
    assert publisher.first_message(plan, "run") == ("", "")


def test_a_missing_right_is_named_and_keeps_a_worker_alive(rights, few):
    program, worker = rights
    server, _ = few
    server.client.acl_setuser("runs", commands=["-evalsha"])
    try:
        said = r"Redis at .*/3 refused: .*\. Give the user of redis_url the keys ~orchestrator:\*, the channels"
        with pytest.raises(StoreRefused, match=said):
            program.orchestrator.start("connected-fan")
        wait_until(lambda: "Give the user of redis_url" in worker.log.read_text(), "the worker says so")
    finally:
        server.client.acl_setuser("runs", commands=["+evalsha"])
        server.client.acl_log_reset()
    assert program.orchestrator.start("connected-fan").result(int, timeout=30) == 2


def test_a_key_of_another_program_is_named(few):
    server, _ = few
    with connected(server, both(server.url), prefix="taken") as program:
        server.client.set("taken:index:status:open", "text")
        with pytest.raises(
            StoreRefused, match=r"refused: WRONGTYPE.*begins with taken:; give Settings\(prefix=\.\.\.\)"
        ):
            program.orchestrator.start("connected-fan")


@pytest.mark.parametrize("user", ["nobody", "runs"])
def test_a_wrong_password_is_named_in_moments(few, user):
    server, _ = few
    url = server.url.replace("//", f"//{user}:wrong@")
    began = time.monotonic()
    with connected(server, both(url)) as program, pytest.raises(StoreRefused, match="Correct them in result_backend"):
        program.orchestrator.start("connected-fan")
    assert time.monotonic() - began < 4, "and the broker, where it is wrong too, is not waited for"


def test_one_user_with_a_key_pattern_and_a_provider_of_its_password_is_enough(few, tmp_path):
    server, _ = few
    rules = ["~app:*", "&*", "+@all", "-@dangerous", "+info"]
    server.client.execute_command("ACL", "SETUSER", "app", "reset", "on", ">pw", *rules)
    options = {"global_keyprefix": "app:"}
    url = f"{server.url}?credential_provider=tests.servers.AppUser"
    celery = both(url, broker_transport_options=options, result_backend_transport_options=options)
    with connected(server, celery, prefix="app") as program, workers(PROGRAM, server.url, tmp_path, count=1):
        assert program.own.delay(1).get(timeout=30) == 2
        assert program.orchestrator.start("connected-fan", idempotency_key="app").result(int, timeout=30) == 2
        assert program.orchestrator.start("connected-fused").result(int, timeout=30) == 1
        engine = engine_of(program.app)
        plan = engine.registry.flows["connected-fan"].plan
        assert engine.publisher.first_message(plan, "run")[0] == "app:connected", "it has the rights to push"
    assert [each for each in server.client.acl_log() if each["username"] == "app"] == []


def test_a_server_that_is_not_there_is_named_with_its_place(few):
    server, _ = few
    with (
        connected(server, both(server.url), store_url="redis+socket:///nowhere/s?virtual_host=2") as program,
        pytest.raises(Exception, match="Redis at /nowhere/s/2 did not answer"),
    ):
        program.orchestrator.start("connected-fan")


def test_what_cannot_be_is_refused_where_the_app_is_set_up(few):
    server, _ = few
    with (
        pytest.raises(ConfigurationError, match="is a list of servers"),
        connected(server, both("redis://a;redis://b")),
    ):
        pass
