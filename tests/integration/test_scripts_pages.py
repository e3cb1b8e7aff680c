"""commit_page.lua, and commit.lua of the last page: pages are stored once, in order; sources move at a success."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from orchestrator import SharedRateLimiter
from tests.scripts_world import flow, new_token, node, paged, plan_of

API = SharedRateLimiter("api", 2, per=timedelta(minutes=1))


def start(world, **options):
    return world.run(plan_of(flow().then(paged(**options)).then(node("after"))))


def pages_of(run):
    return json.loads(run.outputs()["sync"])


def test_pages_are_put_together_in_order(world):
    run = start(world)
    claimed = run.claim("sync", token := new_token())
    assert (claimed.index, claimed.item) == (0, b"null")
    moved = run.turn("sync", token, "[1,2]", count=2, cursor='"a"')
    assert (moved.outcome, moved.work.kind, moved.work.names) == ("turned", "nodes", ("sync",))
    assert "sync" not in run.outputs()
    claimed = run.claim("sync", token := new_token())
    assert (claimed.index, claimed.item, claimed.attempt) == (1, b'"a"', 1)
    assert run.turn("sync", token, "[]", count=0, cursor='"b"', goes_on=True).work.names == ()
    moved = run.close("sync", run.hold("sync"), "[3]", count=1)
    assert (moved.outcome, moved.work.names) == ("stored", ("after",))
    assert pages_of(run) == {"items": [1, 2, 3], "final_cursor": "b", "page_count": 3, "total_items": 3}
    assert [run.count("page", "sync"), run.count("started", "sync"), run.count("succeeded", "sync")] == [3, 1, 1]


def test_one_empty_page_is_all_pages(world):
    run = start(world)
    run.close("sync", run.hold("sync"), "[]", count=0)
    assert pages_of(run) == {"items": [], "final_cursor": None, "page_count": 1, "total_items": 0}


def test_a_second_turn_stores_nothing_and_tells_what_is_unclaimed(world):
    run = start(world)
    first = run.turn("sync", token := run.hold("sync"))
    with world.unchanged():
        assert run.turn("sync", token) == first
        assert run.turn("sync", token, goes_on=True).work.names == ()
    later = run.hold("sync")
    with world.unchanged():
        again = run.turn("sync", token)
        assert (again.outcome, again.work.names) == ("turned", ())
    run.close("sync", later)
    with world.unchanged():
        assert run.turn("sync", token).outcome == "fenced"
    assert pages_of(run)["page_count"] == 2


def test_only_the_holder_can_turn(world):
    run = start(world)
    lost = run.hold("sync")
    run.lose("sync", lost)
    with world.unchanged():
        assert run.turn("sync", lost).outcome == "fenced"
        assert run.turn("sync", new_token()).outcome == "fenced"
    token = run.hold("sync")
    with world.unchanged():
        assert run.turn("sync", lost).outcome == "fenced"
    assert run.turn("sync", token).outcome == "turned"


def test_attempts_are_counted_afresh_for_each_page(world):
    run = start(world)
    run.break_off("sync", delay_ms=0)
    run.wake("sync")
    claimed = run.claim("sync", token := new_token())
    assert (claimed.attempt, claimed.index) == (2, 0)
    run.turn("sync", token)
    for attempt in (1, 2):
        claimed = run.claim("sync", token := new_token())
        assert (claimed.attempt, claimed.index, claimed.item) == (attempt, 1, b'"c"')
        run.lose("sync", token)
    claimed = run.claim("sync", token := new_token())
    assert (claimed.attempt, run.lose("sync", token).outcome) == (3, "ended")
    assert run.status == "failed"


def test_each_page_takes_a_token_and_waits_in_line(world):
    made = paged().with_shared_rate_limit(API)
    run = world.run(plan_of(flow().then_parallel("fan", made, node("other"))))
    run.turn("sync", run.hold("sync"))
    run.turn("sync", run.hold("sync"), goes_on=True)
    assert run.field("detached") == "1"
    assert (run.claim("sync").outcome, world.line("api")) == ("parked", [f"{run.id}|sync"])
    run.cancel()
    assert (run.status, run.states()["sync"]) == ("cancelled", "failed")


def test_a_member_that_goes_on_by_itself_stays_with_its_chord(world):
    run = world.run(plan_of(flow().then_parallel("fan", paged(), node("other")).then(node("after"))))
    run.turn("sync", run.hold("sync"), goes_on=True)
    assert run.field("detached") == "0"
    run.turn("sync", run.hold("sync"))
    assert run.field("detached") == "1"


@pytest.mark.parametrize(("undone", "undos"), [("started", ("undo-sync",)), ("succeeded", ())])
def test_a_page_of_an_ending_run_is_kept_and_its_node_fails(world, undone, undos):
    run = start(world, undone=undone)
    run.turn("sync", run.hold("sync"))
    token = run.hold("sync")
    run.cancel()
    moved = run.turn("sync", token, "[2]")
    assert (moved.outcome, moved.work.names) == ("turned", undos)
    assert run.turn("sync", token, "[2]").work.names == undos
    assert run.node("sync")["ended_as" if undos else "state"] == "failed"
    assert world.client.hget(world.keys.results(run.id, "sync"), "1") == b"[2]"
    for undo in undos:
        run.do(undo)
    assert run.status == "cancelled"


@pytest.mark.parametrize(("undone", "undos"), [("started", ("undo-sync",)), ("succeeded", ())])
def test_between_two_pages_a_node_has_begun(world, undone, undos):
    run = start(world, undone=undone)
    run.turn("sync", run.hold("sync"))
    assert run.cancel().work.names == undos
    assert run.count("failed", "sync") == 1
    for undo in undos:
        run.do(undo)


def test_the_last_page_of_an_ending_run_is_undone(world):
    run = start(world, undone="succeeded")
    run.turn("sync", run.hold("sync"))
    token = run.hold("sync")
    run.cancel()
    assert run.close("sync", token).work.names == ("undo-sync",)
    run.do("undo-sync")
    assert pages_of(run)["page_count"] == 2


def test_resume_goes_on_at_the_page_that_was_missing(world):
    run = start(world)
    run.turn("sync", run.hold("sync"))
    run.break_off("sync")
    assert run.status == "failed"
    run.resume()
    claimed = run.claim("sync", token := new_token())
    assert (claimed.attempt, claimed.index, claimed.item) == (1, 1, b'"c"')
    run.close("sync", token, "[2]")
    assert pages_of(run)["items"] == [1, 2]


def test_a_node_that_was_undone_begins_with_its_first_page(world):
    run = start(world, undone="started")
    run.turn("sync", run.hold("sync"))
    run.break_off("sync")
    run.do("undo-sync")
    run.resume()
    claimed = run.claim("sync", token := new_token())
    assert (claimed.index, claimed.item, claimed.generation) == (0, b"null", 1)
    run.close("sync", token, "[7]")
    assert pages_of(run)["items"] == [7]


def test_a_source_is_left_where_a_run_succeeded(world):
    def ended(run, cursor, *, how="do"):
        run.turn("sync", run.hold("sync"), cursor='"x"')
        run.close("sync", run.hold("sync"), cursor=cursor)
        getattr(run, how)("after")

    begun = start(world, cursor_source="jira")
    assert world.store.cursor("f", "jira") is None
    run = start(world, cursor_source="jira")
    ended(run, '"ten|10 \\u00e9"')
    assert (world.store.cursor("f", "jira"), run.count("cursor-moved", "sync")) == ("ten|10 é", 1)
    failed = start(world, cursor_source="jira")
    claimed = failed.claim("sync", token := new_token())
    assert claimed.item == b'"ten|10 \\u00e9"'
    failed.lose("sync", token)
    ended(failed, '"eleven"', how="break_off")
    assert (failed.status, world.store.cursor("f", "jira")) == ("failed", "ten|10 é")
    # The first has begun to read only now, so that it is not behind.
    ended(begun, "null")
    assert world.store.cursor("f", "jira") == "x"


def test_of_two_runs_at_once_only_the_first_moves_the_source(world):
    one, other = start(world, cursor_source="jira"), start(world, cursor_source="jira")
    held = [(run, run.hold("sync")) for run in (one, other)]
    for (run, token), cursor in zip(held, ('"2"', '"1"'), strict=True):
        run.close("sync", token, cursor=cursor)
        run.do("after")
    assert world.store.cursor("f", "jira") == "2"
    assert (one.count("cursor-moved", "sync"), other.count("cursor-kept", "sync")) == (1, 1)


def test_a_source_that_was_reset_is_not_moved_by_who_had_begun(world):
    run = start(world, cursor_source="jira")
    token = run.hold("sync")
    world.scripts.set_cursor("f", "jira", "null")
    run.close("sync", token, cursor='"9"')
    run.do("after")
    assert (world.store.cursor("f", "jira"), run.count("cursor-kept", "sync")) == (None, 1)
    world.scripts.set_cursor("f", "jira", '"5"')
    assert start(world, cursor_source="jira").claim("sync").item == b'"5"'


def test_a_source_of_a_branch_that_was_not_taken_stays(world):
    plan = plan_of(flow().when(lambda _: True).then(paged(cursor_source="jira")).end_when().then(node("after")))
    run = world.run(plan)
    run.do("when-1", choice=1)
    run.do("after")
    assert (run.status, world.store.cursor("f", "jira")) == ("succeeded", None)
