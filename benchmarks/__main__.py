"""Speed of flows as ratios to raw Celery canvas on the same server in the same rounds: `python -m benchmarks`.

Every round runs every workload on every contender, one after the other; a figure is the median over the rounds of the
ratio within a round, with the lowest and highest.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

from orchestrator.server import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROCESSES = 2
CONCURRENCY = 2
READY_S = 60
LONGEST = 1000
LENGTHS = {10: 15, 100: 5, LONGEST: 1}
"""Lengths of the chains whose cost per step is compared, and how many of each run one after the other."""
WORKER = [sys.executable, "-m", "celery", "-A", "benchmarks.contenders", "worker", "-l", "info"]
WORKER += ["--without-gossip", "--without-mingle"]
Figures = dict[str, float]


def run_all(contender: Any, work: str, count: int) -> tuple[float, float]:
    """Start so many flows and wait for all; return seconds in total, and of the starts."""
    began = time.perf_counter()
    started = [contender.start(work) for _ in range(count)]
    client = time.perf_counter() - began
    for each in started:
        contender.wait(each)
    return time.perf_counter() - began, client


def kept(client: redis.Redis) -> int:
    """Return the bytes of all keys of all databases."""
    total = 0
    place = client.get_connection_kwargs()
    for database in client.info("keyspace"):
        with redis.Redis(place["host"], place["port"], int(database.removeprefix("db"))) as one:
            pipe = one.pipeline(transaction=False)
            for key in one.scan_iter(count=1000):
                pipe.memory_usage(key)
            total += sum(size or 0 for size in pipe.execute())
    return total


def measure(contender: Any, client: redis.Redis, *, quick: bool) -> Figures:
    """Run every workload on one contender; return seconds or bytes."""
    flows = 40 if quick else 200
    before = kept(client)
    chains, starts = run_all(contender, "chain-10", flows)
    figures = {"W1 chain of 10": chains, "W4 client time per start, workers busy": starts / flows}
    figures["W5 bytes left per flow"] = (kept(client) - before) / flows
    figures["W2 fan-out of 10"] = run_all(contender, "fan", flows // 2)[0]
    figures["W2 fan-out of 10, local"] = run_all(contender, "fan-local", flows // 2)[0]
    is_ours = hasattr(contender, "orchestrator")
    for batch in (1, 100):
        figures[f"W3 1000 items, batches of {batch}"] = run_all(contender, f"map-{batch}" if is_ours else "map", 1)[0]
    for work in ("chain-10", "fan", "fan-local"):
        idle = [run_all(contender, work, 1) for _ in range(9)]
        figures[f"W6 idle latency {work}"] = statistics.median(total for total, _ in idle)
        if work == "chain-10":
            figures["W4 client time per start, workers idle"] = statistics.median(client for _, client in idle)
    for length, again in LENGTHS.items():
        if length < LONGEST or not quick:
            took = [run_all(contender, f"chain-{length}", 1)[0] for _ in range(again)]
            figures[f"W7 per step, chain of {length}"] = statistics.median(took) / length
    return figures


@contextlib.contextmanager
def workers(name: str, url: str, folder: Path, *options: str) -> Iterator[list[int]]:
    """Run the worker processes of one contender, with further options; yield their process ids."""
    environment = os.environ | {"BENCH_REDIS_URL": url, "BENCH_CONTENDER": name}
    log = folder / f"{name}.log"
    with log.open("w") as out:
        started = [
            subprocess.Popen(
                [*WORKER, "-n", f"{name}-{number}@%h", "-c", str(CONCURRENCY), *options],
                env=environment,
                stdout=out,
                stderr=out,
            )
            for number in range(PROCESSES)
        ]
        try:
            wait_for(lambda: log.read_text().count(" ready.") == PROCESSES, f"workers of {name}: {log}")
            yield [process.pid for process in started]
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.wait(60)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Poll until a condition holds, for a bounded time."""
    deadline = time.monotonic() + READY_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.1)


def spread(ratios: list[float]) -> str:
    """Return the median with the lowest and highest."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def table(rounds: list[dict[str, Figures]], names: list[str], base: str) -> Iterator[str]:
    """Yield the lines of the table: for each workload, each contender's ratio to the base."""
    ratios: dict[tuple[str, str], list[float]] = defaultdict(list)
    for each in rounds:
        for name in names:
            for work, value in each[name].items():
                ratios[work, name].append(value / each[base][work] if each[base][work] else float("nan"))
    yield f"| time or bytes, {base} = 1 | " + " | ".join(names) + " |"
    yield "|---|" + "---|" * len(names)
    for work in rounds[0][names[0]]:
        cells = [spread(ratios[work, name]) for name in names]
        yield f"| {work} | " + " | ".join(cells) + " |"


def flatness(rounds: list[dict[str, Figures]], names: list[str]) -> Iterator[str]:
    """Yield the lines of a table: cost per step in chains of several lengths, relative to a chain of 100."""
    lengths = [length for length in LENGTHS if f"W7 per step, chain of {length}" in rounds[0][names[0]]]
    yield "| W7 per step, chain of 100 = 1 | " + " | ".join(map(str, lengths)) + " |"
    yield "|---|" + "---|" * len(lengths)
    for name in names:
        cells = []
        for length in lengths:
            one, base = f"W7 per step, chain of {length}", "W7 per step, chain of 100"
            cells.append(spread([each[name][one] / each[name][base] for each in rounds]))
        yield f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="fewer flows, for a look")
    parser.add_argument("--only", default="raw,hardened,ours,fused", help="contenders, separated by commas")
    parser.add_argument("--json", type=Path, help="also write the figures of each round here")
    options = parser.parse_args()
    names = options.only.split(",")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(EmbeddedServer(folder / "server"))
        url = server.url.rsplit("/", 1)[0]
        os.environ["BENCH_REDIS_URL"] = url
        from benchmarks.contenders import contender  # noqa: PLC0415 - its import reads the server's address

        contenders = {name: contender(name) for name in names}
        for name in names:
            stack.enter_context(workers(name, url, folder))
        client = redis.Redis.from_url(server.url)
        for each in contenders.values():
            run_all(each, "chain-10", 3)
        rounds = []
        for number in range(options.rounds):
            rounds.append({name: measure(each, client, quick=options.quick) for name, each in contenders.items()})
            sys.stdout.write(f"round {number + 1} of {options.rounds}\n")
            sys.stdout.flush()
        if options.json:
            options.json.write_text(json.dumps(rounds))
        for each in contenders.values():  # results unsubscribe when collected, and would wait for a stopped server
            each.app.backend.remove_pending_result = lambda result: result
        for base in names[:2]:
            sys.stdout.write("\n" + "\n".join(table(rounds, names, base)) + "\n")
        sys.stdout.write("\n" + "\n".join(flatness(rounds, names)) + "\n")


if __name__ == "__main__":
    main()
