"""Indexes of runs: by status and flow, by tags, and what an older version of the library leaves in them."""

from __future__ import annotations

import pytest

from tests.scripts_tree import parent_plan, shipping
from tests.scripts_world import RETENTION_MS, line_plan

ENDS = ("open", "succeeded", "failed", "cancelled", "compensation_failed", "paused")
GROUPS = tuple(family + group for family in ("", "child_") for group in ENDS)


def groups_of(world, run):
    """Where a run is indexed."""
    keys = world.keys
    found = {group for group in GROUPS if world.client.zscore(keys.by_status(group), run.id) is not None}
    assert found == {group for group in GROUPS if world.client.zscore(keys.by_flow(run.plan.flow, group), run.id)}
    assert {world.client.zscore(keys.by_status(group), run.id) for group in found} == {float(run.field("created"))}
    return found


def older(world, run):
    """Where version 0.1.0 would have indexed it."""
    names = [world.keys.by_status(status) for status in ("pending", "running", "compensating")]
    return [name for name in (*names, world.keys.older_by_flow("f")) if world.client.zscore(name, run.id) is not None]


@pytest.fixture
def run(world):
    made = world.run(line_plan("a", "b"))
    world.scripts.announce_flow(made.plan, retention_ms=1000)
    return made


def test_a_run_moves_once_from_the_open_ones_to_those_that_ended_like_it(world, run):
    assert groups_of(world, run) == {"open"}
    token = run.hold("a")
    assert groups_of(world, run) == {"open"}
    run.cancel()
    assert (run.status, groups_of(world, run)) == ("compensating", {"open"})
    run.commit("a", token)
    assert (run.status, groups_of(world, run)) == ("cancelled", {"cancelled"})
    run.resume()
    assert (groups_of(world, run), older(world, run)) == ({"open"}, [])


def test_a_child_has_groups_of_its_own_and_an_older_version_that_ended_it_has_left_it_in_others(world, tree):
    parent, keys = world.run(parent_plan()), world.keys
    _, child = tree.spawn(parent, "ship", shipping(undone=False))
    world.scripts.announce_flow(child.plan, retention_ms=1000)
    assert (groups_of(world, parent), groups_of(world, child)) == ({"open"}, {"child_open"})
    world.scripts.pause(child.id, child.plan.hash, reason="")
    assert groups_of(world, child) == {"child_open", "child_paused"}
    child.resume()
    assert groups_of(world, child) == {"child_open"}
    assert world.scripts.mend_indexes(at_most=10) == 0
    tree.follow(tree.finish(child))
    assert groups_of(world, child) == {"child_succeeded"}
    parent.do("last")
    later = world.store.now_ms() + 10 * RETENTION_MS
    for run, at in ((child, "child_succeeded"), (parent, "succeeded")):
        created = float(run.field("created"))
        world.client.zrem(keys.by_status(at), run.id)
        world.client.zadd(keys.by_status("succeeded"), {run.id: created})
        world.client.zadd(keys.by_status("child_open"), {run.id: created})
        world.client.zadd(keys.older_by_flow(run.plan.flow), {run.id: created})
    world.scripts.announce_flow(parent.plan, retention_ms=1000)
    world.scripts.mend_indexes(at_most=10)
    assert (groups_of(world, parent), groups_of(world, child)) == ({"succeeded"}, {"child_succeeded"})
    world.store.upkeep.clean_indexes(later, count=10)
    assert world.members(keys.by_status("child_succeeded")) == world.members(keys.by_status("succeeded")) == []


def test_a_run_is_in_the_index_of_each_tag_that_has_one_until_its_record_is_gone(world):
    tags = {"tenant": "a|b c", "colour": "red", "size": "9"}
    run = world.run(line_plan("a"), tags=tags, indexed_tags=("tenant", "colour", "weight"))
    indexes = [world.keys.by_tag(name, tags[name]) for name in ("tenant", "colour")]
    assert [world.members(index) for index in indexes] == [[run.id], [run.id]]
    assert world.members(world.keys.by_tag("size", "9")) == []
    run.fail("a", run.hold("a"), delay_ms=-1)
    ends = world.client.zrange(world.keys.expiring_tags, 0, -1, withscores=True)
    assert len(ends) == 2
    assert {score for _, score in ends} == {world.client.zscore(world.keys.expiring, f"failed|f|{run.id}")}
    run.resume()
    assert world.members(world.keys.expiring_tags) == []


