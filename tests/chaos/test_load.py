"""The load that raw canvas was measured with, in small, under each fault: nothing is lost and nothing counted twice."""

from __future__ import annotations

import uuid

import pytest

from orchestrator import StoreError
from tests.chaos.load_faults import FAULTS, MORE_FAULTS, staged, strike_for
from tests.chaos.world import World, check_keys, check_run
from tests.harness import wait_until

RUNS = 60
KINDS = ("fan", "local", "chain", "items", "chain", "pages")
RESULTS = {"fan": 37, "local": 37, "chain": 5, "items": 46, "pages": 16}
FAULTY_S = 8.0


def start_surely(orchestrator, name, number):
    """Start a run as a careful client does: with an idempotency key, again until Redis answers."""

    def attempt():
        try:
            return orchestrator.start(name, idempotency_key=f"{name}-{number}")
        except StoreError:
            return None

    return wait_until(attempt, f"run {number} is started", timeout=60)


FUSED = ("pool process killed",)
"""In fused flows alone: a process dies in the middle of several nodes."""
ELSEWHERE = ("server restarted", "server killed", "memory full", "connections cut")
"""Faults that `test_redis_away.py`, `test_refusals.py` and `test_network.py` have in short; of a server that is killed
"power lost" says more."""
LONG = [(name, "canvas") for name in (*ELSEWHERE, *FUSED, *MORE_FAULTS)] + [
    (name, "fused") for name in FAULTS if name not in FUSED
]


def case(name, mode, *, marks=()):
    return pytest.param((FAULTS | MORE_FAULTS)[name], mode, id=f"{name}-{mode}", marks=marks)


@pytest.fixture
def world(fault, plain_world, tmp_path):
    """The shared world, or one behind a proxy for what acts between the server and everybody else."""
    if not fault.is_between:
        with plain_world.lent():
            yield plain_world
        return
    with World(tmp_path, proxied=True) as own:
        own.start_workers()
        yield own


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("fault", "mode"),
    [case(name, "canvas") for name in FAULTS if name not in (*ELSEWHERE, *FUSED)]
    + [case(name, "fused") for name in FUSED]
    + [case(*pair, marks=[pytest.mark.chaos_long]) for pair in LONG],
)
def test_no_run_is_lost_and_nothing_is_counted_twice(fault, mode, world):
    about = uuid.uuid4().hex
    kinds = KINDS if mode == "canvas" else [kind if kind == "local" else f"{kind}-fused" for kind in KINDS]

    def start_all(orchestrator):
        return [start_surely(orchestrator, kinds[n % len(kinds)], f"{about}-{n}") for n in range(RUNS)]

    with staged(world, "7") as scene:
        orchestrator = world.orchestrator()
        start_all(orchestrator)
        wait_until(lambda: orchestrator.runs(status="running", limit=1), "work is in progress")
        struck = strike_for(FAULTY_S, fault, scene, lambda: bool(world.client.zcard("orchestrator:live")))
        assert struck.in_progress, "no strike hit work in progress"
        # A power loss may take a start with it that was acknowledged in the lost second: the same key starts it again.
        runs = start_all(orchestrator)
        for run in runs:
            run.wait(timeout=60)
            check_run(run, "succeeded")
        assert [run.result(int) for run in runs] == [RESULTS[KINDS[number % len(KINDS)]] for number in range(RUNS)]
        check_keys(world.client)
        world.check_workers()
