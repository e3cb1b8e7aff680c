"""A Redis that throws keys away: those of live runs, so that it is refused, or others, so that it is warned of."""

from __future__ import annotations

import logging

import pytest
import redis
from celery import Celery

from orchestrator import ConfigurationError, Orchestrator, Settings
from orchestrator.maintenance.preflight import seen_from_here
from orchestrator.server import EmbeddedServer
from orchestrator.store.eviction import eviction_of
from tests.harness import Ledger, WorkerProcess, environment_for, lasting_keys, wait_until

ROOM = 200_000_000


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A server of this module's own, for its settings are changed."""
    with EmbeddedServer(tmp_path_factory.mktemp("own")) as running:
        yield running


@pytest.fixture
def admin(own):
    with redis.Redis.from_url(own.url, decode_responses=True) as client:
        yield client
        set_policy(client, "noeviction", 0)


def set_policy(client, policy, room=ROOM):
    client.config_set("maxmemory", room)
    client.config_set("maxmemory-policy", policy)


def client_of(url, **settings):
    app = Celery("client", broker=url, backend=url, set_as_current=False)
    return Orchestrator(app, settings=Settings(**settings))


@pytest.fixture(scope="module")
def worker(own, server, tmp_path_factory):
    """A worker for the program of refusals: its first node is held by a file."""
    folder = tmp_path_factory.mktemp("worker")
    environment = environment_for(own.url, lease="4", reconcile_every="0.5")
    environment |= {"TEST_LEDGER_URL": server.url, "TEST_GATES": str(folder)}
    queues = "busy-prefork,idle-prefork,own"
    options = ["-c", "2", "-Q", queues, "--without-gossip"]
    made = WorkerProcess("tests.programs.refused", "w0", folder / "w0.log", environment=environment, options=options)
    try:
        wait_until(made.is_up, "the worker is up", timeout=60)
        yield made
    finally:
        made.kill()


def test_runs_are_begun_only_where_redis_keeps_them_and_those_that_have_begun_end(own, admin, worker, server):
    orchestrator = client_of(own.url)
    begun = orchestrator.start("held-prefork")
    Ledger(server.url).wait_for("start", begun.id)
    set_policy(admin, "allkeys-lru")
    wait_until(lambda: "no run is begun here: Redis at" in worker.log.read_text(), "the worker says so")
    wait_until(lambda: admin.exists("orchestrator:evicts"), "the clients can read it")

    before = admin.info("commandstats")
    with pytest.raises(ConfigurationError, match=r"quick-prefork is not started: .*allkeys-lru.*allow_eviction"):
        orchestrator.start("quick-prefork")
    stats = admin.info("commandstats")
    assert stats["cmdstat_info"]["calls"] <= before["cmdstat_info"]["calls"] + 3, "this client asked before it began"
    assert orchestrator.runs(flow="quick-prefork") == []
    with pytest.raises(ConfigurationError, match="allow_eviction"):
        client_of(own.url).start("quick-prefork")

    admin.delete("orchestrator:evicts")
    unbegun = client_of(own.url, allow_eviction=True).start("quick-prefork")
    own_task = Celery("client", broker=own.url, backend=own.url, set_as_current=False)
    assert own_task.send_task("refused.own", (1,), queue="own").get(timeout=30) == 1
    (worker.log.parent / begun.id).touch()
    assert begun.wait(timeout=30) == "succeeded"
    wait_until(lambda: [e for e in unbegun.history() if e.event == "republished"], "the reconciler sends it again")
    sent = len([event for event in unbegun.history() if event.event == "republished"])
    assert unbegun.status == "pending"
    assert sent <= 3, "with a back-off"

    set_policy(admin, "noeviction", 0)
    assert unbegun.result(int, timeout=60) == 1
    assert "runs are begun again" in worker.log.read_text()
    wait_until(lambda: not admin.exists("orchestrator:evicts"), "the clients start again")
    assert orchestrator.start("quick-prefork").result(int, timeout=30) == 1


def test_no_key_of_a_live_run_has_a_ttl(own, admin, worker, server):
    run = client_of(own.url).start("held-prefork", idempotency_key="one")
    Ledger(server.url).wait_for("start", run.id)
    live = lasting_keys(admin, "orchestrator:*")
    of_run = {key for key in admin.keys("orchestrator:*") if run.id in key or ":idem:" in key or ":plan:" in key}
    assert {f"orchestrator:run:{run.id}{part}" for part in ("", ":nodes", ":outputs", ":told")} <= of_run
    assert of_run <= live.keys()
    shared = {"live", "holders", "flows", "sweep", "workers"}
    assert {f"orchestrator:{name}" for name in shared} <= live.keys()
    (worker.log.parent / run.id).touch()
    assert run.wait(timeout=30) == "succeeded"


@pytest.mark.parametrize(
    ("policy", "room", "said", "takes"),
    [
        ("allkeys-lru", 1, "when it is full, runs vanish", True),
        ("allkeys-random", 1, "when it is full, runs vanish", True),
        ("allkeys-lfu", 0, "as soon as a maxmemory is set, runs vanish", False),
        ("volatile-lru", 1, "records of ended runs vanish", False),
        ("noeviction", 1, None, False),
    ],
)
def test_a_policy_has_a_verdict(policy, room, said, takes):
    found = eviction_of("h:1/0", {"maxmemory_policy": policy, "maxmemory": room})
    assert (said is None) == (found is None)
    if found:
        assert said in found.problem
        assert found.takes_live_runs == takes


def test_a_server_that_does_not_tell_is_warned_of(own, admin, caplog):
    admin.execute_command("ACL", "SETUSER", "silent", "on", ">pw", "~*", "&*", "+@all", "-info")
    url = own.url.replace("redis://", "redis://silent:pw@")
    orchestrator = client_of(url)
    with caplog.at_level(logging.WARNING):
        orchestrator.start("quick-prefork").cancel()
    (found,) = seen_from_here(orchestrator._engine.store)
    assert "does not say whether it throws keys away" in found.what
    assert [record for record in caplog.records if found.what in record.getMessage()]