def test_the_ends_of_runs_are_counted_by_hour_flow_and_status(world):
    for _ in range(2):
        world.run(line_plan("a")).do("a")
    failed = world.run(line_plan("a"))
    failed.fail("a", failed.hold("a"), delay_ms=-1)
    days = {world.store.now_ms() // 86_400_000 + day for day in (-1, 0)}
    ends = [row for day in days for row in world.client.hgetall(world.keys.ends(day)).items()]
    told = {name.decode().partition("|")[2]: int(count) for name, count in ends}
    assert told == {"f|succeeded": 2, "f|failed": 1}
    assert {int(name.partition(b"|")[0]) for name, _ in ends} <= {
        world.store.now_ms() // 3_600_000 + h for h in (-1, 0)
    }
    assert all(world.client.pttl(world.keys.ends(day)) > 0 for day in days if world.client.exists(world.keys.ends(day)))


def test_a_run_that_an_older_version_started_gets_into_the_indexes(world, run):
    created = float(run.field("created"))
    client, keys = world.client, world.keys
    client.zrem(keys.by_status("open"), run.id)
    client.zrem(keys.by_flow("f", "open"), run.id)
    client.zadd(keys.older_by_flow("f"), {run.id: created})
    client.zadd(keys.by_status("running"), {run.id: created})
    world.scripts.mend_indexes(at_most=10)
    assert (groups_of(world, run), older(world, run)) == ({"open"}, [])
    assert world.scripts.mend_indexes(at_most=10) == 0


def test_a_run_that_an_older_version_ended_is_no_longer_open(world, run):
    run.do("a")
    run.do("b")
    client, keys = world.client, world.keys
    for name in (keys.by_status("open"), keys.by_flow("f", "open")):
        client.zadd(name, {run.id: float(run.field("created"))})
    client.zrem(keys.by_flow("f", "succeeded"), run.id)
    client.persist(keys.history(run.id))
    world.scripts.mend_indexes(at_most=10)
    assert groups_of(world, run) == {"succeeded"}
    assert client.pttl(keys.history(run.id)) == pytest.approx(client.pttl(keys.run(run.id)), abs=1000)
    assert world.scripts.mend_indexes(at_most=10) == 0


def test_a_run_that_an_older_version_resumed_is_open_again(world, run):
    run.do("a")
    run.fail("b", run.hold("b"), delay_ms=-1)
    assert groups_of(world, run) == {"failed"}
    client, keys = world.client, world.keys
    before = client.pttl(keys.history(run.id))
    assert before > 0
    client.zrem(keys.by_status("failed"), run.id)
    client.zadd(keys.by_status("running"), {run.id: float(run.field("created"))})
    client.hset(keys.run(run.id), "status", "running")
    client.zadd(keys.live, {run.id: 1})
    for name in (keys.run(run.id), keys.nodes(run.id), keys.outputs(run.id), keys.failures(run.id)):
        client.persist(name)
    world.scripts.mend_indexes(at_most=10)
    assert groups_of(world, run) == {"open"}
    assert client.pttl(keys.history(run.id)) == -1


def test_what_a_run_leaves_behind_that_is_gone_is_taken_out(world, run):
    client, keys = world.client, world.keys
    gone = "00000000-0000-0000-0000-000000000000"
    for name in (keys.by_status("open"), keys.by_flow("f", "open"), keys.older_by_flow("f"), keys.by_status("pending")):
        client.zadd(name, {gone: 1})
    for _ in range(2):
        world.scripts.mend_indexes(at_most=10)
    for name in (keys.by_status("open"), keys.by_flow("f", "open"), keys.older_by_flow("f"), keys.by_status("pending")):
        assert client.zscore(name, gone) is None
    assert groups_of(world, run) == {"open"}
