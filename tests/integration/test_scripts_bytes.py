"""Bytes that a node that waits costs in Redis beyond its run's own record: of all that is there because of it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from orchestrator import approval, signal, sleep
from tests.scripts_world import flow, plan_of

FEW, MANY = 200, 400  # their difference is what hash tables and sorted sets of usual size cost
LONG = timedelta(days=30)
GATES = {
    "signal": (lambda name: signal(name, dict, of="the-payment-of-an-order").with_timeout(LONG), 650),
    "approval": (lambda name: approval(name, quorum=2).with_timeout(LONG), 650),
    "sleep": (lambda name: sleep(name, LONG), 450),
}


def bytes_of(world, make, count):
    """Bytes of every key but the plan, once a run waits at so many gates."""
    builder = flow("f").then_parallel("all", *[make(f"gate-number-{number:04}") for number in range(count)])
    run = world.run(plan_of(builder))
    assert set(run.states().values()) == {"waiting"}
    keys = [key for key in world.client.scan_iter(f"{world.prefix}:*", count=1000) if b":plan:" not in key]
    found = sum(world.client.memory_usage(key, samples=0) for key in keys)
    world.client.delete(*keys)
    return found


@pytest.mark.filterwarnings("ignore::orchestrator.FlowDefinitionWarning")
@pytest.mark.parametrize("kind", GATES)
def test_a_gate_that_waits_costs_few_bytes(world, kind):
    make, most = GATES[kind]
    each = (bytes_of(world, make, MANY) - bytes_of(world, make, FEW)) / (MANY - FEW)
    print(f"a {kind} costs {each:.0f} bytes")  # noqa: T201 - a figure
    assert 0 < each <= most
