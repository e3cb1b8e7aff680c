"""pause.lua and its half of resume.lua: a held run begins nothing, and exhausted nodes stand until it is resumed."""

from __future__ import annotations

from datetime import timedelta

import pytest

from orchestrator import Node, RetryPolicy
from orchestrator.store.queries import count_all, count_runs
from orchestrator.store.scripts.commit_and_claim import Claim, Commit
from tests.scripts_world import act, flow, line_plan, mapped_run, new_token, plan_of

STANDS = RetryPolicy(initial_interval=timedelta(milliseconds=1), maximum_attempts=1, on_exhausted="pause")


def standing(name, *, undone=False):
    made = Node(name, act, retry=STANDS)
    return made.on_error(Node(f"undo-{name}", act), when="started") if undone else made


def pause(run, reason="closed"):
    return run.scripts.pause(run.id, run.plan.hash, reason=reason)


def test_a_held_run_begins_nothing_and_finishes_what_runs(world):
    run = world.run(line_plan("a", "b"))
    token = run.hold("a")
    assert pause(run) == "paused"
    assert run.status == "paused"
    moved = run.commit("a", token)
    assert (moved.outcome, moved.work.names) == ("stored", ())
    assert run.claim("b").outcome == "paused"
    resumed = run.scripts.resume(run.id, run.plan.hash, token=new_token())
    assert (resumed.outcome, resumed.work.names) == ("continued", ("b",))
    assert run.status == "running"
    run.do("b")
    assert run.status == "succeeded"


def test_a_paused_run_is_counted_until_it_goes_on_or_ends(world):
    resumed, ended, standing = (world.run(line_plan("a")) for _ in range(3))
    pause(resumed)
    pause(ended)
    (of_flow,) = count_runs(world.store, ["f"])
    assert [(each.open, each.paused) for each in (count_all(world.store), of_flow)] == [(3, 2)] * 2
    resumed.scripts.resume(resumed.id, resumed.plan.hash, token=new_token())
    ended.cancel()
    assert (resumed.status, ended.status) == ("running", "cancelled")
    (of_flow,) = count_runs(world.store, ["f"])
    assert [(each.open, each.paused) for each in (count_all(world.store), of_flow)] == [(2, 0)] * 2
    assert standing.status == "pending"


def test_what_a_paused_run_that_is_gone_leaves_in_the_indexes_is_taken_out(world):
    run = world.run(line_plan("a"))
    world.scripts.announce_flow(run.plan, retention_ms=1000)
    pause(run)
    gone = "00000000-0000-0000-0000-000000000000"
    names = (world.keys.by_status("open"), world.keys.by_status("paused"), world.keys.by_flow("f", "paused"))
    for name in names:
        world.client.zadd(name, {gone: 1})
    world.scripts.mend_indexes(at_most=10)
    assert [world.members(name) for name in names] == [[run.id]] * 3


def test_a_second_pause_and_a_second_resume_write_nothing(world):
    run = world.run(line_plan("a", "b"))
    pause(run)
    with world.unchanged():
        assert pause(run, "another reason") == "paused"
    token = new_token()
    run.scripts.resume(run.id, run.plan.hash, token=token)
    with world.unchanged():
        assert run.scripts.resume(run.id, run.plan.hash, token=token).work.names == ()
    assert run.resume().outcome == "not ended"


def test_a_commit_with_a_claim_behind_it_stores_and_does_not_begin(world):
    run = world.run(line_plan("a", "b"))
    token = run.hold("a")
    pause(run)
    moved, claimed = run.scripts.commit_and_claim(
        run.id, run.plan, [Commit("a", token, b"1")], [Claim("b", new_token())],
        epoch=1, holder="worker/1", lease_ms=1000, follows=True, message=("", "", ""),
    )  # fmt: skip
    assert [each.outcome for each in (*moved, *claimed)] == ["stored", "paused"]


def test_a_held_run_is_not_published_by_a_look(world):
    run = world.run(line_plan("a", "b"))
    run.age("a", 60_000)
    assert [seen.kind for seen in run.look()] == ["ready"]
    pause(run)
    assert run.look() == []


@pytest.mark.parametrize("ending", [True, False])
def test_it_is_too_late_for_a_run_that_ends_or_has_ended(world, ending):
    run = world.run(line_plan("a", "b"))
    if ending:
        run.hold("a")
    run.cancel()
    with world.unchanged():
        assert pause(run) == "too late"


