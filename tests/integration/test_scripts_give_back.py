"""give_back.lua, and the back-off of nodes: code that does not fit costs no attempt, a worker that comes is asked."""

from __future__ import annotations

from orchestrator.store.fleet import read_misfits
from tests.scripts_world import fan_plan, line_plan


def test_an_attempt_is_given_back_uncounted_and_its_node_published(world):
    run = world.run(line_plan("a", attempts=1))
    moved = run.give_back("a", run.hold("a"))
    assert (moved.outcome, moved.work.names) == ("again", ("a",))
    assert (run.node("a")["state"], run.node("a")["attempt"], world.claims()) == ("ready", 0, [])
    assert run.count("given-back", "a") == 1
    run.do("a")
    assert run.status == "succeeded"
    assert run.count("started", "a") == 2


def test_what_was_found_is_kept_with_the_plan(world):
    run = world.run(line_plan("a"))
    run.give_back("a", run.hold("a"), own="one")
    run.give_back("a", run.hold("a"), own="other")
    assert read_misfits(world.store, run.plan.hash) == {"one|a": "it reads 'x'", "other|a": "it reads 'x'"}


def test_processes_of_one_version_do_not_hand_a_node_to_each_other_without_an_end(world):
    run = world.run(line_plan("a"))
    published = [run.give_back("a", run.hold("a"), own=own).work.names for own in ("one", "one", "other", "other")]
    assert published == [("a",), (), ("a",), ()]


def test_only_who_holds_the_node_can_give_it_back(world):
    run = world.run(line_plan("a"))
    token = run.hold("a")
    run.lose("a", token)
    with world.unchanged():
        assert run.give_back("a", token).outcome == "fenced"


def test_a_member_that_is_given_back_leaves_its_chord(world):
    run = world.run(fan_plan(2))
    assert run.give_back("m-0", run.hold("m-0")).work.names == ("m-0",)
    assert run.field("detached") == "1"


def test_in_a_run_that_is_ending_it_counts_as_not_begun(world):
    run = world.run(fan_plan(2, undone="succeeded"))
    run.do("m-0")
    token = run.hold("m-1")
    run.cancel()
    moved = run.give_back("m-1", token)
    assert (moved.outcome, moved.work.names) == ("ended", ("undo-m-0",))
    assert run.states()["m-1"] == "skipped"


def test_a_worker_that_has_come_ends_the_back_off(world):
    run = world.run(line_plan("a"))
    for _ in range(5):
        run.age("a", 100_000)
        run.republish("a")
    assert run.look() == []
    now = world.store.now_ms() + 1
    (seen,) = run.look(joined_ms=now)
    assert (seen.kind, seen.node) == ("ready", "a")
    assert run.republish("a", joined_ms=now).work.names == ("a",)
    assert 0 < run.node("a")["again"] - run.node("a")["sent"] <= 2000, "it begins anew"


def test_a_back_off_may_be_kept_short(world):
    run = world.run(line_plan("a"))
    for _ in range(5):
        run.age("a", 100_000)
        run.republish("a", most_ms=2000)
    assert run.node("a")["again"] - run.node("a")["sent"] == 2000
