"""The short ways on in the scripts, from plain nodes to what is behind them and from item to item.

They leave in Redis what the long way leaves, or do nothing.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest

from orchestrator import SharedRateLimiter
from orchestrator.store.scripts.results import Claimed, Done, Wanted
from tests.scripts_world import (
    HOLDER,
    LEASE_MS,
    fan_plan,
    flow,
    line_plan,
    mapped_run,
    new_token,
    node,
    opened,
    plan_of,
)

READS = (":input", "a")
MADE_UP = r"\b(?!0000)[0-9a-f]{32}\b"


def token_of(name):
    return name.encode().hex().rjust(32, "0")


def a_line(world):
    run = world.run(plan_of(flow().then(node("a", undone="started")).then(node("b")).then(node("c")).then(node("d"))))
    return run, "a", [("a", "b"), ("b", "c"), ("c", "d")]


def local_plan():
    """A node, three members in one process, and a node."""
    builder = flow().fused().then(node("a")).then_parallel("all", *[node(f"m-{n}") for n in range(3)], local=True)
    return plan_of(builder.then(node("b")))


def a_local_fan(world):
    """The member in the middle is stored alone, the other two together."""
    return world.run(local_plan()), "a", [("a", "m-0 m-1 m-2"), ("m-1", "b"), ("m-0 m-2", "b")]


def by_the_long_way(run, done, behind):
    """Commit, and claim what is behind if it is ready now; each has a script that knows every case."""
    scripts, names = run.scripts, behind.split()
    commits = [commit_call(run, name) for name in done.split()]
    claims = [claim_call(run, name) for name in names]
    if run.plan.steps[run.plan.nodes[done.split()[0]].step].kind == "then":
        moved, claimed = scripts.send_with_claims(commits[0], claims)
        assert moved.outcome == "stored"
        return claimed
    moved = scripts.send_all(commits)
    assert {each.outcome for each in moved} == {"stored"}
    return [scripts.send(claim) for claim in claims] if moved[-1].work.names else []


def commit_call(run, name):
    follows = run.plan.steps[run.plan.nodes[name].step].kind == "then"
    return run.scripts.commit_call(run.id, run.plan.hash, name, token_of(name), output=b'"x"', follows=follows)


def claim_call(run, name):
    return run.scripts.claim_call(
        run.id, run.plan.hash, name, epoch=1, token=token_of(name), holder=HOLDER, lease_ms=LEASE_MS, reads=READS
    )


def onward(run, done, behind, *, plan=None, holder=HOLDER, tokens=None):
    finished = [Done(name, (tokens or {}).get(name, token_of(name)), b'"x"') for name in done.split()]
    wanted = [Wanted(name, token_of(name), READS) for name in behind.split()]
    found = run.scripts.commit_and_claim(run.id, plan or run.plan, finished, wanted, holder=holder)
    return None if found is None else [Claimed("run", 1, 0, None, values) for values in found]


def stored(world, run):
    """All that is stored but for what differs from run to run; one entry of a history may tell several events."""
    kept = {key: value for key, value in world.dump().items() if not key.endswith(":history")}
    told = [event for _, event in run.world.store.history(run.id)]
    text = json.dumps([readable(kept), told], sort_keys=True)
    varying = (
        *((run.id, "RUN"), (world.prefix, "KEYS"), (r"1\d{12}(-\d+)?", "INSTANT"), (MADE_UP, "TOKEN")),
        (r'"detail": \d+', '"detail": "DURATION"'),
    )
    for pattern, name in varying:
        text = re.sub(pattern, name, text)
    return text


def readable(value):
    """What was read from Redis, as JSON can hold it; JSON in it is read too, for its order means nothing."""
    if isinstance(value, bytes):
        with suppress(ValueError):
            return readable(json.loads(value))
        return value.decode()
    if isinstance(value, dict):
        return {readable(name) if isinstance(name, bytes) else name: readable(each) for name, each in value.items()}
    if isinstance(value, (list, tuple, set)):
        found = [readable(each) for each in value]
        return sorted(found) if isinstance(value, set) else found
    return value


@pytest.fixture
def other(world):
    """A second prefix, for the same run on another way."""
    with opened(world.url) as made:
        yield made


@pytest.mark.parametrize("shape", [a_line, a_local_fan])
def test_it_writes_and_answers_what_the_long_way_does(world, other, shape):
    (run, first, steps), (same, _, _) = shape(world), shape(other)
    for each in (run, same):
        each.claim(first, token_of(first))
    for done, behind in steps:
        assert onward(same, done, behind) == by_the_long_way(run, done, behind)
        assert stored(other, same) == stored(world, run), f"after {done}"


def commit_and_pull(run, item, token, follower):
    first = run.scripts.commit_call(run.id, run.plan.hash, item, token, output=b'"x"', follows=True)
    second = run.scripts.claim_call(
        run.id, run.plan.hash, "item", epoch=1, token=follower, holder=HOLDER, lease_ms=LEASE_MS
    )
    moved, (claimed,) = run.scripts.send_with_claims(first, [second])
    assert moved.outcome == "stored"
    return claimed


def next_item(run, item, token, follower, *, holder=HOLDER):
    return run.scripts.next_item(run.id, run.plan, Done(item, token, b'"x"'), follower=follower, holder=holder)


def test_from_item_to_item_it_does_what_the_long_way_does(world, other):
    run, same = (mapped_run(each, 5, max_concurrency=3) for each in (world, other))
    for each in (run, same):
        each.claim("item", token_of("0"))
    for number in range(4):
        tokens = f"item[{number}]", token_of(str(number)), token_of(str(number + 1))
        assert next_item(same, *tokens) == commit_and_pull(run, *tokens)
        assert stored(other, same) == stored(world, run), f"after item {number}"


def held(world, plan=None):
    run = world.run(plan or line_plan("a", "b", "c"))
    run.claim("a", token_of("a"))
    return run, "a", "b"


def cancelled(world):
    run, *rest = held(world)
    run.cancel()
    return run, *rest


def resumed(world):
    run = world.run(line_plan("a", "b"))
    run.break_off("a")
    run.resume()
    run.claim("a", token_of("a"))
    return run, "a", "b"


def tried_again(world):
    run = world.run(line_plan("a", "b"))
    run.break_off("a", delay_ms=0)
    run.wake("a")
    run.claim("a", token_of("a"))
    return run, "a", "b"


def given_to_another(world):
    run, *rest = held(world)
    run.lose("a", token_of("a"))
    run.hold("a")
    return run, *rest


def with_a_sibling_left(world):
    """Nobody can claim what is behind the step yet, and nobody has said what is."""
    run = world.run(fan_plan(2))
    run.claim("m-0", token_of("m-0"))
    run.claim("m-1", token_of("m-1"))
    return run, "m-0 m-1", ""


def with_a_sibling_that_failed(world):
    run = world.run(fan_plan(2, on_failure="continue", require=1))
    run.break_off("m-1")
    run.claim("m-0", token_of("m-0"))
    return run, "m-0", "after"


def of_a_run_at_another_position(world):
    run, *rest = held(world)
    run.commit("a", token_of("a"))
    return run, *rest


UNUSUAL = [
    cancelled, resumed, tried_again, given_to_another, with_a_sibling_left, with_a_sibling_that_failed,
    of_a_run_at_another_position,
]  # fmt: skip


@pytest.mark.parametrize("case", UNUSUAL)
def test_what_is_not_plain_is_left_to_the_long_way(world, case):
    run, done, behind = case(world)
    with world.unchanged():
        assert onward(run, done, behind) is None


def test_it_needs_the_plan_the_holder_and_the_token_of_the_run(world):
    run, done, behind = held(world)
    with world.unchanged():
        assert onward(run, done, behind, plan=line_plan("a", "b")) is None
        assert onward(run, done, behind, holder="worker/2") is None
        assert onward(run, done, behind, tokens={"a": new_token()}) is None


def the_last_item(world):
    run = mapped_run(world, 1)
    return run, "item[0]", run.hold("item")


def beside_an_item_to_be_repeated(world):
    run = mapped_run(world, 3)
    lost, token = run.hold("item"), run.hold("item")
    run.lose("item[0]", lost)
    return run, "item[1]", token


def in_a_map_over_its_width(world):
    run = mapped_run(world, 4, max_concurrency=2)
    token = run.hold("item")
    run.world.client.hset(run.world.keys.run(run.id), "running", 3)
    return run, "item[0]", token


def in_a_map_that_is_cancelled(world):
    run = mapped_run(world, 4)
    token = run.hold("item")
    run.cancel()
    return run, "item[0]", token


@pytest.mark.parametrize(
    "case", [the_last_item, beside_an_item_to_be_repeated, in_a_map_over_its_width, in_a_map_that_is_cancelled]
)
def test_an_item_that_is_not_plain_is_left_to_the_long_way(world, case):
    run, item, token = case(world)
    with world.unchanged():
        assert next_item(run, item, token, new_token()) is None


def test_another_s_item_is_left_to_the_long_way(world):
    run = mapped_run(world, 3)
    token = run.hold("item")
    with world.unchanged():
        assert next_item(run, "item[0]", token, new_token(), holder="worker/2") is None
        assert next_item(run, "item[0]", new_token(), new_token()) is None


@pytest.mark.parametrize("shape", [a_line, a_local_fan])
def test_a_call_whose_answer_was_lost_is_answered_by_the_long_way(world, shape):
    run, first, ((done, behind), *_) = shape(world)
    run.claim(first, token_of(first))
    given = onward(run, done, behind)
    with world.unchanged():
        assert onward(run, done, behind) is None
        assert by_the_long_way(run, done, behind) == given


def test_an_item_whose_answer_was_lost_is_answered_by_the_long_way(world):
    run = mapped_run(world, 3)
    call = ("item[0]", run.hold("item"), new_token())
    given = next_item(run, *call)
    with world.unchanged():
        assert next_item(run, *call) is None
        assert commit_and_pull(run, *call) == given


def test_only_nodes_that_the_plan_shows_to_be_plain_are_asked_for():
    limiter = SharedRateLimiter("api", 1, per=timedelta(minutes=1))
    assert line_plan("a", "b").plain == {"a", "b"}
    assert line_plan("a", shared_rate_limit=limiter).plain == frozenset()
    assert fan_plan(2).plain == {"after"}, "members that Celery joins are no case for it"
    assert local_plan().plain == {"a", "m-0", "m-1", "m-2", "b"}
    undone = plan_of(flow().then(node("a", undone="succeeded")))
    assert undone.plain == {"a"}, "what undoes it is not"
    assert replace(undone, nodes={}).plain == frozenset()
