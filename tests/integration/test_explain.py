"""run.explain(): for every node that has not ended, why it waits, for whom, and until when."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from celery import Celery

from orchestrator import SharedRateLimiter
from orchestrator.definition.registry import Registry
from orchestrator.engine import Engine
from orchestrator.explain import explain_run
from orchestrator.store.worker_rows import name_holders
from tests.scripts_world import HOLDER, LEASE_MS, fan_plan, flow, line_plan, mapped_run, node, paged, plan_of

MINUTE_MS = 60_000
API = SharedRateLimiter("api", 1, per=timedelta(minutes=1))


@pytest.fixture
def explain(world):
    app = Celery("explained", broker=world.url, backend=world.url, set_as_current=False)
    engine = Engine(app, world.store.settings, Registry("celery"), world.store)

    def explain(run):
        """Node to its state, reason, milliseconds until the instant it waits for, and attempt."""
        now = world.store.now_ms()
        found = explain_run(engine, world.store.run(run.id))
        return {
            each.node: (
                each.state,
                each.reason,
                each.until and round(each.until.timestamp() * 1000 - now),
                each.attempt,
            )
            for each in found
        }

    return explain


def assert_is(told, state, reason, *, about_ms=None, attempt=0):
    assert (told[0], told[3]) == (state, attempt)
    assert re.fullmatch(reason, told[1])
    if about_ms is None:
        assert told[2] is None
    else:
        assert about_ms - 20_000 < told[2] <= about_ms


def announce(world, *, queues=("celery",), flows=None, **state):
    world.store.announce_worker("w", {"queues": queues, "flows": flows or {}} | state)


def test_a_ready_node_waits_for_a_worker_of_its_queue(world, explain):
    queue = world.prefix  # that no worker consumes
    run = world.run(plan_of(flow().on_queue(queue).then(node("a"))))
    assert_is(explain(run)["a"], "ready", f"waits in queue {queue} of length 0, which no worker consumes")
    announce(world, queues=[queue])
    assert_is(explain(run)["a"], "ready", f"waits in queue {queue} of length 0, whose workers have no code for f.a")
    announce(world, queues=[queue], flows={"f": ["a"]})
    world.client.rpush(queue, *[b"{}"] * 3)
    try:
        assert_is(explain(run)["a"], "ready", f"waits in queue {queue} of length 3 for one of 1 workers")
    finally:
        world.client.delete(queue)


def test_what_a_worker_says_of_itself_is_explained(world, explain):
    run = world.run(line_plan("a"))
    told = {"flows": {"f": ["a"]}, "name": "w@h"}
    for state, reason in (
        ({"json": False}, "whose workers read no JSON: add it to accept_content or set accept_json"),
        ({"missing": ["f.a"]}, "waits for f.a in a pool process; those of w@h do not have it"),
        ({"missing": ["f.b"], "processes": 2, "busy": 1}, "for one of 1 workers"),
        ({"processes": 2, "busy": 2}, "for one of 1 workers; every pool process of w@h is busy"),
        ({"processes": 0, "busy": 2}, "for one of 1 workers"),
    ):
        announce(world, **told, **state)
        assert explain(run)["a"][1].endswith(reason)
    for _ in range(2):
        world.scripts.republish(run.id, run.plan.hash, 1, ["a"])
        run.age("a", MINUTE_MS)
    assert explain(run)["a"][1].endswith("its message was sent 3 times, and nobody has begun it")


def test_a_worker_of_another_queue_or_of_a_changed_flow_does_not_count(world, explain):
    run = world.run(line_plan("a"))
    announce(world, queues=["other"], flows={"f": ["a"]})
    assert "no worker consumes" in explain(run)["a"][1]
    announce(world, flows={"f": ["b"], "g": ["a"]})
    assert "have no code for f.a" in explain(run)["a"][1]


def test_a_node_that_runs_names_its_holder_its_timeout_and_what_it_reports(world, explain):
    run = world.run(line_plan("a", timeout_ms=MINUTE_MS))
    token = run.hold("a")
    assert_is(
        explain(run)["a"],
        "running",
        f"runs in {HOLDER}, until its timeout at the latest",
        about_ms=MINUTE_MS,
        attempt=1,
    )
    run.report("a", token, '"half"')
    assert explain(run)["a"][1].endswith('at the latest, reports "half"')
    world.scripts.renew([HOLDER], lease_ms=-1)
    told = explain(run)["a"]
    assert told[1] == f"its holder {HOLDER} is gone; its claim will be ended, and attempt 2 of 3 follows"
    world.store.announce_worker("worker", {"queues": [], "flows": {}, "name": "w0@host"})
    assert (
        explain(run)["a"][1]
        == "its holder w0@host, process 1 is gone; its claim will be ended, and attempt 2 of 3 follows"
    )
    world.scripts.renew([HOLDER], lease_ms=LEASE_MS)
    assert explain(run)["a"][1].startswith("runs in w0@host, process 1, until")
    run.lose("a", token)
    announce(world, flows={"f": ["a"]})
    assert explain(run)["a"][1].endswith("; attempt 1 was lost with its worker, and attempt 2 of 3 follows")


def test_a_worker_is_named_for_a_while_after_it_was_killed(world):
    world.store.announce_worker("killed", {"queues": [], "flows": {}, "name": "w1@host"})
    world.client.zadd(world.keys.workers, {"killed": 0})
    assert world.store.workers() == []
    assert name_holders(world.store, ["killed/7/inline", "never/8", "odd"]) == {
        "killed/7/inline": "w1@host, process 7",
        "never/8": "never/8",
        "odd": "odd",
    }
    assert 0 < world.client.pttl(world.keys.worker("killed")) <= LEASE_MS + 600_000


def test_what_comes_later_waits_for_what_has_not_ended(world, explain):
    run = world.run(plan_of(flow().then_parallel("fan", node("a"), node("b")).then(node("c")).then(node("d"))))
    run.do("a")
    told = explain(run)
    assert list(told) == ["b", "c", "d"]
    assert_is(told["c"], "pending", "waits for b")
    assert_is(told["d"], "pending", "waits for b")


def test_a_retry_names_its_number_its_instant_and_what_went_wrong(world, explain):
    run = world.run(line_plan("a", attempts=4))
    run.break_off("a", delay_ms=MINUTE_MS)
    assert_is(
        explain(run)["a"],
        "parked",
        r"waits for attempt 2 of 4; the last one failed: builtins\.OSError: no",
        about_ms=MINUTE_MS,
        attempt=1,
    )


def test_a_place_in_a_line_tells_its_rank_and_its_instant(world, explain):
    run = world.run(fan_plan(3, shared_rate_limit=API))
    run.do("m-0")
    for name in ("m-1", "m-2"):
        assert run.claim(name).outcome == "parked"
    told = explain(run)
    assert_is(told["m-1"], "parked", "is number 1 in the wait queue of limiter api", about_ms=MINUTE_MS)
    assert_is(told["m-2"], "parked", "is number 2 in the wait queue of limiter api", about_ms=2 * MINUTE_MS)


def test_one_that_was_let_go_from_its_line_says_so(world, explain):
    run = world.run(fan_plan(2, shared_rate_limit=API))
    run.do("m-0")
    run.claim("m-1")
    world.client.delete(world.keys.bucket("api")[0])
    world.scripts.release("api")
    assert_is(explain(run)["m-1"], "parked", "was released from the wait queue of limiter api")


def test_a_run_that_ends_names_what_is_being_undone(world, explain):
    run = world.run(line_plan("a", "b", undone="succeeded"))
    run.do("a")
    run.break_off("b")
    told = explain(run)
    assert_is(told["a"], "compensating", "is being compensated by undo-a", attempt=1)
    assert told["undo-a"][0] == "ready"
    assert "b" not in told


def test_a_run_that_has_ended_waits_for_nothing(world, explain):
    run = world.run(line_plan("a"))
    run.do("a")
    assert explain(run) == {}


def test_a_map_tells_how_far_it_is_and_what_its_items_wait_for(world, explain):
    run = mapped_run(world, 5, attempts=2)
    ran, failed = run.hold("item"), run.hold("item")
    run.commit("item[0]", ran, b"1")
    run.fail("item[1]", failed, delay_ms=MINUTE_MS)
    told = explain(run)
    reason = "1 of 5 items have ended, 3 have not started; waits in queue celery of length 0, which no worker consumes"
    assert_is(told["item"], "ready", reason)
    assert_is(
        told["item[1]"],
        "parked",
        r"waits for attempt 2 of 2; the last one failed: builtins\.OSError: no",
        about_ms=MINUTE_MS,
        attempt=1,
    )
    assert list(told) == ["item", "after", "item[1]"]


def test_a_paginated_node_tells_how_many_pages_it_has(world, explain):
    run = world.run(plan_of(flow().then(paged())))
    run.turn("sync", run.hold("sync"))
    run.turn("sync", run.hold("sync"))
    assert_is(explain(run)["sync"], "ready", "has 2 pages; waits in queue celery of length 0, which no worker consumes")
    run.fail("sync", run.hold("sync"), delay_ms=MINUTE_MS)
    reason = r"has 2 pages; waits for attempt 2 of 3; the last one failed: builtins\.OSError: no"
    assert_is(explain(run)["sync"], "parked", reason, about_ms=MINUTE_MS, attempt=1)
