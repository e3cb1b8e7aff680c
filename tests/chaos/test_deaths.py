"""kill -9 of a client in the middle of a start, and of the leading reconciler at work: somebody else goes on."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.chaos.world import World, check_keys, check_run
from tests.harness import ROOT, environment_for

START = """
import sys
from celery import Celery
from orchestrator import Orchestrator
Orchestrator(Celery("client", broker=sys.argv[1], backend=sys.argv[1])).start("chain", idempotency_key="order-1")
"""


def die_in_a_start(world, point):
    """Start a run in a process that is killed at a point."""
    fault = {"ORCHESTRATOR_FAULT": f"{point}:kill9:1", "ORCHESTRATOR_FAULT_COUNT": str(world.folder / "client-hits")}
    client = subprocess.run(
        [sys.executable, "-c", START, world.url],
        cwd=ROOT,
        env=environment_for(world.url) | fault,
        timeout=60,
        check=False,
    )
    assert client.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("point", "stored"), [("before_start", 0), ("after_start", 1)])
def test_a_client_that_dies_in_a_start_leaves_no_run_or_a_whole_one(point, stored, tmp_path):
    with World(tmp_path) as world:
        world.start_workers()
        die_in_a_start(world, point)
        orchestrator = world.orchestrator()
        left = [run.id for run in orchestrator.runs(flow="chain")]
        assert len(left) == stored
        run = orchestrator.start("chain", idempotency_key="order-1")
        assert [run.id] == (left or [run.id])
        assert run.result(int, timeout=60) == 5
        assert set(check_run(run, "succeeded").values()) == {1}
        check_keys(world.client)


def test_a_reconciler_that_dies_before_it_sends_is_followed_by_another(tmp_path):
    with World(tmp_path, ORCHESTRATOR_FAULT="after_republish:kill9:1") as world:
        world.start_workers()
        die_in_a_start(world, "after_start")  # a run whose message was never sent: only a reconciler finds it
        (run,) = world.orchestrator().runs(flow="chain")
        assert run.result(int, timeout=60) == 5
        assert (tmp_path / "hits").read_bytes(), "the point was not reached"
        check_run(run, "succeeded")
        world.check_workers()
        check_keys(world.client)
