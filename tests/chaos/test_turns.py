"""kill -9 where one run of a lane ends and the next one is admitted: none is lost, and none begins too early."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.chaos.world import check_keys, check_run

if TYPE_CHECKING:
    from tests.chaos.world import World


@pytest.mark.parametrize(
    "order", ["before_store@yours:kill9:1", "before_next:kill9:1", "after_next:kill9:1", "after_next:kill9:2"]
)
def test_a_worker_killed_between_two_runs_of_a_lane_delays_the_next_and_loses_none(order, world: World):
    world.fail_at(order)
    client = world.orchestrator()
    runs = [client.start("in-turn") for _ in range(4)]
    assert [run.wait(timeout=60) for run in runs] == ["succeeded"] * 4
    assert world.hits, "the point was not reached"
    for before, behind in pairwise(runs):
        admitted = next(event.at for event in behind.history() if event.event == "admitted")
        ended = before.finished_at
        assert ended is not None
        assert ended <= admitted
    check_keys(world.client)
    for run in runs:
        check_run(run, "succeeded")
