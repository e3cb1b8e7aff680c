"""Limits by key, in claim.lua and admit.lua: each key has its own bucket, and an attempt takes all tokens or none."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest

from orchestrator import SharedRateLimiter
from orchestrator.definition.registry import Registry
from orchestrator.errors import RegistrationError
from orchestrator.store.keys import bucket_of
from tests.integration.test_scripts_limits import freeze, member, tat, thaw, within_bound
from tests.scripts_world import FAILURE, at_once, fan_plan, flow, mapped_run, new_token, node, plan_of

MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
HOUR_MS = 3_600_000
RED, BLUE = bucket_of("tenant", "red"), bucket_of("tenant", "blue")


def tenant(count=1, per=MINUTE, *, burst=None, name="tenant"):
    return SharedRateLimiter(name, count, per=per, burst=burst, key=str)


WHOLE = SharedRateLimiter("whole", 100, per=MINUTE)


def fan(members, *limiters, **options):
    return fan_plan(members, shared_rate_limit=limiters, **options)


def enter(run, name, *buckets, **options):
    """Claim a node and ask for its admission; returns its token and the answer."""
    token = new_token()
    claimed = run.claim(name, token)
    assert claimed.outcome == "admit", claimed
    return token, run.admit(name, token, *buckets, **options)


def start(run, name, *buckets):
    token, admitted = enter(run, name, *buckets)
    assert admitted.outcome == "run", admitted
    return token


def throttle(run, name, token):
    return run.scripts.fail(
        run.id, run.plan.hash, name, token, failure=FAILURE, delay_ms=HOUR_MS, follows=False, max_throttle_ms=HOUR_MS
    ).outcome


def test_a_bucket_of_a_key_tells_nothing_of_the_key():
    assert bucket_of("api", "a:b|c") == bucket_of("api", "a:b|c") != bucket_of("api", "other")
    assert len(bucket_of("api", "\ud800" * 1000)) == len("api#") + 32


def test_one_registry_refuses_a_name_with_keys_and_without():
    registry = Registry("celery")
    registry.add(flow("f").then(node("a", shared_rate_limit=tenant())).build())
    registry.add(flow("g").then(node("a", shared_rate_limit=tenant())).build())
    plain = SharedRateLimiter("tenant", 1, per=MINUTE)
    with pytest.raises(RegistrationError, match="limiter tenant has a key function in one of the flows h and f"):
        registry.add(flow("h").then(node("a", shared_rate_limit=plain)).build())


def test_each_key_has_its_own_bucket_and_the_definition_one_row(world):
    run = world.run(fan(4, tenant()))
    start(run, "m-0", RED)
    start(run, "m-1", BLUE)
    assert enter(run, "m-2", RED)[1].outcome == "parked"
    assert world.line(RED) == [member(run, "m-2")]
    assert world.line(BLUE) == []
    assert world.client.hkeys(world.keys.limits) == [b"tenant"]
    record = run.node("m-2")
    assert (record["state"], record["bucket"], record["attempt"]) == ("parked", RED, 0)
    assert (run.field("running"), run.field("detached"), run.count("waiting", "m-2")) == ("2", "1", 1)
    assert world.client.pttl(world.keys.bucket(RED)[0]) > 0, "a key's bucket goes away by itself"


def test_what_was_claimed_is_not_started_before_it_is_admitted(world):
    run = world.run(fan(2, tenant()))
    token = new_token()
    assert run.claim("m-0", token).outcome == run.claim("m-0", token).outcome == "admit"
    assert run.count("started", "m-0") == 0
    assert tat(world, RED) is None
    assert run.admit("m-0", token, RED).outcome == "run"
    assert run.count("started", "m-0") == 1


def test_a_repeat_takes_no_second_token_and_answers_the_same(world):
    run = world.run(fan(2, tenant(2)))
    token = start(run, "m-0", RED)
    with world.unchanged():
        assert run.admit("m-0", token, RED).outcome == "run"
        assert run.claim("m-0", token).outcome == "run"
    freeze(world, RED)
    token, admitted = enter(run, "m-1", RED)
    assert admitted.outcome == "parked"
    with world.unchanged():
        assert run.admit("m-1", token, RED).outcome == "parked"
        assert run.admit("m-1", new_token(), RED).outcome == "fenced"
    assert run.scripts.admit("0" * 32, run.plan.hash, "m-1", token, buckets=[RED]).outcome == "unknown"


def test_all_limits_give_a_token_or_none_does(world):
    run = world.run(fan(3, tenant(), WHOLE))
    start(run, "m-0", RED, "whole")
    before = tat(world, "whole")
    assert enter(run, "m-1", RED, "whole")[1].outcome == "parked"
    assert tat(world, "whole") == before
    assert (world.line(RED), world.line("whole")) == ([member(run, "m-1")], [])
    start(run, "m-2", BLUE, "whole")
    assert tat(world, "whole") > before


def test_a_token_that_comes_soon_is_slept_for_and_the_claim_kept(world):
    run = world.run(fan(2, tenant(10, SECOND, burst=1)))
    start(run, "m-0", RED)
    token, asleep = enter(run, "m-1", RED, may_sleep=True)
    assert asleep.outcome == "sleep"
    assert 0 < asleep.sleep <= 100_000
    assert run.node("m-1")["token"] == token


def test_who_was_let_go_starts_with_the_attempt_it_had(world):
    run = world.run(fan(3, tenant(), attempts=1))
    start(run, "m-0", RED)
    enter(run, "m-1", RED)
    enter(run, "m-2", RED)
    assert run.claim("m-1").outcome == "not ready"
    world.client.delete(world.keys.bucket(RED)[0])
    assert world.scripts.release(RED)[1] == [member(run, "m-1")]
    assert run.wake("m-1").outcome == "ready"
    token = new_token()
    assert run.claim("m-1", token).attempt == 1
    assert run.admit("m-1", token, RED).outcome == "run"
    assert world.released(RED) == []


def test_a_claim_lost_before_its_admission_is_an_attempt(world):
    run = world.run(fan(1, tenant(), attempts=2))
    run.lose("m-0", run.claim_to_admit("m-0"))
    assert run.node("m-0")["attempt"] == 1
    assert run.lose("m-0", run.claim_to_admit("m-0")).outcome == "ended"
    assert run.node("m-0")["state"] == "unknown"


def test_a_key_that_fails_after_a_release_leaves_no_mark(world):
    run = world.run(fan(2, tenant()))
    start_token = start(run, "m-0", RED)
    enter(run, "m-1", RED)
    world.client.delete(world.keys.bucket(RED)[0])
    world.scripts.release(RED)
    run.wake("m-1")
    run.fail("m-1", run.claim_to_admit("m-1"))
    assert world.released(RED) == []
    run.commit("m-0", start_token)
    assert run.status == "failed"


def test_a_key_that_changes_leaves_no_mark_in_the_other_bucket(world):
    run = world.run(fan(3, tenant()))
    start(run, "m-0", RED)
    enter(run, "m-1", RED)
    world.client.delete(world.keys.bucket(RED)[0])
    world.scripts.release(RED)
    run.wake("m-1")
    start(run, "m-1", BLUE)
    assert world.released(RED) == []


def test_no_attempt_is_admitted_in_an_ending_run(world):
    run = world.run(fan(2, tenant(), undone="started"))
    held, token = start(run, "m-0", RED), run.claim_to_admit("m-1")
    run.cancel()
    assert run.admit("m-1", token, BLUE).outcome == "ending"
    assert (run.node("m-1")["state"], run.field("running")) == ("skipped", "1")
    moved = run.commit("m-0", held)
    assert moved.work.names == ("undo-m-0",)
    run.do("undo-m-0")
    assert run.status == "cancelled"


def test_the_last_one_that_is_not_admitted_begins_the_saga(world):
    run = world.run(fan(1, tenant()))
    token = run.claim_to_admit("m-0")
    run.cancel()
    assert run.admit("m-0", token, RED).outcome == "ending"
    assert run.status == "cancelled"
    with world.unchanged():
        assert run.admit("m-0", token, RED).outcome == "ending"


def test_a_cancelled_run_leaves_the_lines_of_its_keys(world):
    plan = fan(3, tenant())
    first, run = world.run(plan), world.run(plan)
    start(first, "m-0", RED)
    for waiting in (first, run):
        enter(waiting, "m-1", RED)
    world.client.delete(world.keys.bucket(RED)[0])
    world.scripts.release(RED)
    first.wake("m-1")
    first.cancel()
    assert world.released(RED) == []
    assert world.scripts.release(RED)[1] == [member(run, "m-1")]


def test_a_refusal_freezes_the_bucket_of_that_key_alone(world):
    run = world.run(fan(4, tenant(10), WHOLE))
    token = start(run, "m-0", RED, "whole")
    assert throttle(run, "m-0", token) == "parked"
    assert (run.node("m-0")["bucket"], run.node("m-0")["attempt"]) == (RED, 0)
    assert enter(run, "m-1", RED, "whole")[1].outcome == "parked"
    start(run, "m-2", BLUE, "whole")
    assert world.line(RED) == [member(run, "m-0"), member(run, "m-1")]
    thaw(world, RED)


def test_explain_knows_the_place_in_the_line_of_a_key(world):
    run = world.run(fan(3, tenant()))
    start(run, "m-0", RED)
    for name in ("m-1", "m-2"):
        enter(run, name, RED)
    now = world.store.now_ms()
    rank, due = world.store.place_in_queue(RED, run.id, "m-2")
    assert rank == 1
    assert now + 100_000 < due < now + 121_000


def test_numbers_that_are_gone_start_nothing(world):
    run = world.run(fan(1, tenant()))
    world.client.hdel(world.keys.limits, "tenant")
    token, admitted = enter(run, "m-0", RED)
    assert admitted.outcome == "no limit"
    world.store.define_limits(run.plan)
    assert run.admit("m-0", token, RED).outcome == "run"


def test_an_item_of_a_map_that_waits_lets_the_next_one_be_asked_for(world):
    run = mapped_run(world, 4, limiter=tenant(), max_concurrency=3)
    for name, bucket, outcome in (("item[0]", RED, "run"), ("item[1]", RED, "parked"), ("item[2]", BLUE, "run")):
        token = new_token()
        claimed = run.claim("item", token)
        assert (claimed.outcome, claimed.index) == ("admit", int(name[5]))
        admitted = run.admit(name, token, bucket)
        assert admitted.outcome == outcome
        if outcome == "parked":
            assert admitted.work.names == ("item",), "somebody else asks for the next one"
            assert run.admit(name, token, bucket, follows=True).work.names == (), "or the caller does itself"
    world.client.delete(world.keys.bucket(RED)[0])
    assert world.scripts.release(RED)[1] == [member(run, "item[1]")]
    assert run.wake("item[1]").work.names == ("item",)
    assert run.claim("item").index == 1


def test_a_compensation_has_a_key_too(world):
    undo = node("undo", shared_rate_limit=tenant())
    run = world.run(plan_of(flow().then(node("a").on_error(undo)).then(node("b"))))
    run.do("a")
    run.break_off("b")
    freeze(world, RED)
    assert enter(run, "undo", RED)[1].outcome == "parked"
    thaw(world, RED)
    world.scripts.release(RED)
    run.wake("undo")
    run.commit("undo", start(run, "undo", RED))
    assert run.status == "failed"


def test_fifty_keys_at_once_hold_each_on_its_own(world):
    run = world.run(fan(100, tenant(1)))
    keys = [bucket_of("tenant", str(number % 50)) for number in range(100)]
    answers = at_once(lambda number: enter(run, f"m-{number}", keys[number])[1].outcome)
    assert Counter(answers) == {"run": 50, "parked": 50}
    assert {key: len(world.line(key)) for key in keys} == dict.fromkeys(keys, 1)
    assert run.field("running") == "50"
    assert world.client.hlen(world.keys.limits) == 1


@pytest.mark.parametrize("burst", [1, 3])
def test_the_bound_holds_for_each_key(world, burst):
    run = world.run(fan(60, tenant(50, SECOND, burst=burst)))
    keys = [RED if number % 2 else BLUE for number in range(60)]
    waiting = [member(run, f"m-{number}") for number in range(60)]
    for _ in range(600):
        for each in waiting:
            number = int(each.split("-")[-1])
            run.wake(f"m-{number}")
            token = new_token()
            if run.claim(f"m-{number}", token).outcome == "admit":
                run.admit(f"m-{number}", token, keys[number])
        _, _, buckets = world.scripts.due_timers(at_most_ms=100, count=500)
        waiting = [each for bucket in buckets for each in world.scripts.release(bucket)[1]]
        if set(run.states().values()) == {"running"}:
            break
    for key in (0, 1):
        starts = [run.node(f"m-{number}")["started"] for number in range(key, 60, 2)]
        assert within_bound(starts, burst=burst, interval_ms=20)
    assert world.line(RED) == world.line(BLUE) == []
