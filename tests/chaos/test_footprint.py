"""A worker stays small: what it holds is the same after many faults and failures as after a few."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
import uuid
from pathlib import Path

import pytest

from orchestrator import StoreError
from tests.chaos.load_faults import drop_clients, staged, stop_server
from tests.chaos.world import World
from tests.footprint import Footprint
from tests.harness import child_pids, wait_until

ENDS = {"refused": "failed", "stumbles": "succeeded", "fused": "failed", "parts": "succeeded", "saga": "failed"}
SHORT = ("refused", "stumbles", "fused", "parts")
KEPT_MB = 12.0
"""What a pool process may grow by once it is warm: a few failures of `programs/wasteful.py` held 40 and more."""
UNUSED = 2
SOAK_S = float(os.environ.get("SOAK_S", "1800"))
LOOK_EVERY_S = 10.0
CURVES = Path("build/soak.jsonl")


@pytest.fixture
def scene(wasteful):
    with staged(wasteful, "7") as made:
        yield made


@pytest.fixture(scope="module")
def wasteful(tmp_path_factory):
    """One worker of two processes, for the module: its footprint is compared with what it was."""
    with World(tmp_path_factory.mktemp("wasteful"), workers=1, program="tests.programs.wasteful") as made:
        made.start_workers()
        end_all(made, SHORT * 4)
        yield made


def start(orchestrator, name):
    """Start a run, again until Redis answers; its record is the same."""
    key = uuid.uuid4().hex

    def attempt():
        try:
            return orchestrator.start(name, idempotency_key=key)
        except StoreError:
            return None

    return wait_until(attempt, f"{name} is started", timeout=60)


def end_all(world, names, strike=lambda: None):
    """Start runs, do something to them, and see that each ends as it would have."""
    runs = [(name, start(world.through, name)) for name in names]
    strike()
    for name, run in runs:
        assert run.wait(timeout=90) == ENDS[name], (name, run.error)


def footprints(world):
    """Of the worker's main process, and of each of its pool processes."""
    main = world.workers[0].pid
    return Footprint.of(main), [Footprint.of(pid) for pid in child_pids(main)]


@pytest.mark.chaos_long
def test_a_saga_of_maps_that_are_tried_again_takes_little_memory(wasteful):
    _, before = footprints(wasteful)
    end_all(wasteful, ["saga"])
    _, now = footprints(wasteful)
    assert max(each.peak_mb for each in now) <= max(each.peak_mb for each in before) + KEPT_MB, (before, now)


@pytest.mark.chaos_long
def test_lost_connections_leave_no_file_open(wasteful, scene):
    end_all(wasteful, SHORT, lambda: drop_clients(scene))
    main, pool = footprints(wasteful)
    for strike in (drop_clients, stop_server, drop_clients, drop_clients):
        end_all(wasteful, SHORT, lambda strike=strike: strike(scene))

    def is_tidy():
        end_all(wasteful, SHORT)  # a pool process looks at its connections as it begins with a message
        main, pool = footprints(wasteful)
        # Those of Celery's consumer that were lost at rest are closed with their next use.
        return main.deserted <= UNUSED and not any(each.deserted for each in pool)

    wait_until(is_tidy, "no connection is left in CLOSE-WAIT", timeout=60)
    main_now, pool_now = footprints(wasteful)
    assert main_now.files <= main.files + 5, (main, main_now)
    for before, now in zip(pool, pool_now, strict=True):
        assert now.files <= before.files + 5, (before, now)


def test_failures_leave_nothing_in_a_pool_process(wasteful):
    _, before = footprints(wasteful)
    end_all(wasteful, SHORT * 10)
    _, now = footprints(wasteful)
    assert max(each.peak_mb for each in now) <= max(each.peak_mb for each in before) + KEPT_MB, (before, now)


# --- soak ------------------------------------------------------------------------------------------
def watch(world, began, ended):
    """One row of the curves."""
    main, pool = footprints(world)
    largest = Footprint(
        max(each.files for each in pool),
        sum(each.deserted for each in pool),
        max(each.memory_mb for each in pool),
        max(each.peak_mb for each in pool),
    )
    row = {"at_s": round(time.monotonic() - began), "ended": ended} | main.row("main") | largest.row("pool")
    with CURVES.open("a") as curves:
        curves.write(json.dumps(row) + "\n")
    return row


def median(rows, column):
    return statistics.median(row[column] for row in rows)


@pytest.mark.chaos_long
@pytest.mark.timeout(SOAK_S + 600)
def test_a_worker_is_as_small_after_a_soak_of_faults_as_after_its_first_minutes(wasteful, scene, capsys):
    CURVES.parent.mkdir(exist_ok=True)
    CURVES.write_text("")
    with capsys.disabled():
        sys.stdout.write(f"\ncurves of {SOAK_S:g} s: {CURVES.absolute()}\n")
    began, looked, ended, rows = time.monotonic(), 0.0, 0, []
    while (now := time.monotonic()) < began + SOAK_S:
        strike = scene.rng.choice((drop_clients, drop_clients, stop_server, lambda _scene: None))
        names = (*SHORT * 2, *(["saga"] if scene.rng.random() < 0.2 else []))
        end_all(wasteful, names, lambda strike=strike: strike(scene))
        ended += len(names)
        if now >= looked + LOOK_EVERY_S:
            looked = now
            rows.append(watch(wasteful, began, ended))
    assert wasteful.deaths == 0
    early, late = rows[len(rows) // 5 : 2 * len(rows) // 5], rows[4 * len(rows) // 5 :]
    for column, more in {"main_files": 15, "pool_files": 4, "main_memory_mb": 15, "pool_memory_mb": KEPT_MB}.items():
        assert median(late, column) <= median(early, column) + more, (column, rows)
