"""Cost of limits that often end a pool process, beside plain Celery with the same: `python -m benchmarks.recycling`.

Every round runs the same work on raw canvas and on these flows, one after the other, on one server. A figure is the
time as a ratio to raw canvas in the same round, the median over the rounds with the lowest and highest; and how many
messages a worker was given for each node, of which one would do.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.__main__ import spread, workers
from orchestrator.server import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = ("raw", "few")
STEPS = {"chain-10": 10, "fan": 12, "revoked": 10}
"""Tasks of each kind of work."""
MIXED = {"chain-10": 8, "fan": 5}
LIMITS: Mapping[str, tuple[tuple[str, ...], Mapping[str, int]]] = {
    "max-tasks-per-child 5": (("--max-tasks-per-child", "5"), MIXED),
    "max-memory-per-child 1000": (("--max-memory-per-child", "1000"), MIXED),
    "every second task revoked and its process ended": ((), {"revoked": 14}),
}
"""Of each limit the options of the workers, and how much of which work is done under it."""


def run_all(contender: Any, works: Mapping[str, int]) -> float:
    """Start all of the work and wait for it; return seconds."""
    began = time.perf_counter()
    started = [contender.start(work) for work, count in works.items() for _ in range(count)]
    for each in started:
        contender.wait(each)
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recycling", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="limits whose name has this in it")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(EmbeddedServer(folder / "server"))
        url = server.url.rsplit("/", 1)[0]
        os.environ["BENCH_REDIS_URL"] = url
        from benchmarks.contenders import contender  # noqa: PLC0415 - it reads where the server is

        made = {name: contender(name) for name in NAMES}
        lines = ["| limit | seconds of raw canvas | ours, raw = 1 | messages a node |", "|---|---|---|---|"]
        for limit, (worker_options, works) in LIMITS.items():
            if options.only not in limit:
                continue
            rounds = []
            with contextlib.ExitStack() as running:
                for name in NAMES:
                    running.enter_context(workers(name, url, folder, *worker_options))
                for _ in range(options.rounds):
                    rounds.append({name: run_all(made[name], works) for name in NAMES})
                    sys.stdout.write(f"{limit}: {rounds[-1]}\n")
                    sys.stdout.flush()
            nodes = options.rounds * sum(STEPS[work] * count for work, count in works.items())
            received = (folder / "few.log").read_text().count("] received")
            seconds = spread([each["raw"] for each in rounds])
            ratios = spread([each["few"] / each["raw"] for each in rounds])
            lines.append(f"| {limit} | {seconds} | {ratios} | {received / nodes:.2f} |")
        made["raw"].app.backend.remove_pending_result = lambda result: result  # the server goes before its results do
        sys.stdout.write("\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
