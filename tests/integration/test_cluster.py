"""Keep the runs on a server in cluster mode: under a hash tag they are in one slot, whose owner is followed."""

from __future__ import annotations

import pytest
import redis
from redis.crc import key_slot

from orchestrator import ConfigurationError, Settings, StoreRefused
from orchestrator.engine import engine_of
from tests.harness import wait_until, workers
from tests.integration.test_connections import PROGRAM, both, connected
from tests.servers import HOST, ServerWith

PREFIX = "{orchestrator}"
SLOT = key_slot(b"orchestrator")
IN_CLUSTER = ("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "2000")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two nodes; the second has the slot of the runs and the first all others."""
    folder = tmp_path_factory.mktemp("cluster")
    with ServerWith(folder / "a", *IN_CLUSTER) as first, ServerWith(folder / "b", *IN_CLUSTER) as second:
        first.client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, SLOT - 1, SLOT + 1, 16383)
        second.client.execute_command("CLUSTER", "ADDSLOTSRANGE", SLOT, SLOT)
        first.client.execute_command("CLUSTER", "MEET", HOST, second.port)
        wait_until(lambda: _is_there(first) and _is_there(second), "the nodes agree")
        yield first, second


def test_runs_live_in_the_slot_of_a_cluster(cluster, server, tmp_path):
    first, second = cluster
    variables = {"store_url": first.url, "prefix": PREFIX}
    with (
        connected(server, both(server.url), **variables) as program,
        workers(PROGRAM, server.url, tmp_path, count=1, lease="4"),
    ):
        orchestrator = program.orchestrator
        assert orchestrator.start("connected-fan", idempotency_key="one").result(int, timeout=30) == 2
        assert orchestrator.start("connected-map").result(list[int], timeout=30) == [0, 2, 4, 6, 8]
        assert orchestrator.start("connected-undone").wait(timeout=30) == "failed"
        assert orchestrator.start("connected-limited").wait(timeout=30) == "succeeded"
        assert second.client.exists(f"{PREFIX}:flows")
        assert first.client.keys("*") == []
        publisher = engine_of(program.app).publisher
        plan = engine_of(program.app).registry.flows["connected-fan"].plan
        assert publisher.first_message(plan, "run") == ("", ""), "the queue is elsewhere"
        second.restart()
        wait_until(lambda: _is_there(second), "the owner is back")
        assert orchestrator.start("connected-fan").result(int, timeout=30) == 2


def _is_there(node):
    try:
        return "cluster_state:ok" in node.client.execute_command("CLUSTER", "INFO")
    except redis.RedisError:
        return False


def test_a_slot_that_moves_is_followed(cluster, server):
    first, second = cluster
    with connected(server, both(server.url), store_url=second.url, prefix=PREFIX) as program:
        known = program.orchestrator.runs()
        names = {node: node.client.execute_command("CLUSTER", "MYID") for node in cluster}
        second.client.flushall()  # a slot that is empty may change hands by a word
        for node in cluster:
            node.client.execute_command("CLUSTER", "SETSLOT", SLOT, "NODE", names[first])
        run = program.orchestrator.start("connected-fan")
        assert first.client.exists(f"{PREFIX}:run:{run.id}")
        assert program.orchestrator.runs() == [run] or known
        run.cancel()


def test_keys_in_many_slots_are_refused_with_what_to_set(cluster, server):
    first, _ = cluster
    said = r"It is in cluster mode.*set Settings\(prefix='\{orchestrator\}'\)"
    with connected(server, both(server.url), store_url=first.url) as program, pytest.raises(StoreRefused, match=said):
        program.orchestrator.start("connected-fan")


def test_another_database_of_a_cluster_is_refused(cluster, server):
    first, _ = cluster
    url = f"{first.url.rsplit('/', 1)[0]}/1"
    with (
        connected(server, both(server.url), store_url=url, prefix=PREFIX) as program,
        pytest.raises(StoreRefused, match=r"refused: .*; correct redis_url"),
    ):
        program.orchestrator.start("connected-fan")


def test_a_hash_tag_is_one_part_of_the_prefix():
    assert Settings(prefix="shop.{orders}").prefix == "shop.{orders}"
    with pytest.raises(ConfigurationError, match="may have one part in"):
        Settings(prefix="{a}{b}")
