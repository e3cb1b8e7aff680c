"""Many runs at once: every one ends right, and what they leave in Redis has an end."""

from __future__ import annotations

from collections import Counter

import pytest
import redis

from orchestrator.server import EmbeddedServer
from tests.harness import Ledger, lasting_keys, load_program, wait_until, workers

# Without the second a message that waits in a busy worker is sent again, for a worker that may be idle.
OPTIONS = ["-c", "2", "--prefetch-multiplier", "1"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.mark.timeout(300)
@pytest.mark.parametrize("count", [40, pytest.param(100, marks=pytest.mark.chaos_long)])
def test_as_many_complete_and_failing_runs_at_once(server, tmp_path, count):
    program = load_program("seed", server.url)
    client = redis.Redis.from_url(server.url, decode_responses=True)
    with workers("tests.programs.seed", server.url, tmp_path / "workers", count=2, options=OPTIONS):
        runs = [program.orchestrator.start(name) for _ in range(count) for name in ("enrich-issues", "fulfill-order")]
        statuses = Counter(str(run.wait(timeout=240)) for run in runs)
        assert statuses == {"succeeded": count, "failed": count}
        assert {run.result(int) for run in runs[::2]} == {5}
        for run in runs[1::2]:
            assert run.error.type == "tests.programs.seed.ShipmentRefused"
            assert_undone_in_reverse(run)
        repeated = sum(event.event == "republished" for run in runs for event in run.history())
        assert repeated <= count / 10, "messages were repeated although none was lost"
        assert Ledger(server.url).names("start") == []
        wait_until(lambda: not client.zcard("orchestrator:live"), "no run is live")
    assert_all_keys_end(client)


def assert_undone_in_reverse(run):
    """What succeeded was undone once, last first, and nothing else was."""
    events = [(event.event, event.node) for event in run.history()]
    done = [node for event, node in events if event == "succeeded"]
    undoing = {"accept-order": "reject-order", "create-order": "cancel-order", "create-invoice": "void-invoice"}
    acted = [node for node in done if node in undoing]
    assert [node for node in done if node not in undoing] == [undoing[node] for node in reversed(acted)]
    assert "accept-order" in acted


def assert_all_keys_end(client):
    """Of ended runs every key has a TTL; what else is left are fixed tables and Celery's own chord keys, with a TTL."""
    fixed = {"flows", "limits", "events", "sweep", "slots", "index:expiring", "workers", "holders"}
    lasting = {key.removeprefix("orchestrator:") for key in lasting_keys(client)}
    plans_and_indexes = {key for key in lasting if key.startswith(("plan:", "index:flow:", "index:status:"))}
    ours = lasting - plans_and_indexes - fixed
    assert {key for key in ours if not key.startswith(("_kombu.", "unacked_mutex"))} == set()
    assert len([key for key in plans_and_indexes if key.startswith("plan:")]) == 2
    others = [key for key in client.scan_iter("*", count=1000) if not key.startswith(("orchestrator:", "_kombu."))]
    assert [key for key in others if not key.startswith("celery-taskset-meta-") or client.ttl(key) < 0] == []
