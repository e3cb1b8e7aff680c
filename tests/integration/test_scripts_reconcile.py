"""look, republish, tick, renew and forget_holder: what the reconciler sees, repeats, and may end."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

from orchestrator import SharedRateLimiter
from orchestrator.store.scripts.results import Look, Seen
from tests.harness import wait_until
from tests.scripts_world import HOLDER, LEASE_MS, at_once, fan_plan, line_plan


def lease_of(world, holder=HOLDER):
    return world.client.zscore(world.keys.holders, holder)


def test_a_look_names_what_nobody_claimed_for_a_second(world):
    run = world.run(fan_plan(3))
    run.hold("m-0")
    assert run.look() == []
    run.age("m-1", 1000)
    assert run.look() == run.look() == [Seen("ready", "m-1", str(run.node("m-1")["since"]))]


def test_a_second_passes_by_the_servers_clock(world):
    run = world.run(line_plan("a"))
    seen = wait_until(run.look, "the message counts as lost")
    assert seen == [Seen("ready", "a", str(run.node("a")["since"]))]
    assert world.store.now_ms() - run.node("a")["since"] >= 1000


def test_a_look_moves_only_the_next_look(world):
    run = world.run(line_plan("a"))
    with world.unchanged(but=[world.keys.live]):
        run.look()
    assert world.client.zscore(world.keys.live, run.id) > world.store.now_ms()


def test_a_run_that_waits_is_looked_at_ever_more_seldom(world):
    run = world.run(line_plan("a"))
    run.break_off("a", delay_ms=60_000_000)
    waits = []
    for _ in range(12):
        assert run.look() == []
        waits.append(world.client.zscore(world.keys.live, run.id) - world.store.now_ms())
    expected = [2000, 4000, 8000, 16_000, 32_000, 64_000, 128_000, 256_000, 512_000, 600_000, 600_000, 600_000]
    assert all(longest - 1900 < wait <= longest + 1 for wait, longest in zip(waits, expected, strict=True)), waits


def test_a_look_at_an_ended_run_does_not_make_it_live(world):
    run = world.run(line_plan("a"))
    run.do("a")
    with world.unchanged():
        assert run.look() == []


def test_a_look_at_a_run_that_is_gone_takes_it_off_the_list(world):
    run = world.run(line_plan("a"))
    world.client.zadd(world.keys.live, {"gone": 1})
    assert world.scripts.inspect_run("gone", run.plan.hash) == Look("unknown")
    assert world.members(world.keys.live) == [run.id]


def test_a_claim_without_a_holder_is_an_orphan(world):
    run = world.run(line_plan("a"))
    token = run.hold("a")
    assert run.look() == []
    world.client.zrem(world.keys.holders, HOLDER)
    assert run.look() == run.look() == [Seen("orphan", "a", token)]


def test_a_parked_node_without_a_timer_gets_one(world):
    run = world.run(line_plan("a"))
    run.break_off("a", delay_ms=60_000)
    world.client.delete(world.keys.timers)
    assert run.look() == []
    assert world.client.zscore(world.keys.timers, f"{run.id}|a") == run.node("a")["due"]


def test_who_was_let_go_and_not_woken_is_seen(world):
    run = world.run(fan_plan(2, shared_rate_limit=SharedRateLimiter("api", 1, per=timedelta(minutes=1))))
    run.hold("m-0")
    run.claim("m-1")
    assert run.look() == []
    world.client.delete(world.keys.bucket("api")[0])
    world.scripts.release("api")  # and the reconciler dies
    assert run.look() == [Seen("awake", "m-1", "api")]
    assert run.wake("m-1").outcome == "ready"


def test_in_a_saga_only_the_next_compensation_is_looked_at(world):
    run = world.run(line_plan("a", "b", "c", undone="succeeded"))
    run.do("a")
    run.do("b")
    run.break_off("c")
    run.age("undo-b", 1000)
    assert [(seen.kind, seen.node) for seen in run.look()] == [("ready", "undo-b")]
    assert run.republish("undo-b").work.names == ("undo-b",)


def test_what_is_published_again_says_since_when_it_is_in_its_queue(world):
    run = world.run(fan_plan(3))
    run.age("m-0", 3000)
    run.age("m-1", 5000)
    moved = run.republish("m-0", "m-1")
    assert (moved.outcome, moved.work.kind, moved.work.names) == ("again", "nodes", ("m-0", "m-1"))
    assert moved.work.since == run.node("m-1")["sent"] > run.node("m-1")["since"]
    assert (run.field("detached"), run.count("republished", "m-0 m-1")) == ("1", 1)


def test_the_back_off_of_a_node_doubles_up_to_a_minute(world):
    run = world.run(line_plan("a"))
    waits = []
    for _ in range(8):
        run.age("a", 100_000)
        assert run.republish("a").work.names == ("a",)
        with world.unchanged():
            assert run.republish("a").outcome == "nothing"
        assert run.look() == []
        waits.append(run.node("a")["again"] - world.store.now_ms())
    expected = [2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000]
    assert all(0 <= longest - wait < 2000 for wait, longest in zip(waits, expected, strict=True))
    run.lose("a", run.hold("a"))
    assert "again" not in run.node("a"), "an attempt begins anew"


def test_only_what_is_ready_is_published_again(world):
    run = world.run(fan_plan(4))
    run.hold("m-0")
    run.do("m-1")
    run.break_off("m-2", delay_ms=60_000)
    run.age("m-3", 5000)
    with world.unchanged():
        assert run.republish("m-0", "m-1", "m-2", "no-such-node").outcome == "nothing"
        assert run.republish("m-3", epoch=7).outcome == "nothing"
    assert run.republish("m-0", "m-1", "m-2", "m-3").work.names == ("m-3",)


def test_a_hundred_looks_see_the_same(world):
    run = world.run(fan_plan(3))
    run.age("m-0", 5000)
    for younger in ("m-1", "m-2"):  # they would come to be looked at, too, while a busy machine gets through a hundred
        run.age(younger, -60_000)
    answers = at_once(lambda _: run.look())
    assert all(answer == answers[0] for answer in answers)
    assert [seen.node for seen in answers[0]] == ["m-0"]


def test_a_hundred_repetitions_are_one(world):
    run = world.run(fan_plan(3))
    run.age("m-0", 5000)
    run.age("m-1", 5000)
    answers = at_once(lambda _: run.republish("m-0", "m-1"))
    assert Counter(answer.outcome for answer in answers) == {"again": 1, "nothing": 99}
    assert run.node("m-0")["looks"] == 1


def test_the_first_sweep_may_end_leases(world):
    tick = world.scripts.sweep_tick(lease_ms=LEASE_MS)
    assert abs(tick.now - world.store.now_ms()) < 10_000
    assert (tick.may_end, tick.went_back, tick.has_lost_index) == (True, False, False)
    assert sorted(world.names()) == [world.keys.sweep, world.keys.sweep_mark("none")]
    assert world.scripts.sweep_tick(lease_ms=LEASE_MS).may_end


def test_after_a_gap_no_lease_is_ended_for_one_lease(world):
    world.client.hset(world.keys.sweep, "last", world.store.now_ms() - LEASE_MS)
    assert world.scripts.sweep_tick(lease_ms=LEASE_MS).may_end is False
    assert world.scripts.sweep_tick(lease_ms=LEASE_MS).may_end is False, "nor by the sweeps that follow"
    world.client.hset(world.keys.sweep, "calm", world.store.now_ms())
    assert world.scripts.sweep_tick(lease_ms=LEASE_MS).may_end is True


def test_a_clock_that_went_back_is_told(world):
    world.client.hset(world.keys.sweep, "last", world.store.now_ms() + 60_000)
    assert world.scripts.sweep_tick(lease_ms=LEASE_MS).went_back
    assert not world.scripts.sweep_tick(lease_ms=LEASE_MS).went_back


def test_a_sweep_leaves_a_mark_that_goes_back_with_the_state(world):
    first = world.scripts.sweep_tick(lease_ms=LEASE_MS, worker="w", number=1)
    copy = world.client.dump(world.keys.sweep_mark("w"))
    run = world.run(line_plan("a"))
    second = world.scripts.sweep_tick(lease_ms=LEASE_MS, worker="w", number=2)
    assert (first.before, second.before) == (None, first.mark)
    assert (second.mark.number, second.mark.at) == (2, second.now)
    assert second.mark.events == max(first.mark.events, 0) + 1, "the start of the run"
    assert world.store.upkeep.sweep_mark("w") == second.mark
    world.client.restore(world.keys.sweep_mark("w"), 0, copy, replace=True)
    third = world.scripts.sweep_tick(lease_ms=LEASE_MS, worker="w", number=3)
    assert third.before == first.mark
    assert run.status == "pending"


def test_a_hundred_sweeps_after_a_gap_all_stay_calm(world):
    world.client.hset(world.keys.sweep, "last", world.store.now_ms() - LEASE_MS)
    assert {tick.may_end for tick in at_once(lambda _: world.scripts.sweep_tick(lease_ms=LEASE_MS))} == {False}


def test_leases_are_renewed_and_claims_kept(world):
    run = world.run(line_plan("a"))
    run.hold("a", lease_ms=1)
    before = lease_of(world)
    world.scripts.renew([HOLDER, "worker/2"], lease_ms=LEASE_MS)
    assert lease_of(world) >= before + LEASE_MS - 1
    assert lease_of(world, "worker/2") > world.store.now_ms()
    assert world.claims() == [(run.id, "a")]
    assert 80_000_000 < world.client.pttl(world.keys.holder(HOLDER)) <= 86_400_000
    world.scripts.renew([], lease_ms=LEASE_MS)


def test_a_holder_with_claims_or_a_lease_is_not_forgotten(world):
    run = world.run(line_plan("a"))
    token = run.hold("a")
    with world.unchanged():
        assert not world.scripts.forget_holder(HOLDER, only_late=False)
        assert not world.scripts.forget_holder(HOLDER, only_late=True)
    run.commit("a", token)
    with world.unchanged():
        assert not world.scripts.forget_holder(HOLDER, only_late=True), "its lease goes on"
    assert world.scripts.forget_holder(HOLDER, only_late=False)
    assert world.members(world.keys.holders) == []
    with world.unchanged():
        assert world.scripts.forget_holder(HOLDER, only_late=False)
        assert world.scripts.forget_holder("nobody", only_late=True)


def test_a_holder_whose_lease_has_ended_is_forgotten(world):
    world.client.zadd(world.keys.holders, {HOLDER: world.store.now_ms() - 1})
    assert world.scripts.forget_holder(HOLDER, only_late=True)
    assert world.names() == []


def test_until_it_is_forgotten_an_old_holder_renews_and_commits(world):
    run = world.run(line_plan("a"))
    token = run.hold("a", lease_ms=0)
    assert lease_of(world) <= world.store.now_ms()
    world.scripts.renew([HOLDER], lease_ms=LEASE_MS)
    assert not world.scripts.forget_holder(HOLDER, only_late=True)
    assert run.commit("a", token).outcome == "stored"


def test_a_hundred_renewals_are_one_lease_each(world):
    at_once(lambda n: world.scripts.renew([f"worker/{n % 10}"], lease_ms=LEASE_MS))
    assert sorted(world.members(world.keys.holders)) == sorted(f"worker/{n}" for n in range(10))


def test_a_holder_forgotten_a_hundred_times_while_it_claims_keeps_its_claims(world):
    run = world.run(fan_plan(50))
    at_once(
        lambda n: run.claim(f"m-{n // 2}") if n % 2 else world.scripts.forget_holder(HOLDER, only_late=False),
    )
    assert len(world.claims()) == 50
    assert world.members(world.keys.holders) == [HOLDER]
    assert run.look() == []
