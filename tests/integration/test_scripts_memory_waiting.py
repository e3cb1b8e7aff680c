"""At maxmemory a script of nodes that wait, of pauses and of undoing is refused before its first write."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
import redis

from orchestrator import SharedRateLimiter, approval, signal, sleep
from tests.full_server import fill, free
from tests.scripts_world import FAILURE, fan_plan, flow, line_plan, new_token, node, plan_of

HOUR = timedelta(hours=1)
LIMITER = SharedRateLimiter("api", 1, per=timedelta(minutes=1))


def gate(world, made):
    """A run that waits at a gate, with a node behind it."""
    return world.run(plan_of(flow().then(made).then(node("last"))))


def make_due(world, run, name):
    world.client.hset(world.keys.nodes(run.id), name, json.dumps(run.node(name) | {"due": 1}))


def entry_of_a_gate(world):
    run = world.run(plan_of(flow().then(node("first")).then(signal("paid", int).with_timeout(HOUR))))
    token = run.hold("first")
    return lambda: run.commit("first", token)


def signal_that_a_gate_takes(world):
    run = gate(world, signal("paid", int))
    send = run.scripts.outside.send_signal
    return lambda: send(run.id, run.plan.hash, "paid", b"1", is_checked=True, key="k")


def signal_that_lies_in_the_inbox(world):
    run = world.run(plan_of(flow().then(node("first")).then(signal("paid", int))))
    send = run.scripts.outside.send_signal
    return lambda: send(run.id, run.plan.hash, "paid", b"1", is_checked=True, key="k")


def judgement_of_a_signal(world):
    run = gate(world, signal("paid", int))
    run.scripts.outside.send_signal(run.id, run.plan.hash, "paid", b"1", is_checked=False)
    judge = run.scripts.outside.judge_signal
    return lambda: judge(run.id, run.plan.hash, "paid", 0, fits=True, text=b"1")


def vote_that_is_not_the_last(world):
    run = gate(world, approval("ok", quorum=2))
    return lambda: run.scripts.outside.vote(run.id, run.plan.hash, "ok", verb="approve", by="ann", reason="")


def rejection(world):
    run = gate(world, approval("ok"))
    return lambda: run.scripts.outside.vote(run.id, run.plan.hash, "ok", verb="reject", by="ann", reason="")


def opened_callback(world):
    run = world.run(line_plan("a"))
    token = run.hold("a")
    return lambda: run.scripts.outside.open_callback(run.id, run.plan.hash, "a", token, "secret")


def attempt_that_lets_its_node_wait(world):
    run = world.run(line_plan("a"))
    token = run.hold("a")
    run.scripts.outside.open_callback(run.id, run.plan.hash, "a", token, "secret")
    wait = run.scripts.outside.wait
    return lambda: wait(run.id, run.plan.hash, "a", token, waits="callback", lasts_ms=1000)


def end_of_a_callback(world):
    run = world.run(line_plan("a", "b"))
    token = run.hold("a")
    run.scripts.outside.open_callback(run.id, run.plan.hash, "a", token, "secret")
    run.scripts.outside.wait(run.id, run.plan.hash, "a", token, waits="callback")
    end = run.scripts.outside.end_callback
    return lambda: end(run.id, run.plan.hash, "a", verb="complete", text=b"1", secret="secret", generation=0)


def wake_of_a_sleep(world):
    run = gate(world, sleep("nap", HOUR))
    make_due(world, run, "nap")
    return lambda: run.wake("nap")


def timeout_of_a_gate(world):
    run = gate(world, signal("paid", int).with_timeout(HOUR))
    make_due(world, run, "paid")
    return lambda: run.wake("paid")


def pause(world):
    run = world.run(line_plan("a"))
    return lambda: world.scripts.pause(run.id, run.plan.hash, reason="r")


def resume_of_a_paused_run(world):
    run = world.run(line_plan("a"))
    world.scripts.pause(run.id, run.plan.hash, reason="r")
    return run.resume


def undo(world):
    run = world.run(line_plan("a", undone="succeeded"))
    run.do("a")
    return lambda: world.scripts.undo(run.id, run.plan.hash, token=new_token(), failure=FAILURE)


def start_of_a_delayed_run(world):
    plan = line_plan("a")
    return lambda: world.start(plan, key="k", begins="+60000")


def numbers_of_an_operator(world):
    world.run(fan_plan(2, shared_rate_limit=LIMITER))
    return lambda: world.scripts.set_limit("api", "1000000 5")


def freeze_by_an_operator(world):
    world.run(fan_plan(2, shared_rate_limit=LIMITER))
    return lambda: world.scripts.freeze_limit("api", 2**51)


@pytest.mark.parametrize(
    "prepare",
    [
        entry_of_a_gate, signal_that_a_gate_takes, signal_that_lies_in_the_inbox, judgement_of_a_signal,
        vote_that_is_not_the_last, rejection, opened_callback, attempt_that_lets_its_node_wait, end_of_a_callback,
        wake_of_a_sleep, timeout_of_a_gate, pause, resume_of_a_paused_run, undo, start_of_a_delayed_run,
        numbers_of_an_operator, freeze_by_an_operator,
    ],
    ids=lambda prepare: prepare.__name__,
)  # fmt: skip
def test_what_can_wait_is_refused_as_a_whole_and_works_later(small, prepare):
    call = prepare(small)
    fill(small)
    with small.unchanged(), pytest.raises(redis.OutOfMemoryError):
        call()
    free(small)
    call()