def test_a_held_run_is_cancelled(world):
    run = world.run(line_plan("a", "b", undone="succeeded"))
    run.do("a")
    pause(run)
    run.cancel()
    assert run.status == "compensating"
    run.do("undo-a")
    assert run.status == "cancelled"


def test_an_exhausted_node_stands_its_siblings_go_on_and_the_join_waits(world):
    run = world.run(plan_of(flow().then_parallel("fan", standing("a"), Node("b", act)).then(Node("c", act))))
    moved = run.fail("a", token := run.hold("a"), delay_ms=1)
    assert moved.outcome == "paused"
    assert (run.status, run.states()["a"]) == ("paused", "paused")
    with world.unchanged():
        assert run.fail("a", token, delay_ms=1).outcome == "paused"
    assert run.claim("a").outcome == "paused"
    assert run.do("b").work.names == ()
    resumed = run.scripts.resume(run.id, run.plan.hash, token=new_token())
    assert resumed.work.names == ("a",)
    assert run.node("a")["attempt"] == 0
    assert run.do("a").work.names == ("c",)
    run.do("c")
    assert run.status == "succeeded"


def test_what_is_not_retryable_fails_all_the_same(world):
    run = world.run(plan_of(flow().then(standing("a"))))
    assert run.break_off("a").outcome == "failed"
    assert run.status == "failed"


def test_an_attempt_that_is_lost_may_be_the_one_that_exhausts(world):
    run = world.run(plan_of(flow().then(standing("a", undone=True))))
    assert run.lose("a", run.hold("a")).outcome == "paused"
    run.cancel()
    assert run.node("a")["ended_as"] == "unknown"
    run.do("undo-a")
    assert run.status == "cancelled"


def test_a_held_map_gives_out_no_item(world):
    run = mapped_run(world, 3)
    token = run.hold("item")
    pause(run)
    assert run.claim("item").outcome == "paused"
    assert run.commit("item[0]", token).work.names == ()
    assert run.scripts.resume(run.id, run.plan.hash, token=new_token()).work.names == ("item", "item")


def test_a_resume_releases_many_items_in_portions(world):
    item = Node("item", act_on_item, retry=STANDS)
    run = world.run(plan_of(flow().then_map("all", item, over=lambda _: []).then(Node("after", act))))
    token = run.hold("all.over")
    world.store.stage_items(run.id, token, [str(number).encode() for number in range(900)])
    run.commit("all.over", token, choice=900)
    for _ in range(900):
        claimed = run.claim("item", token := new_token())
        run.fail(f"item[{claimed.index}]", token, delay_ms=1)
    assert run.status == "paused"
    moved = run.scripts.resume(run.id, run.plan.hash, token=new_token())
    portions = 1
    while moved.work.kind == "more":
        moved, portions = run.scripts.go_on(run.id, run.plan.hash), portions + 1
    assert portions > 2
    assert set(run.states().values()) == {"succeeded", "ready"}
    assert moved.work.names[0] == "item"


def act_on_item(item: int) -> int:
    return item


def test_a_hold_ends_with_its_run(world):
    run = world.run(plan_of(flow().then_parallel("fan", standing("a"), Node("b", act)).then(Node("c", act))))
    pause(run)
    run.cancel()
    assert run.status == "cancelled"
    run.resume()
    assert run.break_off("a", delay_ms=1).outcome == "paused"
    assert run.claim("b").outcome == "run", "only the node stands"


def test_a_pause_in_the_middle_of_a_resume_loses_nothing_of_it(world):
    many = [Node(f"m-{number}", act, retry=STANDS) for number in range(450)]
    run = world.run(plan_of(flow().then_parallel("fan", *many).then(Node("after", act))))
    run.complete(run.cancel())
    moved = run.scripts.resume(run.id, run.plan.hash, token=new_token())
    run.epoch = 2
    assert moved.work.kind == "more"
    assert pause(run) == "paused"
    moved = run.scripts.resume(run.id, run.plan.hash, token=new_token())
    while moved.work.kind == "more":
        moved = run.go_on()
    assert len(moved.work.names) == 450
    assert set(run.states().values()) == {"ready"}


def test_the_history_says_how_the_last_attempt_of_a_standing_node_ended(world):
    run = world.run(plan_of(flow().then(standing("a"))))
    run.break_off("a", delay_ms=1)
    (entry,) = [each for each in world.store.history(run.id) if each.event == "paused"]
    assert (entry.node, entry.detail, entry.holder, entry.error) == ("a", "", "worker/1", "builtins.OSError: no")
    run.scripts.resume(run.id, run.plan.hash, token=new_token())
    assert [event for event, _ in run.events()][-1] == "continued"
