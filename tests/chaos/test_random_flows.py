"""Random flows, with random faults in them: whatever they are made of, each run ends as it must and leaves nothing."""

from __future__ import annotations

import os
import random
import time

import pytest

from tests.chaos.world import World
from tests.random_runs import Stage

PROGRAM = "tests.programs.random_flows"
FLOWS = 50
SEED = "572"
"""Few nodes, of every kind and with every fault."""
MUST_SEE = {"succeeded", "failed", "cancelled", "signal", "approval", "callback", "held", "forked"}
NEW_SEEDS = 10
KILLS = 8
KILL_EVERY_S = 1.5


def world_of(folder, seed, *, workers, concurrency, spare=0):
    settings = {"TEST_SEED": seed, "TEST_FLOWS": str(FLOWS), "TEST_SPARE_ATTEMPTS": str(spare)}
    return World(folder, program=PROGRAM, workers=workers, concurrency=concurrency, **settings)


class Killer:
    """Kills a worker with its children, or one of its children, now and then.

    Args:
        world: Whose workers they are.
        seed: Of the choice.
    """

    def __init__(self, world, seed):
        self.world = world
        self.chance = random.Random(seed)
        self.next = time.monotonic() + KILL_EVERY_S

    def strike(self):
        """Kill, if it is time to and not too often; never a worker that only starts, for it has no work to lose."""
        if time.monotonic() < self.next or self.world.kills >= KILLS or not self.world.is_whole():
            return
        self.chance.choice((self.world.kill_worker, self.world.kill_child))(self.chance)
        self.next = time.monotonic() + KILL_EVERY_S


@pytest.mark.timeout(300)
def test_flows_of_every_shape_end_as_they_must(tmp_path):
    seed = os.environ.get("SEED") or SEED
    with world_of(tmp_path, seed, workers=1, concurrency=4) as world:
        world.start_workers()
        stage = Stage(world.orchestrator(), world.ledger, seed=seed, numbers=range(FLOWS))
        stage.play(timeout=200)
        stage.check_nothing_left()
    assert not MUST_SEE - stage.seen.keys()


@pytest.mark.chaos_long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", range(NEW_SEEDS))
def test_flows_of_every_shape_end_as_they_must_while_workers_are_killed(number, tmp_path):
    seed = f"{os.environ.get('SEED') or random.randrange(10**6)}.{number}"
    with world_of(tmp_path, seed, workers=2, concurrency=2, spare=8) as world:
        world.start_workers()
        stage = Stage(world.orchestrator(), world.ledger, seed=seed, numbers=range(FLOWS), is_calm=False)
        killer = Killer(world, seed)
        stage.play(timeout=500, meanwhile=killer.strike)
        stage.check_nothing_left()
        assert world.kills
        assert world.deaths == 0
