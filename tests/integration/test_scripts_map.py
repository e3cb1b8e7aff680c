"""The items of a map in the scripts: which one is next, how many at once, what a repeated or late call does."""

from __future__ import annotations

import json

import pytest

from orchestrator.store.scripts.commit_and_claim import Claim, Commit
from tests.scripts_world import HOLDER, LEASE_MS, at_once, map_plan, mapped_run, new_token


def pull(run, token="", **options):
    return run.claim("item", token or new_token(), **options)


def do_next(run, **options):
    token = new_token()
    claimed = pull(run, token)
    assert claimed.outcome == "run"
    return run.commit(f"item[{claimed.index}]", token, json.dumps(claimed.index).encode(), **options)


def results(run):
    found = run.world.client.hgetall(run.world.keys.results(run.id, "item"))
    return {int(index): value for index, value in found.items()}


def test_items_are_given_out_in_order_and_joined_as_one_list(world):
    run = mapped_run(world, 3)
    tokens = [new_token() for _ in range(3)]
    claims = [pull(run, token) for token in tokens]
    assert [(claim.outcome, claim.index, claim.item) for claim in claims] == [
        ("run", 0, b"0"), ("run", 1, b"1"), ("run", 2, b"2"),
    ]  # fmt: skip
    assert pull(run).outcome == "done"
    moved = [run.commit(f"item[{index}]", tokens[index], b'"%d"' % index) for index in (2, 0, 1)]
    assert [each.work.names for each in moved] == [(), (), ("after",)]
    assert run.outputs()["item"] == b'["0","1","2"]'
    run.do("after")
    assert run.status == "succeeded"


@pytest.mark.parametrize(
    ("options", "count", "messages"),
    [
        ({}, 3, 3),
        ({"batch_size": 2}, 5, 3),
        ({"max_concurrency": 2}, 5, 2),
        ({"max_concurrency": 4, "batch_size": 10}, 25, 3),
        ({}, 1000, 256),
        ({}, 0, 0),
    ],
)
def test_so_many_messages_are_sent_that_the_map_has_its_width(world, options, count, messages):
    run = mapped_run(world, count, **options)
    names = run.expanded.work.names
    assert names == (("item",) * messages if count else ("after",))


def test_no_more_than_the_width_are_at_work(world):
    run = mapped_run(world, 5, max_concurrency=2)
    tokens = [new_token(), new_token()]
    assert [pull(run, token).index for token in tokens] == [0, 1]
    with world.unchanged():
        assert pull(run).outcome == "full"
    assert run.commit("item[0]", tokens[0], b"0").work.names == ("item",), "one message for the next item"
    assert pull(run).index == 2


def test_whoever_asks_for_the_next_item_itself_gets_no_message_for_it(world):
    run = mapped_run(world, 3, max_concurrency=1)
    assert do_next(run, follows=True).work.names == ()
    assert do_next(run).work.names == ("item",)
    assert do_next(run, follows=True).work.names == ("after",), "the last one goes on to the next step"


def work_through(run, batch):
    """What one message does; returns how many messages it left to be sent for the map."""
    token = new_token()
    claimed = pull(run, token)
    for number in range(1, batch + 1):
        assert claimed.outcome == "run", "a message found no item"
        later, commit = new_token(), Commit(f"item[{claimed.index}]", token, b"1")
        if number == batch:
            return run.scripts.commit(run.id, run.plan, commit).work.names.count("item")
        options = {"epoch": 1, "holder": HOLDER, "lease_ms": LEASE_MS, "follows": True}
        _, (claimed,) = run.scripts.commit_and_claim(run.id, run.plan, [commit], [Claim("item", later)], **options)
        if claimed.outcome == "done":
            return 0
        token = later
    raise AssertionError


