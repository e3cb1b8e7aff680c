"""Tokens for the calls of a running attempt, in take_token.lua: before the line, within the rate and in no freeze."""

from __future__ import annotations

from datetime import timedelta

from orchestrator import SharedRateLimiter
from orchestrator.execution.attempt_handle import AttemptHandle
from orchestrator.store.keys import bucket_of
from tests.integration.test_scripts_limits import freeze, member, tat, thaw
from tests.scripts_world import FAILURE, fan_plan, flow, new_token, node, plan_of

API = SharedRateLimiter("api", 2, per=timedelta(minutes=1))


def run_of(world, members=4, **options):
    """A run whose fan takes no token by itself, while its last node makes the limiter known."""
    fan = [node(f"m-{number}", **options) for number in range(members)]
    return world.run(plan_of(flow().then_parallel("fan", *fan).then(node("last", shared_rate_limit=API))))


def take(run, name, token, bucket="api"):
    return run.scripts.take_token(run.id, run.plan.hash, name, token, bucket)


def refuse(run, name, token):
    return run.scripts.fail(
        run.id, run.plan.hash, name, token, failure=FAILURE, delay_ms=60_000, follows=False, max_throttle_ms=10**6
    ).outcome


def test_each_call_takes_a_token_and_waits_when_there_is_none(world):
    run = run_of(world)
    token = run.hold("m-0")
    assert [take(run, "m-0", token)[0] for _ in range(3)] == ["taken", "taken", "wait"]
    outcome, wait = take(run, "m-0", token)
    assert outcome == "wait"
    assert 29_000_000 < wait <= 30_000_000


def test_newer_code_takes_tokens_of_a_limiter_that_the_run_s_plan_does_not_know(world):
    run = world.run(plan_of(flow().then(node("a")).then(node("b"))))
    code = plan_of(flow().then(node("a", shared_rate_limit=API)).then(node("b")))
    token = run.hold("a")
    handle = AttemptHandle(world.store, run.plan, code, run.id, "a", token)
    for _ in range(2):
        handle.take("api", None)
    assert take(run, "a", token)[0] == "wait"
    run.commit("a", token)
    run.do("b")
    assert run.status == "succeeded"


def test_only_who_holds_the_node_gets_one(world):
    run = run_of(world)
    token = run.hold("m-0")
    with world.unchanged():
        assert take(run, "m-0", new_token()) == ("fenced", 0)
        assert take(run, "m-1", token) == ("fenced", 0)
        assert run.scripts.take_token("0" * 32, run.plan.hash, "m-0", token, "api") == ("unknown", 0)
        assert take(run, "m-0", token, "no-such") == ("no limit", 0)


def test_who_asks_is_served_before_the_line_and_only_while_it_asks(world):
    run = world.run(fan_plan(4, shared_rate_limit=API))
    asker = run.hold("m-0")
    run.hold("m-1")
    run.claim("m-2")
    assert take(run, "m-0", asker)[0] == "wait"
    world.client.set(world.keys.bucket("api")[0], world.store.now_ms() * 1000 + 30_000_000)  # one token is there
    assert world.scripts.release("api")[1] == [], "it is for who asks"
    assert take(run, "m-0", asker)[0] == "taken"
    world.client.set(world.keys.bucket("api")[0], world.store.now_ms() * 1000 + 30_000_000)
    assert world.scripts.release("api")[1] == [member(run, "m-2")]


def test_a_freeze_stops_them_too_and_theirs_freezes_the_bucket(world):
    run = run_of(world)
    token, other = run.hold("m-0"), run.hold("m-1")
    freeze(world)
    assert take(run, "m-0", token)[0] == "wait"
    thaw(world)
    assert take(run, "m-0", token)[0] == "taken"
    assert refuse(run, "m-0", token) == "parked"
    assert world.line("api") == [member(run, "m-0")], "it waits with everybody who needs the bucket"
    assert take(run, "m-1", other)[0] == "wait"
    world.client.delete(*[world.keys.bucket("api")[index] for index in (0, 3)])
    world.scripts.release("api")
    run.wake("m-0")
    before = tat(world)
    run.hold("m-0")
    assert tat(world) == before, "its start takes no token"
    assert world.released("api") == world.line("api") == []


def test_a_key_of_its_own_is_a_bucket_of_its_own(world):
    keyed = SharedRateLimiter("tenant", 1, per=timedelta(minutes=1), key=str)
    run = world.run(fan_plan(2, shared_rate_limit=keyed))
    red, blue = bucket_of("tenant", "red"), bucket_of("tenant", "blue")
    token = run.claim_to_admit("m-0")
    assert take(run, "m-0", token, red) == ("fenced", 0), "it has not started"
    run.admit("m-0", token, red)
    assert [take(run, "m-0", token, bucket)[0] for bucket in (red, blue, blue)] == ["wait", "taken", "wait"]
    run.cancel()
    run.commit("m-0", token)
    assert run.status == "cancelled"
