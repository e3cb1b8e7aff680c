"""RetryLater(freeze=True): the bucket stands still for all, the attempt is given back, the place in line is kept."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import pytest

from orchestrator import SharedRateLimiter
from orchestrator.errors import NodeFailure
from tests.harness import WorkerProcess, environment_for, load_program, wait_until
from tests.integration.test_scripts_limits import has_started
from tests.scripts_world import FAILURE, fan_plan, line_plan

HOUR_MS = 3_600_000
API = SharedRateLimiter("api", 100, per=timedelta(seconds=1))
OTHER = SharedRateLimiter("other", 100, per=timedelta(seconds=1))


def throttle(run, name, token, *, delay_ms=HOUR_MS, most_ms=24 * HOUR_MS):
    return run.scripts.fail(
        run.id, run.plan.hash, name, token, failure=FAILURE, delay_ms=delay_ms, follows=False, max_throttle_ms=most_ms
    ).outcome


def frozen_until(world, bucket):
    return int(world.client.get(world.keys.bucket(bucket)[3]) or 0) // 1000


def let_pass(world, bucket):
    """As if the freeze were over for long enough to fill the bucket."""
    tat, _, _, frozen = world.keys.bucket(bucket)
    world.client.delete(tat, frozen)


# --- the script --------------------------------------------------------------------------------------
def test_it_freezes_every_bucket_of_the_node_and_gives_the_attempt_back(world):
    run = world.run(fan_plan(3, shared_rate_limit=[API, OTHER], attempts=1))
    token = run.hold("m-1")
    assert throttle(run, "m-1", token) == "parked"
    now = world.store.now_ms()
    for bucket in ("api", "other"):
        assert now + HOUR_MS - 60_000 < frozen_until(world, bucket) <= now + HOUR_MS
    assert (run.node("m-1")["attempt"], run.node("m-1")["throttled"]) == (0, HOUR_MS)
    assert run.claim("m-0").outcome == "parked", "the bucket is frozen for everybody"
    assert world.line("api") == [f"{run.id}|m-1", f"{run.id}|m-0"], "who came first stays first"
    assert run.events().count(("throttled", "m-1")) == 1
    with world.unchanged():
        assert throttle(run, "m-1", token) == "parked", "a repeat has no second effect"


def test_a_shorter_word_does_not_thaw_what_a_longer_one_froze(world):
    run = world.run(fan_plan(2, shared_rate_limit=API))
    first, second = run.hold("m-0"), run.hold("m-1")
    throttle(run, "m-0", first)
    until = frozen_until(world, "api")
    throttle(run, "m-1", second, delay_ms=1000)
    assert frozen_until(world, "api") == until


def test_after_the_freeze_it_is_let_go_in_order_and_has_its_first_attempt_again(world):
    run = world.run(fan_plan(2, shared_rate_limit=API, attempts=1))
    throttle(run, "m-1", run.hold("m-1"))
    assert run.claim("m-0").outcome == "parked"
    assert world.scripts.release("api")[1] == []
    let_pass(world, "api")
    assert world.scripts.release("api")[1] == [f"{run.id}|m-1", f"{run.id}|m-0"]
    assert run.wake("m-1").outcome == "ready"
    assert run.claim("m-1").attempt == 1


def test_after_a_freeze_there_is_one_token_and_then_the_rate(world):
    slow = SharedRateLimiter("slow", 10, per=timedelta(seconds=1), burst=8)
    run = world.run(fan_plan(9, shared_rate_limit=slow))
    assert throttle(run, "m-8", run.hold("m-8"), delay_ms=400) == "parked"
    for number in range(8):
        assert run.claim(f"m-{number}").outcome == "parked"
    until = frozen_until(world, "slow")

    def serve():
        for waiting in world.scripts.release("slow")[1]:
            name = waiting.split("|")[1]
            run.wake(name)
            wait_until(partial(has_started, run, name), "a token")
        return run.field("running") == "9"

    wait_until(serve, "all have started", timeout=30)
    starts = sorted(run.node(f"m-{number}")["started"] for number in range(9))
    assert starts[0] >= until
    assert all(start - until >= 100 * number - 1 for number, start in enumerate(starts)), "no burst after the freeze"


def test_without_a_limit_only_the_node_waits(world):
    run = world.run(line_plan("a", attempts=1))
    assert throttle(run, "a", run.hold("a")) == "parked"
    assert world.members(world.keys.timers) == [f"{run.id}|a"]
    assert run.node("a")["attempt"] == 0


def test_what_is_held_back_for_too_long_in_all_is_refused_and_nothing_written(world):
    run = world.run(line_plan("a"))
    assert throttle(run, "a", run.hold("a"), delay_ms=0, most_ms=HOUR_MS) == "parked"
    assert run.wake("a").outcome == "ready"
    token = run.hold("a")
    with world.unchanged():
        assert throttle(run, "a", token, delay_ms=HOUR_MS + 1, most_ms=HOUR_MS) == "exhausted"
    assert throttle(run, "a", token, delay_ms=0, most_ms=HOUR_MS) == "parked"


def test_held_back_time_adds_up_over_attempts(world):
    run = world.run(fan_plan(2, shared_rate_limit=API))
    assert throttle(run, "m-0", run.hold("m-0"), most_ms=2 * HOUR_MS - 1) == "parked"
    let_pass(world, "api")
    world.scripts.release("api")
    run.wake("m-0")
    assert throttle(run, "m-0", run.hold("m-0"), most_ms=2 * HOUR_MS - 1) == "exhausted"


def test_in_an_ending_run_it_is_a_failure(world):
    run = world.run(fan_plan(2, shared_rate_limit=API))
    token = run.hold("m-0")
    run.cancel()
    assert throttle(run, "m-0", token) == "failed"
    assert run.status == "cancelled"


# --- on a real worker --------------------------------------------------------------------------------
@pytest.fixture
def throttled(server, tmp_path):
    program = load_program("throttled", server.url)
    environment = environment_for(server.url, max_throttle="1")
    worker = WorkerProcess(
        "tests.programs.throttled",
        "throttled",
        tmp_path / "worker.log",
        environment=environment,
        options=["-c", "2", "-Q", "throttled"],
    )
    wait_until(worker.is_up, "worker ready", timeout=60)
    yield program
    worker.stop()


def test_a_refusal_by_the_other_side_costs_no_attempt_and_holds_for_all(throttled, ledger):
    first = throttled.orchestrator.start("refused-once", 0)
    wait_until(lambda: [event for event in first.history() if event.event == "throttled"], "the bucket is frozen")
    runs = [first, *(throttled.orchestrator.start("refused-once", number) for number in (1, 2))]
    assert [run.result(int, timeout=30) for run in runs] == [1, 1, 1], "the attempt is the first one again"
    (refused,) = ledger.times("refused", "api")
    accepted = sorted(ledger.times("accepted", "api"))
    assert len(accepted) == 3
    assert accepted[0] - refused >= throttled.AFTER.total_seconds(), "nobody started while the bucket stood still"


def test_a_node_held_back_for_too_long_fails_as_rate_limited(throttled, ledger):
    run = throttled.orchestrator.start("refused-always")
    assert run.wait(timeout=30) == "failed"
    assert isinstance(run.error, NodeFailure)
    assert run.error.type == "orchestrator.errors.RateLimited"
    assert "max_throttle, 1 s in all" in run.error.message
    assert len(ledger.times("refused", "always")) == 4, "three times 0.3 s are within 1 s, the fourth is not"
