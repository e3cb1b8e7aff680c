"""kill -9 where one run of a lane ends and the next one is admitted: none is lost, and none begins too early."""

from __future__ import annotations

import time
import uuid
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.engine import engine_of
from orchestrator.starts import find_plan
from tests.chaos.world import check_keys, check_run

if TYPE_CHECKING:
    from orchestrator import FlowRun, Orchestrator
    from tests.chaos.world import World


def by_hand(client: Orchestrator, _number: int) -> FlowRun:
    """Of a flow of which one run goes on at a time."""
    return client.start("in-turn")


def by_clock(client: Orchestrator, number: int) -> FlowRun:
    """As ticks of a schedule that queues its runs do, with a copy of each tick."""
    engine, instant = engine_of(client.app), time.time_ns() // 1_000_000
    options: dict[str, Any] = {"schedule": "clock:0123", "scheduled_ms": instant, "overlap": "queue"}
    options |= {"run_id": uuid.uuid4().hex}
    plan = find_plan(engine, "by-clock")
    outcomes = [engine.start(plan, b"", **options).outcome for _ in range(2)]
    assert outcomes == ["started", "exists"], number
    return client.get(options["run_id"])


@pytest.mark.parametrize(
    "order", ["before_store@yours:kill9:1", "before_next:kill9:1", "after_next:kill9:1", "after_next:kill9:2"]
)
@pytest.mark.parametrize("start", [by_hand, by_clock])
def test_a_worker_killed_between_two_runs_of_a_lane_delays_the_next_and_loses_none(start, order, world: World):
    world.fail_at(order)
    client = world.orchestrator()
    runs = [start(client, number) for number in range(4)]
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
