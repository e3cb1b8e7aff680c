"""claim.lua: one holder and one token for a node; what a claim counts, and whom it refuses."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.harness import wait_until
from tests.scripts_world import HOLDER, LEASE_MS, at_once, fan_plan, line_plan, new_token


def test_a_claim_counts_the_attempt_and_opens_a_claim_of_its_holder(world):
    run = world.run(line_plan("a", timeout_ms=90_000), input_json=b"7")
    token = new_token()
    claimed = run.claim("a", token, reads=[":input", "nothing"])
    assert (claimed.outcome, claimed.attempt, claimed.generation, claimed.scheduled) == ("run", 1, 0, None)
    assert claimed.values == (b"7", None)
    record = run.node("a")
    assert record["deadline"] == record["started"] + 90_000
    assert (record["state"], record["token"], record["holder"]) == ("running", token, HOLDER)
    [claim] = world.store.claims(HOLDER)
    assert (claim.run_id, claim.node, claim.token, claim.deadline) == (run.id, "a", token, record["deadline"])
    assert (run.status, run.field("running")) == ("running", "1")
    assert world.members(world.keys.by_status("open")) == [run.id]
    lease = world.client.zscore(world.keys.holders, HOLDER)
    assert lease == record["started"] + LEASE_MS


def test_a_claim_does_not_renew_the_lease_of_its_holder(world):
    run = world.run(fan_plan(2))
    run.hold("m-0")
    before = world.client.zscore(world.keys.holders, HOLDER)
    run.hold("m-1", lease_ms=10 * LEASE_MS)
    assert world.client.zscore(world.keys.holders, HOLDER) == before


def test_the_same_token_gets_the_same_answer_and_nothing_is_written(world):
    run = world.run(line_plan("a"))
    token = new_token()
    first = run.claim("a", token, reads=[":input"])
    with world.unchanged():
        assert run.claim("a", token, reads=[":input"]) == first


def test_who_is_refused_writes_nothing(world):
    run = world.run(line_plan("a", "b"))
    with world.unchanged():
        assert run.claim("b").outcome == "not ready"
        assert run.claim("a", epoch=0).outcome == run.claim("a", epoch=2).outcome == "old"
    token = run.hold("a")
    with world.unchanged():
        assert run.claim("a").outcome == "held"
    run.commit("a", token)
    with world.unchanged():
        assert run.claim("a").outcome == run.claim("a", token).outcome == "done"


def test_a_parked_node_is_not_ready_until_it_is_due(world):
    run = world.run(line_plan("a"))
    run.break_off("a", delay_ms=60_000)
    with world.unchanged():
        assert run.claim("a").outcome == "not ready"


def test_a_parked_node_that_is_due_can_be_claimed_before_its_timer_fired(world):
    run = world.run(line_plan("a"))
    run.break_off("a", delay_ms=20)
    wait_until(lambda: run.claim("a", "again").outcome == "run", "the delay is over")
    assert run.node("a")["attempt"] == 2
    assert world.members(world.keys.timers) == []
    assert run.wake("a").outcome == "asleep"


def test_no_node_starts_after_the_verdict(world):
    run = world.run(fan_plan(3, attempts=1))
    run.hold("m-0")
    run.break_off("m-1")
    with world.unchanged():
        assert run.claim("m-2").outcome == "done", "it was skipped"
    run = world.run(line_plan("a"))
    token = run.hold("a")
    run.cancel()
    run.lose("a", token)
    assert run.claim("a").outcome == "done"


def test_a_hundred_claims_of_one_node_are_one_run(world):
    run = world.run(line_plan("a"))
    answers = at_once(lambda n: run.claim("a", f"token-{n}", holder=f"worker/{n}"))
    assert Counter(answer.outcome for answer in answers) == {"run": 1, "held": 99}
    winner = next(n for n, answer in enumerate(answers) if answer.outcome == "run")
    assert run.node("a")["token"] == f"token-{winner}"
    assert (run.node("a")["attempt"], run.field("running"), run.count("started", "a")) == (1, "1", 1)
    assert world.members(world.keys.holders) == [f"worker/{winner}"]


def test_a_hundred_claims_with_one_token_are_one_attempt(world):
    run = world.run(line_plan("a"))
    answers = at_once(lambda _: run.claim("a", "one"))
    assert set(answers) == {answers[0]}
    assert (answers[0].outcome, run.node("a")["attempt"], run.field("running")) == ("run", 1, "1")


@pytest.mark.parametrize("name", ["0", "1e5", "a-b", "a--z_", "nan", "none", "f" * 95])
def test_any_name_a_node_may_have_is_only_a_name(world, name):
    run = world.run(line_plan(name, "then-this", undone="succeeded"))
    run.do(name)
    run.break_off("then-this")
    run.do(f"undo-{name}")
    assert (run.status, run.node(name)["state"]) == ("failed", "compensated")
