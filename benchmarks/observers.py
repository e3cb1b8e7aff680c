"""Cost of what observes runs, as ratios to none of it in the same rounds: `python -m benchmarks.observers`.

Each variant has an app, a database and a worker of its own on one server. Every round runs the same chains of ten nodes
on each of them, beginning with another one each time; a figure is the median over the rounds of the ratio within a
round, with the lowest and highest. Processor time is that of client, worker and server together (Linux only).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

from benchmarks.__main__ import spread, wait_for
from benchmarks.cpu import children, spent
from orchestrator import FlowBuilder, Node, NodeContext, Orchestrator, hooks, manual
from orchestrator.contrib.opentelemetry_runs import RunTraces
from orchestrator.server import EmbeddedServer
from orchestrator.store import statistics
from orchestrator.store.scripts import assembly

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

LENGTH = 10
WORK = {"a task for each node": 30, "fused": 100}
"""Ways to run the chain, and how many runs a round has of each."""
VARIANTS = ("nothing", "a log line", "a hook", "tracing", "without statistics")


def step() -> str:
    """Return something."""
    return "x" * 200


def logging_step(ctx: NodeContext) -> str:
    """The same with a line that is kept with the run."""
    ctx.logger.info("a line of a usual length about %s", ctx.node_name)
    return "x" * 200


def make_app(variant: str) -> tuple[Celery, Orchestrator]:
    """Return a variant's app and orchestrator with its flows."""
    from benchmarks.contenders import app_on  # noqa: PLC0415 - it reads where the server is

    if variant == "without statistics":
        _leave_statistics_out()
    app = app_on(VARIANTS.index(variant) + 1, "observed")
    orchestrator = Orchestrator(app)
    for name in WORK:
        builder = FlowBuilder(name.replace(" ", "-")).triggered_by(manual("bench"))
        for number in range(LENGTH):
            builder.then(Node(f"n-{number}", logging_step if variant == "a log line" else step))
        orchestrator.register((builder.fused() if name == "fused" else builder).build())
    if variant == "a hook":
        hooks.node_finished.connect(_hear)
    if variant == "tracing":
        _trace(orchestrator)
    return app, orchestrator


def _hear(**_: object) -> None:
    """Hear of a node."""


def _trace(orchestrator: Orchestrator) -> None:
    """Send spans as a deployment does, in batches, to an exporter that drops them."""
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - the other variants have no SDK
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult  # noqa: PLC0415

    class Nowhere(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:  # noqa: ARG002 - the exporter's interface
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    RunTraces(orchestrator, provider.get_tracer("bench")).install()


def _leave_statistics_out() -> None:
    """Count nothing at the end of a run, and measure nothing."""
    counted = "if redis.call('HINCRBY', ends, math.floor(NOW / 3600000) .. '|' .. flow .. '|' .. after, 1) == 1 then"
    original = assembly._read  # noqa: SLF001 - where every text of a script comes from

    def read(*path: str) -> str:
        return original(*path).replace(counted, "if false then")

    assembly._read = read  # noqa: SLF001 - as above
    assert counted not in assembly.script_text("commit_and_claim")  # noqa: S101 - else this measures nothing

    def measure(self: statistics.Measurer) -> None:
        """Measure nothing."""

    statistics.Measurer.measure = measure  # type: ignore[method-assign]


@contextlib.contextmanager
def worker(variant: str, folder: Path) -> Iterator[int]:
    """Run a variant's worker; yield its process id."""
    log = folder / f"{VARIANTS.index(variant)}.log"
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.observers", "worker", "-l", "warning", "-c", "2"]
    with log.open("w") as out:
        environment = os.environ | {"BENCH_OBSERVER": variant}
        process = subprocess.Popen([*command, "--without-gossip"], env=environment, stdout=out, stderr=out)
        try:
            yield process.pid
        finally:
            process.terminate()
            process.wait(60)


def measure(orchestrator: Orchestrator, pids: list[int], work: str) -> tuple[float, float]:
    """Run a round's chains; return seconds, and seconds of processor time."""
    before, began = sum(map(spent, pids)), time.perf_counter()
    runs = [orchestrator.start(work.replace(" ", "-")) for _ in range(WORK[work])]
    for run in runs:
        run.wait(timeout=120)
    took = time.perf_counter() - began
    time.sleep(1.5)  # what the leader does with ended runs is part of the cost
    return took, sum(map(spent, pids)) - before


def rounds_of(count: int, folder: Path) -> list[dict[tuple[str, str], tuple[float, float]]]:
    """Measure every variant in every round; seconds and processor time by work and variant."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer(folder / "server"))
        os.environ["BENCH_REDIS_URL"] = server.url.rsplit("/", 1)[0]
        mains = {variant: stack.enter_context(worker(variant, folder)) for variant in VARIANTS}
        # A client of the plain kind starts the runs of all variants: they share names and shapes.
        clients = {variant: _client(variant) for variant in VARIANTS}
        for variant in VARIANTS:
            wait_for(lambda each=variant: bool(clients[each].workers()), f"the worker of {variant}")  # type: ignore[misc]
        server_pid = redis.Redis.from_url(server.url).info("server")["process_id"]
        found = []
        for number in range(-1, count):  # the first one warms everything up
            order = [*VARIANTS[number % len(VARIANTS) :], *VARIANTS[: number % len(VARIANTS)]]
            figures = {}
            for work in WORK:
                for variant in order:
                    pids = [os.getpid(), server_pid, mains[variant], *children(mains[variant])]
                    figures[work, variant] = measure(clients[variant], pids, work)
            found.append(figures)
        return found[1:]


def _client(variant: str) -> Orchestrator:
    from benchmarks.contenders import app_on  # noqa: PLC0415 - it reads where the server is

    return Orchestrator(app_on(VARIANTS.index(variant) + 1, "observed"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.observers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rounds = rounds_of(options.rounds, Path(folder))
    for place, what in enumerate(("time", "processor time")):
        sys.stdout.write(f"| {what}, nothing = 1 | {' | '.join(WORK)} |\n|---|{'---|' * len(WORK)}\n")
        for variant in VARIANTS:
            cells = [
                spread([each[work, variant][place] / each[work, VARIANTS[0]][place] for each in rounds])
                for work in WORK
            ]
            sys.stdout.write(f"| {variant} | {' | '.join(cells)} |\n")


app = make_app(os.environ["BENCH_OBSERVER"])[0] if "BENCH_OBSERVER" in os.environ else None
if __name__ == "__main__":
    main()
