"""Figures of the Flows tab: first paint of every page with 100,000 runs in the store, and what an open page costs.

`python -m tests.page_figures` prints medians with their range, beside Flower's own page of a task of the same run in
the same Flower. It reads /proc, so it works on Linux only.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

from benchmarks.cpu import spent
from orchestrator.server import EmbeddedServer
from orchestrator.store.keys import Keys
from tests.browser import Browser, browser
from tests.flower import Flower, flower_process
from tests.harness import load_program, wait_until, workers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MODULE = "tests.programs.shown"
FLOWERS = "Flower's page of the task"
AT_ONCE = 500
APART_MS = 500
"""Milliseconds between the starts of two runs."""
POLLS = 10
EVERY_S = 2.0
"""How often an open page asks."""
POLLED = ("run", "runs", "flows", "schedules")
PAINT = "const e = performance.getEntriesByName('first-contentful-paint')[0]; return e ? e.startTime : 0"


def multiply(client: redis.Redis, ids: Sequence[str], count: int) -> None:
    """Copy runs, with their places in the indexes and earlier starts, until there are so many."""
    keys = Keys("orchestrator")
    own = {run_id: [key.decode() for key in client.scan_iter(f"{keys.run(run_id)}*", count=10_000)] for run_id in ids}
    indexes = [key for key in client.scan_iter("orchestrator:index:*", count=10_000) if client.type(key) == b"zset"]
    places = {run_id: [(key, client.zscore(key, run_id)) for key in indexes] for run_id in ids}
    for first in range(0, count, AT_ONCE):
        pipe = client.pipeline(transaction=False)
        for number in range(first, min(first + AT_ONCE, count)):
            run_id = ids[number % len(ids)]
            copy = f"{number:08x}" + run_id[8:]
            for key in own[run_id]:
                pipe.copy(key, key.replace(run_id, copy))
            for key, score in places[run_id]:
                if score is not None:
                    pipe.zadd(key, {copy: score - APART_MS * number})
        pipe.execute()


def told(values: Sequence[float], unit: str = "ms") -> str:
    """Return a median with its range."""
    return f"{statistics.median(values):.0f} {unit} ({min(values):.0f} to {max(values):.0f})"


def first_paints(page: Browser, address: str, paths: dict[str, str], rounds: int) -> dict[str, list[float]]:
    """Open every page in turn, so often, and return when its first content was painted, in ms."""
    found: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(rounds):
        for name, path in paths.items():
            page.open(address + path)
            found[name].append(wait_until(lambda: page.run(PAINT), f"{name} is painted"))
    return found


def answers(flower: Flower, paths: dict[str, str], rounds: int) -> dict[str, list[float]]:
    """Ask for every page in turn, so often, and return how long the whole answer took, in ms."""
    found: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(rounds):
        for name, path in paths.items():
            answer = flower.get(path)
            assert answer.status == 200, (path, answer.text[-500:])
            found[name].append(1000 * answer.took)
    return found


def used(pids: Sequence[int], act: Callable[[], Any]) -> float:
    """Do something ten times, as an open page does; returns the share of a core that some processes used meanwhile."""
    begun, before = time.monotonic(), sum(map(spent, pids))
    for number in range(POLLS):
        act()
        time.sleep(max(0.0, begun + (number + 1) * EVERY_S - time.monotonic()))
    return (sum(map(spent, pids)) - before) / (time.monotonic() - begun)


def asker(flower: Flower, path: str) -> Callable[[], None]:
    """Return a function that asks as an open page does: with the version that it has."""
    version = "-"

    def ask() -> None:
        nonlocal version
        answer = flower.get(f"{path}{'&' if '?' in path else '?'}live={version}")
        assert answer.status in {200, 204}, answer.text[-500:]
        found = re.search(r'data-version="([^"]*)"', answer.text)
        version = found[1] if found else version

    return ask


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.page_figures", description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, EmbeddedServer(Path(scratch) / "server") as server:
        home = Path(scratch)
        program = load_program("shown", server.url)
        with (
            workers(MODULE, server.url, home, options=["-c", "4"]),
            flower_process(MODULE, server.url, home / "flower") as flower,
            browser(home / "profile") as page,
        ):
            client = redis.Redis.from_url(server.url)
            ended = [program.orchestrator.start(name) for name in ("order", "order", "sweep-carts", "sweep-carts")]
            for run in ended:
                run.wait(timeout=60)
            multiply(client, [run.id for run in ended], options.runs)
            waits = program.orchestrator.start("enrich-issues", 3)
            program.LEDGER.wait_for("start", "enrich-prs")
            wait_until(lambda: any(each.state == "parked" for each in waits.explain()), "enrich-jira waits")
            wait_until(lambda: flower.get(f"/task/{waits.id}").status == 200, "Flower has heard of the run")
            measure(flower, page, waits.id, int(client.info("server")["process_id"]), options.rounds)
            program.LEDGER.client.set("go", 1)


def measure(flower: Flower, page: Browser, run_id: str, redis_pid: int, rounds: int) -> None:
    """Print the figures of one deployment."""
    paths = {
        FLOWERS: f"/task/{run_id}",
        "run": f"/flows/run/{run_id}",
        "runs": "/flows",
        "runs, oldest filter": "/flows?until=7h&status=failed&flow=order",
        "flows": "/flows/flows",
        "a flow": "/flows/flow/order",
        "limits": "/flows/limits",
        "schedules": "/flows/schedules",
        "workers": "/flows/workers",
    }
    answers(flower, paths, 1)  # compiles the templates
    took = answers(flower, paths, rounds)
    painted = first_paints(page, flower.address, paths, rounds)
    page.open("about:blank")
    out = sys.stdout.write
    out("| page | answer | first paint | beside Flower's |\n|---|---|---|---|\n")
    for name in paths:
        ratios = [own / other for own, other in zip(painted[name], painted[FLOWERS], strict=True)]
        beside = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        out(f"| {name} | {told(took[name])} | {told(painted[name])} | {beside} |\n")
    pids = [flower.process.process.pid, redis_pid]
    shares: dict[str, list[float]] = {name: [] for name in POLLED}
    for _ in range(3):
        idle = used(pids, lambda: None)
        for name in POLLED:
            shares[name].append(100 * (used(pids, asker(flower, paths[name])) - idle))
    for name, found in shares.items():
        of_core = f"{statistics.median(found):.2f} % of a core ({min(found):.2f} to {max(found):.2f})"
        out(f"an open page, {name}: {of_core}\n")


if __name__ == "__main__":
    main()
