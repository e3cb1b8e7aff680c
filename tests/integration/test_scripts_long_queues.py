"""Long lines: thousands who wait hold nothing but their place, keep their order, and leave with their run."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from orchestrator import SharedConcurrency, SharedRateLimiter
from tests.integration.test_scripts_limits import freeze, member, thaw
from tests.scripts_world import mapped_run, new_token

HOUR = timedelta(hours=1)


def limiter(burst=1):
    return SharedRateLimiter("api", burst, per=HOUR)


def wait_in_line(run, count):
    """Let so many items of a run come to the line; no claim is held afterwards."""
    for _ in range(count):
        assert run.claim("item").outcome == "parked"
    assert run.field("running") == "0"
    assert run.world.claims() == []


def serve_all(world, run, count, bucket):
    """Serve a line by its releases; returns the items in the order in which they started."""
    order: list[str] = []
    for _ in range(count + 10):
        if len(order) == count:
            break
        for waiting in world.scripts.release(bucket)[1]:
            assert run.wake(waiting.split("|")[1]).outcome == "ready"
            token = new_token()
            claimed = run.claim("item", token)
            assert claimed.outcome == "run"
            order.append(waiting.split("|")[1])
            run.commit(order[-1], token, b"1")
    return order


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.chaos_long)])
def test_the_order_of_arrival_is_kept(world, count):
    run = mapped_run(world, count, limiter=limiter(count))
    freeze(world)
    wait_in_line(run, count)
    items = [f"item[{index}]" for index in range(count)]
    assert world.line("api") == [member(run, item) for item in items]
    thaw(world)
    assert serve_all(world, run, count, "api") == items
    assert world.line("api") == world.released("api") == []


@pytest.mark.parametrize("count", [100, pytest.param(3000, marks=pytest.mark.chaos_long)])
def test_slots_are_handed_on_one_by_one_in_the_order_of_arrival(world, count):
    run = mapped_run(world, count, slots=SharedConcurrency("db", 1))
    token = new_token()
    assert run.claim("item", token).outcome == "run"
    for _ in range(count - 1):
        assert run.claim("item").outcome == "parked"
    assert run.field("running") == "1"
    run.commit("item[0]", token, b"1")
    assert serve_all(world, run, count - 1, "@db") == [f"item[{index}]" for index in range(1, count)]


@pytest.mark.parametrize("count", [200, pytest.param(5000, marks=pytest.mark.chaos_long)])
def test_a_cancelled_run_with_many_places_leaves_at_once_and_the_others_are_served(world, count):
    crowd, run = mapped_run(world, count, limiter=limiter(3)), mapped_run(world, 3, limiter=limiter(3))
    freeze(world)
    wait_in_line(crowd, count)
    wait_in_line(run, 3)
    began = time.monotonic()
    crowd.complete(crowd.cancel())
    took = time.monotonic() - began
    thaw(world)
    assert world.line("api") == [member(run, f"item[{index}]") for index in range(3)]
    assert serve_all(world, run, 3, "api") == ["item[0]", "item[1]", "item[2]"]
    assert crowd.status == "cancelled"
    assert took < 5, f"{count} places were left in {took:.2f} s"
