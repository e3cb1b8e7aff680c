"""At maxmemory a script is refused before its first write, or does all of its work: none stops in the middle."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import redis

from orchestrator import Adaptive, Node, RemoteFlow, SharedConcurrency, SharedRateLimiter
from orchestrator.store.keys import bucket_of
from orchestrator.store.scripts import Scripts
from orchestrator.store.scripts.commit_and_claim import Claim, Commit
from tests.full_server import fill, free
from tests.scripts_fork import Fork
from tests.scripts_world import (
    FAILURE,
    HOLDER,
    LEASE_MS,
    always,
    fan_plan,
    flow,
    line_plan,
    mapped_run,
    new_token,
    node,
    paged,
    plan_of,
)

LIMITER = SharedRateLimiter("api", 1, per=timedelta(minutes=1))
KEYED = SharedRateLimiter("tenant", 1, per=timedelta(minutes=1), key=str)
RED = bucket_of("tenant", "red")


def start(world):
    plan = line_plan("a")
    return lambda: world.start(plan, key="k")


def start_with_a_known_plan(world):
    plan = line_plan("a")
    world.publish(plan)
    return lambda: world.start(plan, send_plan=False)


def tick_of_a_schedule(world):
    plan = line_plan("a")
    world.run(plan, schedule="s", scheduled_ms=1)
    return lambda: world.start(plan, schedule="s", scheduled_ms=2, overlap="skip")


def claim(world):
    run = world.run(line_plan("a"))
    return lambda: run.claim("a")


def claim_that_takes_a_token(world):
    run = world.run(fan_plan(2, shared_rate_limit=LIMITER))
    return lambda: run.claim("m-0")


def claim_that_joins_a_line(world):
    run = world.run(fan_plan(2, shared_rate_limit=LIMITER))
    run.hold("m-0")
    return lambda: run.claim("m-1")


def claim_to_be_admitted(world):
    run = world.run(fan_plan(2, shared_rate_limit=KEYED))
    return lambda: run.claim("m-0")


def admission(world):
    run = world.run(fan_plan(2, shared_rate_limit=KEYED))
    token = run.claim_to_admit("m-0")
    return lambda: run.admit("m-0", token, RED)


def admission_that_joins_a_line(world):
    run = world.run(fan_plan(2, shared_rate_limit=KEYED))
    run.admit("m-0", run.claim_to_admit("m-0"), RED)
    token = run.claim_to_admit("m-1")
    return lambda: run.admit("m-1", token, RED)


def admission_to_an_ending_run(world):
    run = world.run(fan_plan(2, shared_rate_limit=KEYED))
    token = run.claim_to_admit("m-0")
    run.cancel()
    return lambda: run.admit("m-0", token, RED)


def token_for_a_call(world):
    run = world.run(fan_plan(2, shared_rate_limit=LIMITER))
    token = run.hold("m-0")
    world.client.delete(world.keys.bucket("api")[0])
    return lambda: run.scripts.take_token(run.id, run.plan.hash, "m-0", token, "api")


def claim_that_takes_a_slot(world):
    run = world.run(fan_plan(2, concurrency=SharedConcurrency("db", 1)))
    return lambda: run.claim("m-0")


def refusal_by_the_other_side(world):
    limiter = SharedRateLimiter("api", 1, per=timedelta(minutes=1), adaptive=Adaptive(1, 2))
    run = world.run(fan_plan(2, shared_rate_limit=limiter))
    token = run.hold("m-0")
    options = {"failure": FAILURE, "delay_ms": 1000, "follows": False, "max_throttle_ms": 10**6}
    return lambda: run.scripts.fail(run.id, run.plan.hash, "m-0", token, **options)


def commit(world):
    run = world.run(line_plan("a", "b"))
    token = run.hold("a")
    return lambda: run.commit("a", token)


def commit_that_ends_the_run(world):
    run = world.run(line_plan("a"), key="k")
    token = run.hold("a")
    return lambda: run.commit("a", token)


def commit_with_a_message(world):
    run = world.run(line_plan("a", "b"))
    stored, message = Commit("a", run.hold("a"), b"1"), ("b", f"{world.prefix}:line", "since @since@")

    def commit():
        assert run.scripts.commit(run.id, run.plan, stored, message=message).outcome == "stored"
        world.client.delete(f"{world.prefix}:line")

    return commit


def commits_that_are_sent_together(world):
    run = world.run(fan_plan(2))
    commits = [Commit(name, run.hold(name), b"1") for name in ("m-0", "m-1")]
    return lambda: run.scripts.commit_and_claim(run.id, run.plan, commits, (), epoch=1)


def onward_to_the_next_node(world):
    run = world.run(line_plan("a", "b"))
    return partial(go_onward, run, Commit("a", run.hold("a"), b"1"), Claim("b", new_token()))


def onward_to_the_next_item(world):
    run = mapped_run(world, 3)
    return partial(go_onward, run, Commit("item[0]", run.hold("item"), b"1"), Claim("item", new_token()))


def go_onward(run, commit, claim):
    options = {"epoch": 1, "holder": HOLDER, "lease_ms": LEASE_MS, "follows": True}
    _, (claimed,) = run.scripts.commit_and_claim(run.id, run.plan, [commit], [claim], **options)
    assert claimed.outcome == "run"


def commit_of_a_decision(world):
    run = world.run(plan_of(flow().when(always).then(node("a")).end_when()))
    token = run.hold("when-1")
    return lambda: run.commit("when-1", token, choice=0)


def turn(world):
    run = world.run(plan_of(flow().then(paged())))
    token = run.hold("sync")
    return lambda: run.turn("sync", token)


def commit_of_the_last_page(world):
    run = world.run(plan_of(flow().then(paged(cursor_source="jira"))))
    run.turn("sync", run.hold("sync"))
    token = run.hold("sync")
    return lambda: run.close("sync", token)


def claim_of_a_page(world):
    run = world.run(plan_of(flow().then(paged(cursor_source="jira"))))
    return lambda: run.claim("sync")


def set_cursor(world):
    return lambda: world.scripts.set_cursor("f", "jira", "null")


def commit_of_a_compensation(world):
    run = world.run(line_plan("a", "b", undone="succeeded"))
    run.do("a")
    run.break_off("b")
    token = run.hold("undo-a")
    return lambda: run.commit("undo-a", token)


def fail_with_another_attempt(world):
    run = world.run(line_plan("a"))
    token = run.hold("a")
    return lambda: run.fail("a", token, delay_ms=10)


def fail_for_good(world):
    run = world.run(line_plan("a", "b", undone="succeeded"))
    run.do("a")
    token = run.hold("b")
    return lambda: run.fail("b", token)


def start_of_a_child(world):
    run = world.run(plan_of(flow().then(Node("ship", RemoteFlow("c")))))
    token = run.hold("ship")
    options: dict[str, Any] = {
        "number": 1,
        "most_depth": 16,
        "most_bytes": 100,
        "lasts_ms": 0,
        "follows": False,
        "send_plan": True,
    }
    options |= {"message_of": lambda *_: ("", ""), "input_json": b"1", "retention_ms": 1000, "history_limit": 10}
    spawn = partial(world.scripts.children.spawn, run.id, run.plan.hash, "ship", token, chords=True, **options)
    return partial(spawn, child_plan=line_plan("a"))


def wake(world):
    run = world.run(line_plan("a"))
    run.break_off("a", delay_ms=0)
    return lambda: run.wake("a")


def release(world):
    run = world.run(fan_plan(2, shared_rate_limit=LIMITER))
    run.hold("m-0")
    run.claim("m-1")
    world.client.delete(world.keys.bucket("api")[0])
    return lambda: world.scripts.release("api")


def report(world):
    run = world.run(line_plan("a"))
    token = run.hold("a")
    return lambda: run.report("a", token)


def announce(world):
    run = world.run(fan_plan(2))
    return lambda: run.announce(0)


def resume(world):
    run = world.run(line_plan("a"), key="k")
    run.break_off("a")
    return run.resume


def look(world):
    run = world.run(line_plan("a"))
    return run.look


def abandon(world):
    run = world.run(line_plan("a"))
    return lambda: world.scripts.abandon(run.id, run.plan.hash, ["a"], verdict="failed", failure=FAILURE, is_last=False)


def restore_plan(world):
    plan = line_plan("a")
    return lambda: world.scripts.restore_plan(plan)


def republish(world):
    run = world.run(fan_plan(2))
    run.age("m-0", 5000)
    return lambda: run.republish("m-0")


def fork(world):
    run = world.run(line_plan("a", "b"))
    run.do("a")
    run.break_off("b")
    made = Fork(world, run.plan, world.store.run(run.id), "b")
    copied = made.take_over()
    return lambda: made.begin(copied)


def copy_for_a_fork(world):
    run = world.run(line_plan("a"))
    run.do("a")
    source = world.store.run(run.id)
    copied = {"records": {"a": "{}"}, "given": {}, "keys": ["a"], "failures": []}
    return lambda: world.scripts.forking.take_over(new_token(), source, lasts_ms=1000, **copied)


def copy_items_for_a_fork(world):
    run = mapped_run(world, 2)
    run.commit("item[0]", run.hold("item"))
    source, parts = world.store.run(run.id), {"node": "item", "first": 0, "count": 1, "kind": "items"}
    return lambda: world.scripts.forking.take_parts(new_token(), source, lasts_ms=1000, **parts)


def tick(world):
    world.scripts.sweep_tick(lease_ms=LEASE_MS)
    return lambda: world.scripts.sweep_tick(lease_ms=LEASE_MS)


def first_tick(world):
    return lambda: world.scripts.sweep_tick(lease_ms=LEASE_MS)


def publish_plan(world):
    world.publish(line_plan("a"))
    plan = line_plan("b", shared_rate_limit=LIMITER)
    return lambda: world.publish(plan)


@pytest.mark.parametrize(
    "prepare",
    [
        start, start_with_a_known_plan, tick_of_a_schedule, claim, claim_that_takes_a_token, claim_that_joins_a_line,
        claim_to_be_admitted, admission, admission_that_joins_a_line, admission_to_an_ending_run,
        token_for_a_call, claim_that_takes_a_slot, refusal_by_the_other_side,
        commit, commit_that_ends_the_run, commit_with_a_message, commits_that_are_sent_together,
        onward_to_the_next_node, onward_to_the_next_item, commit_of_a_decision, commit_of_a_compensation,
        fail_with_another_attempt, fail_for_good, start_of_a_child, wake, release, report, announce, resume, look,
        republish, tick, fork, copy_for_a_fork, copy_items_for_a_fork,
        abandon, restore_plan, first_tick, publish_plan, turn, commit_of_the_last_page, claim_of_a_page, set_cursor,
    ],
    ids=lambda prepare: prepare.__name__,
)  # fmt: skip
def test_what_can_wait_is_refused_as_a_whole_and_works_later(small, prepare):
    call = prepare(small)
    fill(small)
    with small.unchanged(), pytest.raises(redis.OutOfMemoryError):
        call()
    free(small)
    call()


def lose_again(world):
    run = world.run(fan_plan(2))
    token = run.hold("m-0")

    def check(moved):
        assert (moved.outcome, run.node("m-0")["state"], world.claims()) == ("again", "ready", [])

    return lambda: run.lose("m-0", token), check


def lose_the_last_attempt(world):
    run = world.run(line_plan("a", "b", undone="succeeded", attempts=1))
    run.do("a")
    token = run.hold("b")

    def check(moved):
        assert (moved.outcome, moved.work.names, run.status) == ("ended", ("undo-a",), "compensating")

    return lambda: run.lose("b", token), check


def lose_past_the_deadline(world):
    run = world.run(line_plan("a"))
    token = run.hold("a")

    def check(moved):
        assert (moved.outcome, world.members(world.keys.timers)) == ("parked", [f"{run.id}|a"])

    return lambda: run.lose("a", token, timed_out=True, delay_ms=1000), check


def renew(world):
    run = world.run(line_plan("a"))
    run.hold("a", lease_ms=0)

    def check(_):
        assert all(world.client.zscore(world.keys.holders, name) > world.store.now_ms() for name in ("worker/1", "new"))

    return lambda: world.scripts.renew(["new", "worker/1"], lease_ms=LEASE_MS), check


def forget_holder(world):
    run = world.run(line_plan("a"))
    run.do("a")

    def check(is_forgotten):
        assert (is_forgotten, world.members(world.keys.holders)) == (True, [])

    return lambda: world.scripts.forget_holder("worker/1", only_late=False), check


def cancel_a_quiet_run(world):
    run = world.run(line_plan("a", "b", undone="succeeded"))
    run.do("a")

    def check(moved):
        assert (moved.outcome, moved.work.names, run.states()["b"]) == ("ending", ("undo-a",), "skipped")

    return run.cancel, check


def cancel_a_run_that_runs(world):
    run = world.run(line_plan("a"))
    run.hold("a")

    def check(moved):
        assert (moved.outcome, run.status) == ("ending", "compensating")

    return run.cancel, check


def a_portion_of_a_cancel(world):
    world.use_small_portions()
    run = world.run(line_plan("a", "b", "c", "d", undone="succeeded"))
    for name in "abc":
        run.do(name)
    first = run.cancel()

    def check(moved):
        assert (first.work.kind, moved.work.kind, run.status) == ("more", "more", "compensating")
        assert list(run.states().values()).count("compensating") == 2

    return run.go_on, check


def due(world):
    run = world.run(line_plan("a"))
    run.break_off("a", delay_ms=0)

    def check(answer):
        assert answer[1] == [f"{run.id}|a"]

    return lambda: world.scripts.due_timers(at_most_ms=100, count=10), check


def start_of_a_run_that_exists(world):
    plan = line_plan("a")
    world.run(plan, key="k")

    def check(started):
        assert started.outcome == "exists"

    return lambda: world.start(plan, key="k"), check


@pytest.mark.parametrize(
    "prepare",
    [
        lose_again, lose_the_last_attempt, lose_past_the_deadline, renew, forget_holder, cancel_a_quiet_run,
        cancel_a_run_that_runs, a_portion_of_a_cancel, due, start_of_a_run_that_exists,
    ],
    ids=lambda prepare: prepare.__name__,
)  # fmt: skip
def test_what_frees_or_must_not_wait_passes_as_a_whole(small, prepare):
    call, check = prepare(small)
    fill(small)
    check(call())


def test_a_script_the_server_does_not_know_yet_is_refused_as_a_whole_too(small):
    run = small.run(line_plan("a"))
    small.client.script_flush()
    fill(small)
    with small.unchanged(), pytest.raises(redis.OutOfMemoryError):
        run.claim("a")
    fresh = Scripts(small.client, small.keys)
    assert fresh.forget_holder("nobody", only_late=True)
    with small.unchanged(), pytest.raises(redis.OutOfMemoryError):
        fresh.claim(run.id, run.plan, Claim("a", new_token()), epoch=1, holder="h", lease_ms=1)
