"""Try one deployment: every kind of flow on two workers, one of which is killed with everything under way.

Runs in the environment under test, where the package is installed as a user would: `python cell.py <worker options>`.
Prints one line of JSON: whether all held, and what did not.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

COPIES = 4
PATIENCE_S = 90


class Fleet:
    """The workers of a cell, each in a process group of its own."""

    def __init__(self, options: list[str], folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        number = len(self.started)
        command = [sys.executable, "-m", "celery", "-A", "everywhere", "worker", "-l", "info", "-Q", "everywhere"]
        log = (self.folder / f"w{number}.log").open("wb")
        process = subprocess.Popen(
            [*command, "-n", f"w{number}@compat", *self.options], stdout=log, stderr=log, start_new_session=True
        )
        self.started.append(process)
        return process

    def wait_ready(self) -> None:
        deadline = time.monotonic() + 60
        while not all(" ready." in self.log(number) for number in range(len(self.started))):
            ended = [process.returncode for process in self.started if process.poll() is not None]
            assert not ended, f"a worker ended by itself: {self.log(0)[-2000:]}"
            assert time.monotonic() < deadline, f"the workers are not ready: {self.log(0)[-2000:]}"
            time.sleep(0.05)

    def log(self, number: int) -> str:
        return (self.folder / f"w{number}.log").read_text(errors="replace")

    def stop(self) -> list[int]:
        """Stop all that run; returns the exit codes of those that were not killed by the trial itself."""
        alive = [process for process in self.started if process.poll() is None]
        for process in alive:
            process.terminate()
        codes = []
        for process in alive:
            try:
                codes.append(process.wait(timeout=45))
            except subprocess.TimeoutExpired:
                codes.append(-9)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        return codes


def try_cell(options: list[str], folder: Path) -> dict[str, Any]:
    everywhere = import_module("everywhere")  # beside this file; workers load it by the same name
    fleet = Fleet(options, folder)
    problems: list[str] = []
    try:
        victim = fleet.start()
        fleet.start()
        fleet.wait_ready()
        runs = [(name, everywhere.orchestrator.start(name)) for name in everywhere.FLOWS for _ in range(COPIES)]
        deadline = time.monotonic() + 30
        while everywhere.ledger.llen("starts") < COPIES:
            assert time.monotonic() < deadline, f"nothing starts: {fleet.log(0)[-1500:]}"
            time.sleep(0.01)
        os.killpg(victim.pid, signal.SIGKILL)
        victim.wait()
        for name, run in runs:
            expected = "failed" if name == "saga" else "succeeded"
            with suppress(TimeoutError):
                run.wait(timeout=max(1.0, deadline + PATIENCE_S - time.monotonic()))
            if run.status != expected:
                problems.append(f"{name} is {run.status}: {run.error or run.explain()}")
        undone = [run_id.decode() for run_id in everywhere.ledger.lrange("undone", 0, -1)]
        sagas = {run.id for name, run in runs if name == "saga"}
        if set(undone) != sagas:
            problems.append(f"{len(set(undone))} of {len(sagas)} sagas are undone")
        if not all(run.output("item") == [2 * n for n in range(20)] for name, run in runs if name == "map"):
            problems.append("a map has other outputs")
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this cell's result
        problems.append(f"{type(error).__name__}: {error}")
    finally:
        codes = fleet.stop()
    if any(codes):
        problems.append(f"workers ended with {codes}")
    return {"problems": problems}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        began = time.monotonic()
        found = try_cell(sys.argv[1:], Path(scratch))
    print(json.dumps({**found, "seconds": round(time.monotonic() - began, 1)}))
