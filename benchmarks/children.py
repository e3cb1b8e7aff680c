"""Cost of child runs, beside the same nodes in the parent: `python -m benchmarks.children`.

Every round runs both, one after the other, on one server and the same workers: many runs at once, and runs one after
the other. A figure is the time with the nodes in a child as a ratio to the time with them in the parent, the median
over the rounds with the lowest and highest.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.__main__ import spread, workers
from orchestrator.server import EmbeddedServer

NAME = "nested"
MANY, ONE_BY_ONE = 60, 20


def run_all(contender: Any, work: str) -> float:
    """Run many at once; return seconds."""
    began = time.perf_counter()
    for started in [contender.start(work) for _ in range(MANY)]:
        contender.wait(started)
    return time.perf_counter() - began


def run_each(contender: Any, work: str) -> float:
    """Run some one after the other; return seconds."""
    began = time.perf_counter()
    for _ in range(ONE_BY_ONE):
        contender.wait(contender.start(work))
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.children", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(EmbeddedServer(folder / "server"))
        url = os.environ["BENCH_REDIS_URL"] = server.url.rsplit("/", 1)[0]
        from benchmarks.contenders import NESTED, contender  # noqa: PLC0415 - it reads where the server is

        made = contender(NAME)
        stack.enter_context(workers(NAME, url, folder))
        lines = ["| nodes in the child | mode | many at once | one after the other |", "|---|---|---|---|"]
        for length, mode in product(NESTED, ("", "-fused")):
            ratios: list[list[float]] = [[], []]
            for number in range(rounds + 1):
                for found, run in zip(ratios, (run_all, run_each), strict=True):
                    flat, nested = (run(made, f"{kind}-{length}{mode}") for kind in ("flat", "nested"))
                    if number > 0:  # the first round warms up
                        found.append(nested / flat)
            shown = " | ".join(spread(found) for found in ratios)
            lines.append(f"| {length} | {mode.removeprefix('-') or 'a task a node'} | {shown} |")
            sys.stdout.write(lines[-1] + "\n")
            sys.stdout.flush()
        sys.stdout.write("\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
