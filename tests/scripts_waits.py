"""Nodes that wait, in script tests: plans with them, the scripts that end them, and instants that have come."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.scripts_world import flow, plan_of

if TYPE_CHECKING:
    from orchestrator.store.scripts.outside import Outside


def lead(*steps, name="f"):
    """A plan of gates and nodes one behind the other."""
    builder = flow(name)
    for step in steps:
        builder.then(step)
    return plan_of(builder)


def outside(run) -> Outside:
    found: Outside = run.scripts.outside
    return found


def make_due(world, run, name):
    """Let the due instant of a node that waits have come."""
    record = run.node(name)
    assert world.client.zscore(world.keys.timers, f"{run.id}|{name}") == record["due"]
    now = world.store.now_ms()
    world.client.hset(world.keys.nodes(run.id), name, json.dumps(record | {"due": now}))
    world.client.zadd(world.keys.timers, {f"{run.id}|{name}": now})


def waiting_rows(world, kind):
    return world.members(f"{world.keys.index}:waiting:{kind}")
