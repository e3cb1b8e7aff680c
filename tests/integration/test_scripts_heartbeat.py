"""Nodes with a heartbeat timeout: reports move the end of their claim, and the next attempt has the last one."""

from __future__ import annotations

from datetime import timedelta

import pytest

from orchestrator import Node, NodeContext, RetryPolicy
from tests.scripts_world import flow, node, plan_of

WITHIN_MS = 10_000


def beat(ctx: NodeContext) -> None:
    """A function that could report; no worker ever calls it."""


def beating_plan(timeout_ms=300_000):
    made = Node("a", beat, timeout=timedelta(milliseconds=timeout_ms), retry=RetryPolicy(maximum_attempts=3))
    made = made.with_heartbeat_timeout(timedelta(milliseconds=WITHIN_MS))
    return plan_of(flow().then(node("before")).then(made).then(node("b")))


def beating_run(world, **options):
    run = world.run(beating_plan(**options))
    run.do("before")
    return run


def end_of(world):
    ((claim),) = world.store.claims("worker/1")
    return claim.deadline


def report(run, token, detail, ends_in_ms=WITHIN_MS):
    return run.scripts.report(run.id, run.plan.hash, "a", token, detail, ends_in_ms=ends_in_ms)


def test_a_claim_ends_before_its_attempt_unless_a_report_moves_its_end(world):
    run = beating_run(world)
    token = run.hold("a")
    first = end_of(world)
    assert 9000 < first - world.store.now_ms() <= WITHIN_MS
    assert run.node("a")["deadline"] - world.store.now_ms() > 290_000
    report(run, token, "1", ends_in_ms=0)
    assert end_of(world) == first, "a report between two that move it"
    report(run, token, "2", ends_in_ms=2 * WITHIN_MS)
    assert end_of(world) > first
    assert report(run, "other", "3").outcome == "fenced"
    assert run.commit("a", token).work.names == ("b",)
    assert world.claims() == []
    assert report(run, token, "4").outcome == "fenced"
    assert world.claims() == []


def test_no_report_moves_it_past_the_limit_of_the_attempt(world):
    run = beating_run(world, timeout_ms=5000)
    token = run.hold("a")
    assert end_of(world) == run.node("a")["deadline"]
    report(run, token, "1", ends_in_ms=60_000)
    assert end_of(world) == run.node("a")["deadline"]


@pytest.mark.parametrize("how", ["fail", "lose"])
def test_the_next_attempt_has_what_the_last_ones_reported(world, how):
    run = beating_run(world)
    for number in (1, 2):
        token = run.hold("a")
        if number == 1:
            report(run, token, '{"rows":7}')
        else:
            assert "detail" not in run.node("a"), "it has reported nothing itself"
        if how == "fail":
            run.fail("a", token, delay_ms=0)
        else:
            run.lose("a", token)
    run.hold("a")
    assert run.node("a")["told"] == '{"rows":7}'
