"""Processor time of a flow by process: `python -m benchmarks.cpu`.

It prints milliseconds a flow of the client, the workers' main processes, their pool processes and the server, while
many flows run. It reads /proc, so it works on Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import redis

from benchmarks.__main__ import run_all, workers
from orchestrator.server import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Mapping

WORK = ("chain-10", "fan-local")
PLACES = ("client", "main processes", "pool processes", "server")


def spent(pid: int) -> float:
    """Return the seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Return the child processes of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def total(places: Mapping[str, list[int]]) -> dict[str, float]:
    """Return the seconds that each kind of process has used so far."""
    return {place: sum(map(spent, pids)) for place, pids in places.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__)
    parser.add_argument("--flows", type=int, default=200)
    options = parser.parse_args()
    sys.stdout.write(f"| work | contender | {' | '.join(PLACES)} | together |\n|---|---|{'---|' * (len(PLACES) + 1)}\n")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(EmbeddedServer(folder / "server"))
        url = server.url.rsplit("/", 1)[0]
        os.environ["BENCH_REDIS_URL"] = url
        from benchmarks.contenders import contender  # noqa: PLC0415 - it reads where the server is

        server_pid = redis.Redis.from_url(server.url).info("server")["process_id"]
        for name in ("raw", "ours", "fused"):
            with workers(name, url, folder) as mains:
                made = contender(name)
                pools = [child for pid in mains for child in children(pid)]
                places = dict(zip(PLACES, ([os.getpid()], mains, pools, [server_pid]), strict=True))
                for work in WORK:
                    run_all(made, work, 5)
                    before = total(places)
                    run_all(made, work, options.flows)
                    used = [1000 * (after - before[place]) / options.flows for place, after in total(places).items()]
                    cells = " | ".join(f"{value:.1f}" for value in (*used, sum(used)))
                    sys.stdout.write(f"| {work} | {name} | {cells} |\n")
                    sys.stdout.flush()
                made.app.backend.remove_pending_result = lambda result: result


if __name__ == "__main__":
    main()
