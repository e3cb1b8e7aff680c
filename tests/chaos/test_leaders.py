"""kill -9 of the worker that reconciles, at each of its points: another one leads, and does what was left undone."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.chaos.world import check_keys, check_run
from tests.harness import wait_until

if TYPE_CHECKING:
    from tests.chaos.world import World

# Point and which hit of it, and the flow. Sweeps go on all the time: the one that comes once the runs are on their way
# is the one to hit.
POINTS = {
    "sweep": (1, "ten"),
    "before_wake": (2, "again"),
    "after_wake": (2, "again"),
    "after_release": (3, "slow"),
}
LONG = ("before_wake", "after_release")
RUNS = 3
WORK_S = 0.3
LEADER = "orchestrator:leader"


def leader(world: World) -> str:
    return str(world.client.get(LEADER) or "")


@pytest.mark.parametrize(
    "point",
    [pytest.param(point, marks=pytest.mark.chaos_long) if point in LONG else point for point in POINTS],
)
def test_a_leader_killed_at_a_point_is_followed_by_another(point, plain_world):
    hit, flow = POINTS[point]
    with plain_world.lent(work_s=WORK_S) as world:
        check_follower(world, f"{point}:kill9", hit, flow)


def check_follower(world: World, fault: str, hit: int, flow: str) -> None:
    """Let the leader die at a hit of a point while runs of a flow go on, and check that another one leads them on."""
    first = wait_until(lambda: leader(world), "a leader")
    if hit > 1:
        world.fail_at(f"{fault}:{hit}")
    runs = [world.orchestrator().start(flow) for _ in range(RUNS)]
    if hit == 1:
        wait_until(lambda: world.ledger.names("end"), "work is in progress")
        world.fail_at(f"{fault}:{hit}")
    wait_until(lambda: world.hits >= hit, "the point is reached", timeout=60)
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
    check_keys(world.client)


@pytest.mark.parametrize("point", ["after_wake", pytest.param("before_wake", marks=pytest.mark.chaos_long)])
def test_a_leader_killed_while_it_lets_a_delayed_run_begin_is_followed_by_another(point, plain_world):
    with plain_world.lent(work_s=WORK_S) as world:
        first = wait_until(lambda: leader(world), "a leader")
        world.fail_at(f"{point}:kill9:1")
        runs = [world.orchestrator().start("ten", delay=timedelta(seconds=1)) for _ in range(RUNS)]
        wait_until(lambda: world.hits >= 1, "the point is reached", timeout=60)
        wait_until(lambda: leader(world).replace(first, ""), "another leader", timeout=10)
        for run in runs:
            assert run.wait(timeout=60) == "succeeded"
            assert set(check_run(run, "succeeded").values()) == {1}
        check_keys(world.client)


def check_rate(runs: list[Any]) -> None:
    """I6: one start a second and one in the bucket, so that no third one is within a second."""
    starts = sorted(
        event.at for run in runs for event in run.history() if event.event == "started" and "member" in event.node
    )
    assert len(starts) >= 4 * RUNS
    apart = [(third - one).total_seconds() for one, third in zip(starts, starts[2:], strict=False)]
    assert min(apart) >= 0.999, apart  # history keeps milliseconds
