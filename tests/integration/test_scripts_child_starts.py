"""spawn.lua: its fast path does what the library does, and the child's first node is claimed with the start, once."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from orchestrator import RetryPolicy
from orchestrator.store.scripts.children import FirstClaim
from orchestrator.store.scripts.results import Claimed
from tests.scripts_tree import Tree, parent_plan, shipping, starts
from tests.scripts_world import HOLDER, flow, new_token, node, plan_of
from tests.twins import Twins, same_text

TIMEOUT_MS = 300_000


def spawn(run, token, *, first_token="", plan=None, name="ship", **changes):
    """Start a child as an attempt of a node does of which the plan says nothing unusual."""
    claim = FirstClaim("pack", first_token, TIMEOUT_MS) if first_token else None
    options = {"place": (run.epoch, run.plan.nodes[name].step), "holder": HOLDER, "claim_of": lambda *_: claim}
    return Tree(run.world).spawn(run, name, plan or shipping(), token, **options | changes)


def test_a_start_with_a_claim_does_what_a_start_and_a_claim_do(server):
    with closing(Twins(server.url, same_text)) as twins:
        pair = twins.start(parent_plan(before=True), input_json=b'"in"', tags={"shop": "x"})
        first, ship, pack = (new_token() for _ in range(3))
        for run in (pair.fast, pair.slow):
            run.claim("first", first)
            run.commit("first", first)
            run.claim("ship", ship)
        twins.pass_time(1000)

        fast, child = spawn(pair.fast, ship, first_token=pack)
        _, other = spawn(pair.slow, ship)

        assert (fast.outcome, fast.is_claimed, fast.started.run_id, fast.work.names) == ("waiting", True, other.id, ())
        assert other.claim("pack", pack) == Claimed("run", 1)
        twins.compare()
        for each in (child, other):
            each.commit("pack", pack)
        twins.compare()


def test_a_repeated_start_answers_its_claim_while_that_is_held(world, tree):
    run, token, pack = world.run(parent_plan()), new_token(), new_token()
    run.claim("ship", token)
    _, child = spawn(run, token, first_token=pack)
    with world.unchanged():
        again, same = spawn(run, token, first_token=pack)
        assert (again.outcome, again.is_claimed, same.id) == ("waiting", True, child.id)
        assert not spawn(run, token, first_token=new_token())[0].is_claimed, "who held it is another"
        assert not spawn(run, token)[0].is_claimed
    assert (child.node("pack")["attempt"], child.count("started", "pack"), child.status) == (1, 1, "running")
    child.lose("pack", pack)
    assert not spawn(run, token, first_token=pack)[0].is_claimed, "it is ready for others"
    tree.follow(tree.finish(child))
    run.do("last")
    assert world.store.children(run.id) == [child.id]


def test_a_claim_that_nobody_commits_is_lost_like_any_other(world, tree):
    run, pack = world.run(parent_plan()), new_token()
    _, child = spawn(run, run.hold("ship"), first_token=pack)
    assert world.claims() == [(child.id, "pack")]
    assert child.lose("pack", pack).work.names == ("pack",)
    assert tree.follow(tree.finish(child)).work.names == ("last",)
    run.do("last")


def with_a_second_attempt(run):
    run.fail("ship", run.hold("ship"), delay_ms=0)
    run.wake("ship")


UNUSUAL: dict[str, dict[str, Any]] = {
    "nothing": {},
    "a second attempt": {"before": with_a_second_attempt},
    "a run that is ending": {"behind": lambda run: run.cancel()},
    "a run that is held": {"behind": lambda run: run.scripts.pause(run.id, run.plan.hash, reason="look")},
    "a lane": {"plan": plan_of(flow("shipping").with_max_runs(1).then(node("pack")))},
    "several nodes at first": {"plan": plan_of(flow("shipping").then_parallel("both", node("pack"), node("b")))},
    "a node that repeats": {"starts": starts().with_repeat(until=lambda _output: True), "place": None},
    "too deep": {"most_depth": 0},
    "no plan": {"send_plan": False},
    "another number": {"number": 2},
    "another epoch": {"place": (2, 0)},
    "another token": {"token": new_token()},
    "a timer": {"lasts_ms": 1000, "place": None},
}


@pytest.mark.parametrize("why", UNUSUAL)
def test_what_is_unusual_is_done_as_the_library_does_it(why, server):
    options = dict(UNUSUAL[why])
    begin, behind, token = (options.pop(name, None) for name in ("before", "behind", "token"))
    parent = plan_of(flow().then(options.pop("starts", None) or starts()).then(node("last")))
    with closing(Twins(server.url, same_text)) as twins:
        pair = twins.start(parent)
        own, pack = new_token(), new_token()
        answers = []
        for run in (pair.fast, pair.slow):
            if begin:
                begin(run)
            assert run.claim("ship", own).is_held
            if behind:
                behind(run)
            spawned, _ = spawn(run, token or own, first_token=pack, **options)
            answers.append(spawned)
        assert answers[0] == answers[1]
        assert answers[0].is_claimed == (
            why
            in {
                "nothing",
                "a second attempt",
                "a node that repeats",
                "a lane",
                "another epoch",
                "another number",
                "a timer",
            }
        )
        twins.compare()


def test_a_child_starts_a_child(server):
    middle = plan_of(flow("middle").then(starts()).then(node("end")))
    with closing(Twins(server.url, same_text)) as twins:
        pair = twins.start(plan_of(flow().then(starts(child="middle")).then(node("last"))))
        outer, inner = new_token(), new_token()
        for run in (pair.fast, pair.slow):
            run.claim("ship", outer)
            _, child = spawn(run, outer, plan=middle)
            child.claim("ship", inner)
            _, grandchild = spawn(child, inner)
            assert (grandchild.field("root"), grandchild.field("depth")) == (run.id, "2")
        twins.compare()


def test_only_the_first_child_of_a_node_is_claimed_with_its_start(world, tree):
    twice = RetryPolicy(maximum_attempts=2)
    run = world.run(plan_of(flow().then(starts().with_retry(twice)).then(node("last"))))
    _, first = tree.spawn(run, "ship", shipping(undone=False), delay_ms=0)
    tree.follow(first.break_off("pack"))
    run.wake("ship")

    spawned, second = spawn(run, run.hold("ship"), first_token=new_token(), place=None)

    assert (spawned.outcome, spawned.is_claimed, spawned.started.outcome) == ("waiting", False, "started")
    tree.follow(tree.finish(second))
    run.do("last")
