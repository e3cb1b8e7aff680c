"""The full load while faults of every kind come in random order, two of them at the same time now and then."""

from __future__ import annotations

import os
import random
import threading

import pytest

from tests.chaos.full_load import is_right, measure
from tests.chaos.load_faults import FAULTS, Fault, Scene

# What acts on the server comes one at a time: it cannot be filled while it is down.
SERVER = [name for name in FAULTS if name.startswith(("server", "memory", "power"))]
OTHERS = [name for name in FAULTS if name not in SERVER]


def strike_twice(scene: Scene) -> None:
    """One fault of the server, and one of something else at the same moment."""
    one, other = FAULTS[scene.rng.choice(SERVER)], FAULTS[scene.rng.choice(OTHERS)]
    beside = threading.Thread(target=other.strike, args=(scene,))
    beside.start()
    one.strike(scene)
    beside.join(30)


@pytest.mark.chaos_long
@pytest.mark.timeout(300)
def test_everything_at_once_loses_nothing(tmp_path):
    seed = int(os.environ.get("SEED") or random.randrange(10**6))
    print(f"SEED={seed}")  # noqa: T201 - shown when the test fails
    mixed = Fault(strike_twice, every_s=4.5, times=3, after_s=1.5, repeats=None, is_between=True)
    load = measure("mixed", mixed, system="ours", seed=seed, folder=tmp_path)
    assert load.in_progress, "no strike hit work in progress"
    assert is_right(load), load
