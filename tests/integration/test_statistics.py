"""Statistics of flows: ends by hour, a sample of durations, what records say of attempts; runs that are deleted."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from orchestrator import Settings
from orchestrator.errors import UnknownRun
from orchestrator.store import tagged_ends
from orchestrator.store.statistics import Measurer, bucket_of, durations_of, longest_in, read_statistics
from orchestrator.store.tagged_ends import LONGEST_VALUE, read_tagged_ends
from orchestrator.store.totals import read_totals
from tests.scripts_world import line_plan


def ended(world, plan, *, took_ms=0):
    """A run of two nodes that succeeded; its first node took so long."""
    run = world.run(plan)
    token = run.hold("a")
    record = run.node("a")
    world.client.hset(world.keys.nodes(run.id), "a", json.dumps(record | {"started": record["started"] - took_ms}))
    run.commit("a", token)
    run.do("b")
    return run


def test_ends_are_exact_and_durations_a_sample(world):
    plan = line_plan("a", "b")
    measurer = Measurer(world.store)
    ended(world, plan)
    measurer.measure()  # what ended before is left out
    for number in range(200):
        ended(world, plan, took_ms=100 if number < 180 else 10_000)
    failed = world.run(plan)
    failed.fail("a", failed.hold("a"), delay_ms=-1)
    for _ in range(3):
        measurer.measure()
    (found,) = read_statistics(world.store, ["f"], hours=2)
    assert found.ends == {"failed": 1, "succeeded": 201}
    assert sum(each.count for each in found.by_hour) == 202
    assert found.runs.count == 201
    half, longest = found.runs.p50, found.nodes["a"].p50
    assert half is not None
    assert longest is not None
    assert half < timedelta(seconds=5)
    assert 0 < found.sampled <= 0.3
    assert found.nodes.keys() == {"a", "b"}
    assert timedelta(milliseconds=100) <= longest < timedelta(seconds=5)
    assert found.nodes["a"].count <= 60
    assert json.dumps(found.to_json())
    days = [world.keys.durations("f", world.store.now_ms() // 86_400_000 + day) for day in (-1, 0)]
    kept = [key for key in days if world.client.exists(key)]
    assert kept
    assert all(0 < world.client.pttl(key) <= 8 * 86_400_000 for key in kept)
    assert all(world.client.memory_usage(key, samples=0) < 65_536 for key in kept)


def test_a_second_leader_counts_nothing_twice(world):
    plan = line_plan("a", "b")
    one, other = Measurer(world.store), Measurer(world.store)
    one.measure()
    ended(world, plan)
    for each in (one, other, one, other):
        each.measure()
    (found,) = read_statistics(world.store, ["f"], hours=2)
    assert (found.runs.count, found.sampled) == (1, 1.0)


def test_a_flow_without_runs_has_empty_statistics(world):
    (found,) = read_statistics(world.store, ["nothing"], hours=1)
    assert (found.ends, found.by_hour, found.runs.count, found.runs.p50, found.sampled) == ({}, (), 0, None, 0.0)


def test_a_bucket_is_a_fifth_wide():
    for milliseconds in (1, 7, 100, 12_345, 86_400_000):
        longest = longest_in(bucket_of(milliseconds)) / timedelta(milliseconds=1)
        assert milliseconds - 1 <= longest <= milliseconds * 1.2 + 1
    assert durations_of({bucket_of(100): 19, bucket_of(1000): 1}).p95 == longest_in(bucket_of(100))


def test_a_record_has_its_first_instant_and_its_busy_time_from_the_second_attempt_on(world):
    run = world.run(line_plan("a"))
    token = run.hold("a")
    assert {"first", "busy"}.isdisjoint(run.node("a"))
    since, started = run.node("a")["since"], run.node("a")["started"]
    run.fail("a", token, delay_ms=0)
    assert run.node("a")["first"] == since
    assert run.node("a")["busy"] >= 0
    run.wake("a")
    token = run.hold("a")
    assert (run.node("a")["first"], run.node("a")["attempt"]) == (since, 2)
    run.commit("a", token)
    record = run.node("a")
    assert record["first"] == since
    assert 0 <= record["busy"] <= record["ended"] - started


def test_a_first_attempt_that_succeeds_has_a_small_record(world):
    run = world.run(line_plan("a"))
    run.do("a")
    assert {"first", "busy"}.isdisjoint(run.node("a"))


def test_a_run_that_has_ended_can_be_deleted(world):
    plan = line_plan("a", "b")
    options = {"key": "order-1", "tags": {"tenant": "t"}, "indexed_tags": ("tenant",)}
    kept, run = world.run(plan), world.run(plan, **options)
    run.hold("a")
    assert world.scripts.delete_run(run.id, plan.hash) == "not ended"
    run.fail("a", run.node("a")["token"], delay_ms=-1)
    assert world.scripts.delete_run(run.id, plan.hash) == "deleted"
    assert [name for name in world.names() if run.id in name or ":idem:" in name] == []
    for key in (world.keys.by_status("failed"), world.keys.by_flow("f", "failed"), world.keys.by_tag("tenant", "t")):
        assert world.members(key) == []
    assert world.members(world.keys.expiring) == world.members(world.keys.expiring_tags) == []
    assert world.scripts.delete_run(run.id, plan.hash) == "unknown"
    with pytest.raises(UnknownRun):
        world.store.run(run.id)
    again = world.run(plan, **options)
    assert {kept.status, again.status} == {"pending"}


def test_a_key_that_belongs_to_a_later_run_is_left(world):
    plan = line_plan("a")
    first = world.run(plan, key="order-1")
    first.do("a")
    idem = first.field("idem")
    world.client.hset(idem, "run", "another")
    assert world.scripts.delete_run(first.id, plan.hash) == "deleted"
    assert world.client.hget(idem, "run") == b"another"


def test_totals_only_grow_and_say_how_attempts_ended(world):
    plan = line_plan("a", "b")
    measurer = Measurer(world.store)
    measurer.measure()
    for _ in range(3):
        ended(world, plan, took_ms=40_000)
        measurer.measure()
    run = world.run(plan)
    run.fail("a", run.hold("a"), delay_ms=0)
    run.wake("a")
    run.lose("a", run.hold("a"))
    run.fail("a", run.hold("a"), delay_ms=-1)
    measurer.measure()
    (found,) = read_totals(world.store, ["f"])
    assert found.ends == {"succeeded": 3, "failed": 1}
    assert found.runs.doublings.total() == 4
    assert found.nodes["a"].sum_ms >= 3 * 40_000
    assert (found.nodes["a"].doublings[16], found.nodes["b"].doublings.total()) == (3, 3)
    assert found.waits["celery"].doublings.total() == sum(each.doublings.total() for each in found.nodes.values())
    assert found.attempts == {("a", "retried"): 1, ("a", "lost"): 1, ("a", "failed"): 1}
    for key in (world.keys.totals("f"), world.keys.attempts("f")):
        assert 0 < world.client.pttl(key) <= 8 * 86_400_000


def test_more_ends_than_one_read_are_counted_at_once(world):
    measurer = Measurer(world.store)
    measurer.measure()
    pipe = world.client.pipeline()
    for _ in range(1200):
        pipe.xadd(world.keys.events, {"event": "succeeded", "run": "gone", "flow": "f", "detail": "5"})
    pipe.execute()
    measurer.measure()
    assert read_totals(world.store, ["f"])[0].ends == {"succeeded": 1200}


def use_metric_tags(world, *names):
    world.store.settings = Settings(prefix=world.prefix, indexed_tags=names, metric_tags=names)
    measurer = Measurer(world.store)
    measurer.measure()  # what ended before is left out
    return measurer


def tagged(world):
    found = read_tagged_ends(world.store, world.store.settings.metric_tags)
    return {(each.tag, each.value): dict(each.ends) for each in found}


def test_ends_are_counted_by_the_tags_that_are_named(world):
    plan = line_plan("a")
    measurer = use_metric_tags(world, "tenant", "plan")
    for tags in ({"tenant": "acme", "order": "88"}, {"tenant": "acme", "plan": "free"}, {}):
        world.run(plan, tags=tags).do("a")
    failed = world.run(plan, tags={"tenant": "acme"})
    failed.fail("a", failed.hold("a"), delay_ms=-1)
    measurer.measure()
    measurer.measure()
    ended = ("f", "succeeded")
    assert tagged(world) == {("tenant", "acme"): {ended: 2, ("f", "failed"): 1}, ("plan", "free"): {ended: 1}}
    (acme,) = read_tagged_ends(world.store, ["tenant"])
    assert acme.spent_ms["f"] >= 0
    assert read_tagged_ends(world.store, []) == []
    assert {name for name in world.names() if ":stats:tags" in name} == {
        world.keys.tag_values,
        *(world.keys.tagged(json.dumps(pair)) for pair in (("tenant", "acme"), ("plan", "free"))),
    }


def test_no_more_values_of_a_tag_than_its_bound_are_counted_on_their_own(world, monkeypatch):
    monkeypatch.setattr(tagged_ends, "MOST_VALUES", 2)
    plan, ended = line_plan("a"), ("f", "succeeded")
    measurer = use_metric_tags(world, "tenant")
    for value in ("one", "two", "three", "four", "two", "other"):
        world.run(plan, tags={"tenant": value}).do("a")
        measurer.measure()
    assert tagged(world) == {
        ("tenant", "one"): {ended: 1},
        ("tenant", "two"): {ended: 2},
        ("tenant", "other"): {ended: 3},
    }
    # What no run has ended with for long gives its place away.
    world.client.zadd(world.keys.tag_values, {json.dumps(["tenant", "one"]): 1})
    world.run(plan, tags={"tenant": "five"}).do("a")
    measurer.measure()
    assert tagged(world).keys() == {("tenant", "two"), ("tenant", "five"), ("tenant", "other")}


def test_a_value_is_cut_and_can_always_be_encoded(world):
    measurer = use_metric_tags(world, "tenant")
    plan = line_plan("a")
    for value in ("\ud800" + "x" * 100, "\ud800" + "x" * 200):
        world.run(plan, tags={"tenant": value}).do("a")
    measurer.measure()
    assert tagged(world) == {("tenant", "?" + "x" * (LONGEST_VALUE - 1)): {("f", "succeeded"): 2}}