@pytest.mark.parametrize(("count", "width", "batch"), [(10, 4, 1), (4, 10, 1), (10, 4, 3), (7, 1, 2), (1, 1, 1)])
def test_there_are_as_many_messages_as_batches(world, count, width, batch):
    run = mapped_run(world, count, max_concurrency=width, batch_size=batch)
    waiting = sent = len(run.expanded.work.names)
    while waiting:
        more = work_through(run, batch)
        waiting, sent = waiting - 1 + more, sent + more
    assert len(results(run)) == count
    assert sent == -(-count // batch)


def test_a_repeated_claim_gets_the_same_item(world):
    run = mapped_run(world, 3)
    token = new_token()
    first = pull(run, token)
    with world.unchanged():
        assert pull(run, token) == first
    assert pull(run).index == 1


def test_a_repeated_commit_is_stored_once_and_a_late_one_is_fenced(world):
    run = mapped_run(world, 2)
    token, late = new_token(), new_token()
    pull(run, token)
    run.commit("item[0]", token, b"1")
    with world.unchanged():
        assert run.commit("item[0]", token, b"2").outcome == "stored"
        assert run.commit("item[0]", late, b"3").outcome == "stored", "it is done, whoever says so"
        assert run.commit("item[1]", late, b"3").outcome == "fenced"
    assert results(run) == {0: b"1"}
    assert run.field("open") == "1"


def test_a_lost_item_is_the_next_one_with_its_next_attempt(world):
    run = mapped_run(world, 3, attempts=2)
    token = new_token()
    pull(run, token)
    moved = run.lose("item[0]", token)
    assert (moved.outcome, moved.work.names) == ("again", ("item",))
    again = new_token()
    claimed = pull(run, again)
    assert (claimed.index, claimed.attempt) == (0, 2)
    assert run.commit("item[0]", token, b"0").outcome == "fenced"
    assert run.lose("item[0]", again).outcome == "ended"
    assert run.status == "failed"
    assert run.states()["item[0]"] == "unknown"


def test_an_item_that_waits_for_its_retry_is_not_given_out_before(world):
    run = mapped_run(world, 2)
    token = new_token()
    pull(run, token)
    moved = run.fail("item[0]", token, delay_ms=60_000)
    assert (moved.outcome, moved.work.names) == ("parked", ())
    assert pull(run).index == 1
    assert pull(run).outcome == "done"
    run.world.client.zadd(world.keys.timers, {f"{run.id}|item[0]": 0})
    record = run.node("item[0]")
    world.client.hset(world.keys.nodes(run.id), "item[0]", json.dumps(record | {"due": 0}))
    assert run.wake("item[0]").work.names == ("item",)
    claimed = pull(run)
    assert (claimed.index, claimed.attempt) == (0, 2)


def test_in_an_ending_run_no_item_starts_and_what_waits_ends(world):
    run = mapped_run(world, 5, undone=True)
    running, failed = new_token(), new_token()
    pull(run, running)
    pull(run, failed)
    do_next(run)
    run.fail("item[1]", failed, delay_ms=60_000)
    run.cancel()
    with world.unchanged():
        assert pull(run).outcome == "ending"
    moved = run.commit("item[0]", running, b"0")
    assert run.states()["item[1]"] == "failed"
    assert moved.work.names == ("undo-item[0]", "undo-item[2]"), "last completed first"
    for name in moved.work.names:
        run.do(name)
    assert run.status == "cancelled"
    states = run.states()
    assert (states["item[0]"], states["item[2]"]) == ("compensated", "compensated")


def test_resume_does_what_failed_what_was_undone_and_what_never_began(world):
    run = mapped_run(world, 4, undone=True)
    do_next(run)
    token = new_token()
    pull(run, token)
    run.fail("item[1]", token)
    run.do("undo-item[0]")
    assert run.status == "failed"
    assert run.resume().work.names == ("item",) * 4
    indexes = []
    for _ in range(4):
        token = new_token()
        claimed = pull(run, token)
        indexes.append((claimed.index, claimed.attempt, claimed.generation))
        run.commit(f"item[{claimed.index}]", token, b"1")
    assert indexes == [(0, 1, 1), (1, 1, 0), (2, 1, 0), (3, 1, 0)]
    run.do("after")
    assert run.status == "succeeded"


def test_resume_keeps_what_succeeded_without_a_compensation(world):
    run = mapped_run(world, 4)
    do_next(run)
    token = new_token()
    pull(run, token)
    do_next(run)
    run.fail("item[1]", token)
    assert run.status == "failed"
    run.resume()
    assert [pull(run).index for _ in range(2)] == [1, 3]
    assert pull(run).outcome == "done"


def test_lost_messages_are_sent_again_when_the_queue_is_empty_or_the_map_stands_still(world):
    run = mapped_run(world, 600, max_concurrency=3)
    assert [(seen.kind, seen.node) for seen in run.look()] == [("ready", "item")]
    assert run.republish("item").work.names == ("item",) * 3
    assert run.republish("item").outcome == "nothing", "it has a back-off"


def test_a_map_that_gets_on_is_short_of_messages_only_if_the_queue_is_empty(world):
    run = mapped_run(world, 600, max_concurrency=3)
    tokens = [new_token() for _ in range(3)]
    for token in tokens:
        pull(run, token)
    assert run.look() == [], "all its width is at work"
    run.commit("item[0]", tokens[0], b"0")
    (seen,) = run.look()  # a queue with any message of ours is older than this instant
    assert (seen.node, abs(int(seen.detail) - world.store.now_ms()) < 5000) == ("item", True)


def test_a_hundred_askers_get_each_item_once(world):
    run = mapped_run(world, 150)
    claims = at_once(lambda _: pull(run))
    assert sorted(claim.index for claim in claims) == list(range(100))


def test_a_decision_about_the_items_that_were_not_written_is_fenced(world):
    run = world.run(map_plan())
    token = run.hold("all.over")
    with world.unchanged():
        assert run.commit("all.over", token, choice=3).outcome == "fenced"


def test_a_repeated_expansion_answers_with_the_messages_again(world):
    run = world.run(map_plan(max_concurrency=2))
    token = run.hold("all.over")
    world.store.stage_items(run.id, token, [b"1", b"2", b"3"])
    first = run.commit("all.over", token, choice=3)
    again = run.commit("all.over", token, choice=3)
    assert first.work.names == again.work.names == ("item", "item")


def test_too_few_successes_end_the_run_at_the_join(world):
    run = mapped_run(world, 2, on_failure="continue", require=2, attempts=1)
    token = new_token()
    pull(run, token)
    assert run.fail("item[0]", token).outcome == "excused"
    do_next(run)
    assert run.status == "failed"
    assert "1 of 2 nodes succeeded, 2 are required" in run.field("error")


def test_an_empty_map_that_requires_successes_ends_the_run_at_the_join_and_again_after_a_resume(world):
    run = mapped_run(world, 0, on_failure="continue", require=1)
    assert run.expanded.outcome == "stored"
    assert run.expanded.work.kind == ""
    for _ in range(2):
        assert run.status == "failed"
        assert "step all: 0 of 0 nodes succeeded, 1 are required" in run.field("error")
        run.resume()
