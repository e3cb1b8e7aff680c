"""Cost of an item of a large map beside a member of a raw chord: `python -m benchmarks.items`.

Every round runs a raw chord and a map of as many items with batches of 1, 10 and 100, one after the other on the same
server; then maps of growing length show whether an item costs the same in all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

from benchmarks.__main__ import workers
from orchestrator.server import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Iterator

LENGTHS = (100, 1_000, 10_000, 100_000)
BATCH = 10
AGAIN = 5
LOOK_EVERY_S = 0.05


@dataclass(frozen=True)
class Cost:
    """One map or chord: seconds in total and in the client, and the server's peak bytes beyond those before."""

    total: float
    client: float
    peak: float


@contextlib.contextmanager
def peak_of(client: redis.Redis) -> Iterator[list[int]]:
    """Sample the server's memory in the block; the last entry of the list is the peak."""
    before, seen, over = client.info("memory")["used_memory"], [0], threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_EVERY_S):
            seen.append(max(seen[-1], client.info("memory")["used_memory"] - before))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def measure(contender: Any, client: redis.Redis, count: int, batch: int) -> Cost:
    """Run one map or chord."""
    with peak_of(client) as seen:
        began = time.perf_counter()
        started = contender.start_items(count, batch)
        sent = time.perf_counter()
        contender.wait(started)
        return Cost(time.perf_counter() - began, sent - began, seen[-1])


def of_length(contender: Any, client: redis.Redis, length: int) -> Cost:
    """Return the median of several maps of one length, or a single long one."""
    costs = [measure(contender, client, length, BATCH) for _ in range(AGAIN if length < LENGTHS[-2] else 1)]
    return sorted(costs, key=lambda cost: cost.total)[len(costs) // 2]


def line(name: str, costs: list[Cost], raw: list[Cost], count: int) -> str:
    """Return one line of the table."""
    speed = sorted(base.total / cost.total for base, cost in zip(raw, costs, strict=True))
    client = statistics.median(cost.client / base.client for base, cost in zip(raw, costs, strict=True))
    peak = statistics.median(cost.peak for cost in costs) / count
    spread = f"{statistics.median(speed):.2f} ({speed[0]:.2f} to {speed[-1]:.2f})"
    return f"| {name} | {spread} | {client:.4f} | {peak:.0f} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.items", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--longest", type=int, default=LENGTHS[-1], help="no map of the second table is longer")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(EmbeddedServer(folder / "server"))
        url = server.url.rsplit("/", 1)[0]
        os.environ["BENCH_REDIS_URL"] = url
        from benchmarks.contenders import BATCHES, contender  # noqa: PLC0415 - it reads where the server is

        raw, ours = contender("raw"), contender("ours")
        client = redis.Redis.from_url(server.url)
        for name in ("raw", "ours"):
            stack.enter_context(workers(name, url, folder))
        rows: dict[str, list[Cost]] = {}
        for number in range(options.rounds):
            rows.setdefault("raw chord", []).append(measure(raw, client, options.items, 1))
            for batch in BATCHES:
                cost = measure(ours, client, options.items, batch)
                rows.setdefault(f"map, batches of {batch}", []).append(cost)
            sys.stdout.write(f"round {number + 1} of {options.rounds}\n")
            sys.stdout.flush()
        sys.stdout.write(
            f"\n| {options.items} items | items a second, raw = 1 | client time, raw = 1 | peak bytes an item |\n"
        )
        sys.stdout.write("|---|---|---|---|\n")
        for name, costs in rows.items():
            sys.stdout.write(line(name, costs, rows["raw chord"], options.items) + "\n")
        sys.stdout.write(
            "\n| items, batches of 10 | time an item, of 1000 = 1 | without the start | peak bytes an item |\n"
        )
        sys.stdout.write("|---|---|---|---|\n")
        lengths = [length for length in LENGTHS if length <= options.longest]
        start = statistics.median(measure(ours, client, BATCH, BATCH).total for _ in range(AGAIN))
        measured = {length: of_length(ours, client, length) for length in lengths}
        for length, cost in measured.items():
            whole = cost.total / length / (measured[1_000].total / 1_000)
            alone = (cost.total - start) / (length - BATCH) / ((measured[1_000].total - start) / (1_000 - BATCH))
            sys.stdout.write(f"| {length} | {whole:.2f} | {alone:.2f} | {cost.peak / length:.0f} |\n")
        raw.app.backend.remove_pending_result = lambda result: result  # the server goes before its results do


if __name__ == "__main__":
    main()
