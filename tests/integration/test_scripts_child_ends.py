"""end_child.lua: the end of a child, of the node that waits for it, and the claim behind that, in one step."""

from __future__ import annotations

import json
from contextlib import closing

import pytest

from orchestrator.store.scripts.children import plain_end
from orchestrator.store.scripts.commit_and_claim import Claim, Commit
from tests.scripts_tree import MOST_BYTES, Tree, parent_plan, shipping, starts
from tests.scripts_world import HOLDER, flow, line_plan, map_plan, new_token, node, paged, plan_of
from tests.twins import Twins, same_text

READS = ("ship", ":input", "none")


def end(run, child, token, claim, *, output=b"1", holder=HOLDER):
    """Commit the last node of a child as a process that goes on in its parent does."""
    plain = plain_end(child.plan, "hand-over", run.plan, "ship", holder)
    commit, parent = Commit("hand-over", token, output), (run.id, run.plan.hash, run.epoch)
    return run.scripts.children.end(
        plain, child.id, child.plan.hash, commit, epoch=child.epoch, parent=parent, claim=claim
    )


@pytest.fixture
def at_the_end(world, tree):
    """A run that waits for a child of which the last node runs; and its token."""
    run = world.run(parent_plan(), input_json=b'"in"')
    _, child = tree.spawn(run, "ship", shipping())
    child.do("pack")
    return run, child, child.hold("hand-over")


def test_it_does_what_three_scripts_do_one_after_the_other(server):
    with closing(Twins(server.url, same_text)) as twins:
        pair = twins.start(parent_plan(before=True), input_json=b'"in"')
        first, ship, pack, hand_over, last = (new_token() for _ in range(5))
        for run in (pair.fast, pair.slow):
            run.claim("first", first)
            run.commit("first", first)
            run.claim("ship", ship)
            _, child = Tree(run.world).spawn(run, "ship", shipping(), ship)
            child.claim("pack", pack)
            child.commit("pack", pack)
            child.claim("hand-over", hand_over)
        twins.compare()
        twins.pass_time(1000)

        claim = Claim("last", last, READS)
        fast = end(pair.fast, child, hand_over, claim)
        moved = Tree(twins.slow).follow(child.commit("hand-over", hand_over))
        slow = pair.slow.claim("last", last, reads=READS)

        assert moved.work.names == ("last",)
        assert fast == slow
        assert fast.values == (b"1", b'"in"', None)
        twins.compare()
        for run in (pair.fast, pair.slow):
            run.commit("last", last)
        twins.compare()
        assert twins.fields(pair)["status"] == "succeeded"
        assert twins.counted()["fast commit"], "the end of the run, which keeps its child, too"


def test_a_repeated_call_answers_the_claim_while_it_is_held(world, tree, at_the_end):
    run, child, token = at_the_end
    claim = Claim("last", new_token(), READS)
    first = end(run, child, token, claim)
    assert (first.outcome, first.attempt, child.status) == ("run", 1, "succeeded")
    with world.unchanged():
        assert end(run, child, token, claim) == first
        assert run.claim("last", claim.token, reads=READS) == first
        assert end(run, child, token, Claim("last", new_token())) is None, "who held it is another"
        assert child.commit("hand-over", token).outcome == "stored"
        assert run.wake("ship").outcome == "asleep"
    run.commit("last", claim.token)
    with world.unchanged():
        assert end(run, child, token, claim) is None
    assert (run.status, run.count("succeeded", "ship"), run.count("started", "last")) == ("succeeded", 1, 1)


def fail_and_try_again(run, child):
    child.fail("hand-over", child.node("hand-over")["token"], delay_ms=0)
    return child.hold("hand-over")


def hold(run):
    assert run.scripts.pause(run.id, run.plan.hash, reason="look") == "paused"


def change_record(run, **fields):
    name = run.world.keys.nodes(run.id)
    run.world.client.hset(name, "ship", json.dumps(run.node("ship") | fields))


UNUSUAL = {
    "another token": lambda _run, _child: new_token(),
    "a second attempt": fail_and_try_again,
    "its run is cancelled": lambda run, _child: run.cancel() and None,
    "the child is cancelled": lambda _run, child: child.cancel() and None,
    "its run is held": lambda run, _child: hold(run),
    "the child is held": lambda _run, child: hold(child),
    "it is late": lambda run, _child: change_record(run, late=True),
    "it is to be resumed": lambda run, _child: change_record(run, asked="1"),
    "another child": lambda run, _child: change_record(run, child="other"),
    "a further attempt of the node": lambda run, _child: change_record(run, attempt=2),
    "a deadline": lambda run, _child: change_record(run, ends=10**15),
    "its root is gone": lambda run, child: run.world.client.hset(run.world.keys.run(child.id), "root", "gone") and None,
}


@pytest.mark.parametrize("why", UNUSUAL)
def test_what_is_unusual_is_left_to_the_other_scripts(why, world, at_the_end):
    run, child, token = at_the_end
    token = UNUSUAL[why](run, child) or token
    with world.unchanged():
        assert end(run, child, token, Claim("last", new_token())) is None


def test_what_the_caller_does_not_know_or_may_not_do_is_left_too(world, at_the_end):
    run, child, token = at_the_end
    claim = Claim("last", new_token())
    with world.unchanged():
        assert end(run, child, token, claim, holder="worker/2") is None
        assert end(run, child, token, claim, output=b"1" * (MOST_BYTES + 1)) is None
        run.epoch = 2
        assert end(run, child, token, claim) is None


def test_plans_say_what_is_plain():
    def is_plain(child, parent, name="hand-over"):
        return plain_end(child, name, parent, "ship", HOLDER) is not None

    plain, parent = shipping(), parent_plan()
    assert is_plain(plain, parent)
    assert not is_plain(plain, parent, "pack"), "the child does not end with it"
    assert not is_plain(plain, parent_plan(behind=False)), "its run ends with it"
    for builder in (
        flow("shipping").then(paged("pages")),
        flow("shipping").with_max_runs(1),
    ):
        assert not is_plain(plan_of(builder.then(node("hand-over"))), parent)
    assert not is_plain(plan_of(flow("shipping").then_parallel("both", node("hand-over"), node("b"))), parent)
    assert not plain_end(map_plan(), "after", parent, "ship", HOLDER)
    behind = {
        "a deadline": flow().then(starts()).then(node("last").with_deadline(node("x").timeout)),
        "several": flow().then(starts()).then_parallel("both", node("last"), node("b")),
        "beside it": flow().then_parallel("both", starts(), node("b")).then(node("last")),
        "again": flow().then(starts().with_repeat(until=lambda _output: True)).then(node("last")),
    }
    for why, builder in behind.items():
        assert not is_plain(plain, plan_of(builder)), why
    assert not plain_end(plain, "hand-over", line_plan("ship"), "ship", HOLDER)
