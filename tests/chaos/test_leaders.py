"""kill -9 of the worker that reconciles, at each of its points: another one leads, and does what was left undone."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest

from tests.chaos.world import World, check_keys, check_run
from tests.harness import wait_until
from tests.post import VARIABLE, counted

LATER = 1000
# Point and which hit of it, the flow, and the post office's orders. Sweeps go on all the time: the one that comes
# once the runs are on their way is made hit number LATER.
POINTS = {
    "sweep": (LATER, "ten", ""),
    "before_wake": (2, "again", ""),
    "after_wake": (2, "again", ""),
    "after_release": (3, "slow", ""),
    "after_republish": (2, "ten", "lose=7"),
}
LONG = ("before_wake", "after_release")
RUNS = 3
LEADER = "orchestrator:leader"


def leader(world: World) -> str:
    return str(world.client.get(LEADER) or "")


@pytest.mark.parametrize(
    "point",
    [pytest.param(point, marks=pytest.mark.chaos_long) if point in LONG else point for point in POINTS],
)
def test_a_leader_killed_at_a_point_is_followed_by_another(point, tmp_path):
    hit, flow, orders = POINTS[point]
    settings: dict[str, Any] = {"ORCHESTRATOR_FAULT": f"{point}:kill9:{hit}", "TEST_WORK_S": "0.3"}
    with World(tmp_path, **settings | ({VARIABLE: orders} if orders else {})) as world:
        world.start_workers()
        first = wait_until(lambda: leader(world), "a leader")
        runs = [world.orchestrator().start(flow) for _ in range(RUNS)]
        hits = tmp_path / "hits"
        if hit == LATER:
            wait_until(lambda: world.ledger.names("end"), "work is in progress")
            os.truncate(hits, LATER - 1)
        wait_until(lambda: hits.exists() and hits.stat().st_size >= hit, "the point is reached", timeout=60)
        assert "running" in {run.status for run in runs}, "the fault hit nothing"
        follower = wait_until(lambda: leader(world).replace(first, ""), "another leader", timeout=10)
        assert follower != first
        calls: Counter[tuple[str, str]] = Counter()
        for run in runs:
            assert run.wait(timeout=60) == "succeeded"
            for node, starts in check_run(run, "succeeded").items():
                calls[run.id, node] = starts
        for line in set(world.ledger.names("start")):
            assert world.ledger.names("start").count(line) == 1, "an attempt is one call"
            run_id, node, attempt = line.split("/")
            assert int(attempt) <= calls[run_id, node]
        if flow == "slow":
            check_rate(runs)
        if orders:
            assert counted(world.ledger)["lost"] > 0
        check_keys(world.client)


def check_rate(runs: list[Any]) -> None:
    """I6: one start a second and one in the bucket, so that no third one is within a second."""
    starts = sorted(
        event.at for run in runs for event in run.history() if event.event == "started" and "member" in event.node
    )
    assert len(starts) >= 4 * RUNS
    apart = [(third - one).total_seconds() for one, third in zip(starts, starts[2:], strict=False)]
    assert min(apart) >= 0.999, apart  # history keeps milliseconds
