"""The short way from one plain node or item to the next in the scripts: what the long way writes, or nothing."""

from __future__ import annotations

import json
import re
from contextlib import suppress

import pytest

from tests.scripts_world import (
    HOLDER,
    LEASE_MS,
    Run,
    World,
    fan_plan,
    flow,
    line_plan,
    mapped_run,
    new_token,
    node,
    plan_of,
)

LINE = ("a", "b", "c", "d")
ITEMS = 5
MADE_UP = r"\b(?!0000)[0-9a-f]{32}\b"


def a_line(world):
    run = world.run(plan_of(flow().then(node("a", undone="started")).then(node("b")).then(node("c")).then(node("d"))))
    return run, "a"


def a_map(world):
    return mapped_run(world, ITEMS, max_concurrency=3), "item"


def token_of(number: int) -> str:
    return f"{number:032x}"


def by_the_long_way(run: Run, name: str, behind: str, token: str, follower: str):
    first = run.scripts.commit_call(run.id, run.plan.hash, name, token, output=b'"x"', follows=True)
    second = run.scripts.claim_call(
        run.id, run.plan.hash, behind, epoch=1, token=follower, holder=HOLDER, lease_ms=LEASE_MS, reads=(":input", "a")
    )
    moved, (claimed,) = run.scripts.send_with_claims(first, [second])
    assert moved.outcome == "stored"
    return claimed


def onward(run: Run, name: str, behind: str, token: str, follower: str, *, holder: str = HOLDER, plan=None):
    return run.scripts.onward(
        run.id, plan or run.plan, name, token, output=b'"x"', behind=behind, follower=follower, holder=holder,
        reads=(":input", "a"),
    )  # fmt: skip


def work(world, shape, way):
    """Do all but the last node or item; returns what was answered, and everything that is stored."""
    run, first = shape(world)
    claimed = [run.claim(first, token_of(0))]
    is_map = claimed[0].index is not None
    for number in range(ITEMS - 1 if is_map else len(LINE) - 1):
        name = f"item[{claimed[-1].index}]" if is_map else LINE[number]
        behind = "item" if is_map else LINE[number + 1]
        claimed.append(way(run, name, behind, token_of(number), token_of(number + 1)))
    stored = json.dumps(readable(world.dump()), sort_keys=True)
    for made_here, name in (
        (run.id, "RUN"),
        (world.prefix, "KEYS"),
        (r"1\d{12}(-\d+)?", "INSTANT"),
        (MADE_UP, "TOKEN"),
    ):
        stored = re.sub(made_here, name, stored)
    return claimed[1:], stored


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


@pytest.mark.parametrize("shape", [a_line, a_map])
def test_it_writes_and_answers_what_the_long_way_does(world, shape):
    long = work(world, shape, by_the_long_way)
    other = World(world.url)
    try:
        short = work(other, shape, onward)
        assert None not in short[0]
        assert short == long
        other.check()
    finally:
        other.close()


def held(world, plan=None):
    run = world.run(plan or line_plan(*LINE))
    return run, "a", "b", run.hold("a")


def cancelled(world):
    run, *rest = held(world)
    run.cancel()
    return run, *rest


def resumed(world):
    run = world.run(line_plan(*LINE))
    run.break_off("a")
    run.resume()
    return run, "a", "b", run.hold("a")


def tried_again(world):
    run = world.run(line_plan(*LINE))
    run.break_off("a", delay_ms=0)
    run.wake("a")
    return run, "a", "b", run.hold("a")


def given_to_another(world):
    run, name, behind, token = held(world)
    run.lose(name, token)
    run.hold(name)
    return run, name, behind, token


def one_of_several(world):
    run = world.run(fan_plan(2))
    return run, "m-0", "after", run.hold("m-0")


def the_last_item(world):
    run = mapped_run(world, 1)
    return run, "item[0]", "item", run.hold("item")


def beside_an_item_to_be_repeated(world):
    run = mapped_run(world, 3)
    lost, token = run.hold("item"), run.hold("item")
    run.lose("item[0]", lost)
    return run, "item[1]", "item", token


def in_a_map_at_its_width(world):
    """Its limit was lowered while more were at work: nobody may take another one."""
    run = mapped_run(world, 4, max_concurrency=2)
    token = run.hold("item")
    run.world.client.hset(run.world.keys.run(run.id), "running", 3)
    return run, "item[0]", "item", token


UNUSUAL = [
    cancelled, resumed, tried_again, given_to_another, one_of_several, the_last_item, beside_an_item_to_be_repeated,
    in_a_map_at_its_width,
]  # fmt: skip


@pytest.mark.parametrize("case", UNUSUAL)
def test_what_is_not_plain_is_left_to_the_long_way(world, case):
    run, name, behind, token = case(world)
    with world.unchanged():
        assert onward(run, name, behind, token, new_token()) is None


def test_it_needs_the_plan_and_the_holder_of_the_run(world):
    run, name, behind, token = held(world)
    with world.unchanged():
        assert onward(run, name, behind, token, new_token(), plan=line_plan("a", "b")) is None
        assert onward(run, name, behind, token, new_token(), holder="worker/2") is None
        assert onward(run, name, behind, new_token(), new_token()) is None


@pytest.mark.parametrize("shape", [a_line, a_map])
def test_a_call_whose_answer_was_lost_is_answered_by_the_long_way(world, shape):
    run, first = shape(world)
    claimed = run.claim(first, token_of(0))
    name, behind = (f"item[{claimed.index}]", "item") if claimed.index is not None else ("a", "b")
    given = onward(run, name, behind, token_of(0), token_of(1))
    with world.unchanged():
        assert onward(run, name, behind, token_of(0), token_of(1)) is None
        assert by_the_long_way(run, name, behind, token_of(0), token_of(1)) == given
