"""The plain cases of a claim and a commit: they leave in Redis, push and answer what the vocabulary would."""

from __future__ import annotations

import pytest

from orchestrator.store.scripts.results import Claimed
from tests.integration.test_scripts_commit_and_claim import readable, stored, token_of
from tests.scripts_world import HOLDER, LEASE_MS, flow, node, opened, plan_of

READS = (":input", "a", "none")
QUEUE = "plain-queue"


@pytest.fixture
def other(world):
    """A second prefix, for the same run on another way."""
    with opened(world.url) as made:
        yield made
        made.client.delete(QUEUE)


def claim(run, name, *, plain):
    facts = run.plan.nodes[name]
    return run.scripts.claim(
        run.id,
        run.plan.hash,
        name,
        epoch=run.epoch,
        token=token_of(name),
        holder=HOLDER,
        lease_ms=LEASE_MS,
        reads=READS,
        plain=run.plan.to_claim(facts) if plain else (),
    )


def commit(run, name, *, plain, **options):
    facts = run.plan.nodes[name]
    assert run.plan.to_commit(facts)
    values = {"output": b'"x"', "plain": run.plan.to_commit(facts) if plain else ()} | options
    return run.scripts.commit(run.id, run.plan.hash, name, token_of(name), **values)


def answered(moved):
    """What was answered, but for the instant."""
    return moved.outcome, moved.work.kind, moved.work.position, moved.work.detached, moved.work.names


def pushed(world):
    found = world.client.lrange(QUEUE, 0, -1)
    world.client.delete(QUEUE)
    return [text.decode()[:4] for text in found]


@pytest.mark.parametrize("way", ["answers", "follows", "pushes", "follows and pushes"])
def test_a_line_is_claimed_and_stored_as_the_long_way_does(world, other, way):
    line = plan_of(flow().then(node("a", undone="succeeded")).then(node("b")).then(node("c")))
    runs = {False: world.run(line, key="k"), True: other.run(line, key="k")}
    for name, behind in (("a", "b"), ("b", "c"), ("c", "")):
        found = {plain: claim(run, name, plain=plain) for plain, run in runs.items()}
        assert found[True] == found[False]
        assert found[True].outcome == "run"
        assert stored(other, runs[True]) == stored(world, runs[False]), f"after the claim of {name}"
        message = (behind, QUEUE, "to @since@") if "pushes" in way else (behind, "", "")
        told = {}
        for plain, run in runs.items():
            moved = commit(run, name, plain=plain, follows="follows" in way, message=message)
            told[plain] = answered(moved), pushed(world)
        assert told[True] == told[False]
        assert stored(other, runs[True]) == stored(world, runs[False]), f"after the commit of {name}"
    assert runs[True].status == "succeeded"


def test_the_nodes_of_a_fan_out_and_a_decision_are_claimed_as_the_long_way_does(world, other):
    builder = flow().takes(int).when(lambda state: state.input(int) > 0).then(node("x")).end_when()
    fan = plan_of(builder.then_parallel("all", node("m-0"), node("m-1")))
    runs = {False: world.run(fan), True: other.run(fan)}
    for plain, run in runs.items():
        claim(run, "when-1", plain=plain)
        run.commit("when-1", token_of("when-1"), choice=1)
        claim(run, "m-0", plain=plain)
        run.commit("m-0", token_of("m-0"))
        claim(run, "m-1", plain=plain)
    assert stored(other, runs[True]) == stored(world, runs[False])


def test_a_second_attempt_is_claimed_as_the_long_way_does(world, other):
    line = plan_of(flow().then(node("a")).then(node("b")))
    runs = {False: world.run(line), True: other.run(line)}
    for plain, run in runs.items():
        claim(run, "a", plain=plain)
        run.lose("a", token_of("a"))
        assert claim(run, "a", plain=plain) == Claimed("run", 2, 0, None, (b"", None, None))
    assert stored(other, runs[True]) == stored(world, runs[False])


def test_after_a_lost_answer_the_long_way_answers(world):
    run = world.run(plan_of(flow().then(node("a")).then(node("b"))))
    first = claim(run, "a", plain=True)
    with world.unchanged():
        assert claim(run, "a", plain=True) == first
    moved = commit(run, "a", plain=True, follows=False)
    with world.unchanged():
        assert commit(run, "a", plain=True, follows=False).work.names == moved.work.names == ("b",)


def test_which_nodes_are_plain(world):
    plan = plan_of(flow().then(node("a")).then_parallel("all", node("m"), node("n")).then(node("b")).then(node("c")))
    assert [name for name, facts in plan.nodes.items() if plan.to_commit(facts)] == ["b", "c"]
    assert [name for name, facts in plan.nodes.items() if plan.to_claim(facts)] == ["a", "m", "n", "b", "c"]
    assert readable(world.dump()) == {}
