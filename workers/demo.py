"""Demo, `make demo`: the flow `inspect-packages` on an embedded server and two real worker processes, event by event.

One run succeeds although SQLite is locked at first; another is refused by a strict policy and compensated. Whatever
happens, a signal included, everything that was started has ended when this program does.
"""

import argparse
import fcntl
import os
import shutil
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path

from celery import Celery

from orchestrator import Event, FlowRun, Orchestrator, OrchestratorError, RunStatus
from orchestrator.server import EmbeddedServer
from workers.display import describe_event, draw_table, draw_timeline
from workers.flows.packages import MIB, Inspection, Policy, Receipt, Report, Verdict, check, flow, remove, store
from workers.processes import ROOT, FlowerProcess, WorkerEnded, WorkerProcess, stop_workers

READY_S = 60.0
RUN_S = 120.0
POLL_S = 0.05
SMALL_SAMPLE = 6
ROWS_OF_RUN = "SELECT COUNT(*) FROM packages WHERE run_id = ?"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class DemoFailed(Exception):
    """The demo did not go as planned; the text says what happened."""


class Watch:
    """Watch for what ends the demo early: a signal, or a worker that exits by itself.

    The handler only notes a signal, and the demo checks for it wherever it waits: an exception raised by a handler
    could strike between the start of a process and the line that remembers it, or during the clean-up.
    """

    def __init__(self) -> None:
        self.workers: list[WorkerProcess] = []
        self._signals: list[int] = []
        for number in SIGNALS:
            if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # started by nohup
            signal.signal(number, lambda received, _frame: self._signals.append(received))

    def check(self) -> None:
        """Do nothing while all is well.

        Raises:
            DemoFailed: A signal came.
            WorkerEnded: A worker is gone.
        """
        if self._signals:
            raise DemoFailed(f"stopped by {signal.Signals(self._signals[0]).name}")
        for worker in self.workers:
            worker.check_alive()

    def wait_for_signal(self) -> None:
        """Return when a signal has come.

        Raises:
            WorkerEnded: A worker is gone.
        """
        while not self._signals:
            self.check()
            time.sleep(POLL_S)

    def wait_until(self, condition: Callable[[], bool], what: str, *, limit_s: float) -> None:
        """Poll until the condition holds.

        Raises:
            DemoFailed: It does not hold in time, or a signal came.
            WorkerEnded: A worker is gone.
        """
        deadline = time.monotonic() + limit_s
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise DemoFailed(f"{what}: not within {limit_s:g} s")
            time.sleep(POLL_S)


class Screen:
    """Output lines; on a terminal the last line is a status that says what runs now."""

    def __init__(self) -> None:
        if isinstance(sys.stdout, TextIOWrapper):  # package metadata is not ASCII, and the terminal may be
            sys.stdout.reconfigure(errors="replace")
        self._is_live = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._status = ""

    def show(self, *lines: str) -> None:
        """Print lines above the status."""
        for line in lines:
            print(f"\r\x1b[K{line}" if self._is_live else line, flush=True)
        self._status = ""

    def show_status(self, text: str) -> None:
        """Replace the last line of a terminal; anything else would get a line for each change."""
        shown = text[: shutil.get_terminal_size().columns - 1]
        if self._is_live and shown != self._status:
            print(f"\r\x1b[K{shown}", end="", flush=True)
            self._status = shown


@dataclass(frozen=True)
class Stage:
    """Surroundings of the demo: its directory, the watch for signals and workers, and the screen."""

    home: Path
    watch: Watch
    screen: Screen

    @property
    def database(self) -> Path:
        """The SQLite file that the runs store their rows in."""
        return self.home / "packages.sqlite"


def main() -> int:
    """Run the demo and return the exit code."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m workers.demo", description=(__doc__ or "").partition("\n")[0])
    default = ROOT / ".orchestrator" / "demo"
    parser.add_argument("directory", nargs="?", type=Path, default=default, help="for logs and data (%(default)s)")
    parser.add_argument("--keep", action="store_true", help="leave Flower open on the two runs until Ctrl-C")
    options = parser.parse_args()
    stage = Stage(options.directory.absolute(), Watch(), Screen())
    try:
        with claimed_directory(stage.home), running_workers(stage) as orchestrator:
            first = show_report(stage, orchestrator)
            show_refusal(stage, orchestrator, first=first)
            if options.keep:
                keep_open(stage, str(orchestrator.app.conf.result_backend), first)
    except (DemoFailed, WorkerEnded, OrchestratorError, OSError, sqlite3.Error) as error:
        if isinstance(error, BrokenPipeError):  # the reader is gone; the interpreter must not fail to flush at its exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"\nThe demo failed: {error}\nEverything that it started has ended.", file=sys.stderr)
        return 1
    stage.screen.show("", f"Done in {time.monotonic() - began:.1f} s; everything that was started has ended.")
    return 0


@contextmanager
def claimed_directory(home: Path) -> Iterator[None]:
    """Lock a directory for one demo at a time, and remove what an earlier one left in it.

    Raises:
        DemoFailed: Another demo holds it.
    """
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DemoFailed(f"another demo runs in {home}; give a directory: python -m workers.demo DIR") from error
        shutil.rmtree(home / "server", ignore_errors=True)
        for left in home.glob("packages.sqlite*"):  # with its journal, which SQLite would apply to a new file
            left.unlink()
        yield


@contextmanager
def running_workers(stage: Stage) -> Iterator[Orchestrator]:
    """Run a server and two workers until the block ends."""
    home, workers, show = stage.home, stage.watch.workers, stage.screen.show
    with EmbeddedServer(home / "server") as server:
        environment = {"ORCHESTRATOR_REDIS_URL": server.url}
        try:
            for name in ("worker-1", "worker-2"):
                workers.append(WorkerProcess(name, home / f"{name}.log", environment=environment))
            show(f"An embedded server on {server.url}, pid {server.process.pid}")
            for worker in workers:
                show(f"celery -A workers.app worker, as {worker.name}, pid {worker.pid}, log {worker.log}")
            stage.watch.wait_until(
                lambda: all(worker.is_ready() for worker in workers), "the start of the workers", limit_s=READY_S
            )
            app = Celery("demo", broker=server.url, backend=server.url, config_source="celeryconfig")
            yield Orchestrator(app)
        finally:
            with suppress(OSError):  # a closed terminal must not keep the workers alive
                show("", "Stopping the workers and the server ...")
            stop_workers(workers)


def show_report(stage: Stage, orchestrator: Orchestrator) -> FlowRun:
    """Show a run that succeeds: its events, its table, the branch it took, and where its time went."""
    database, show = stage.database, stage.screen.show
    given = Inspection(database=str(database))
    show("", f"RUN 1: the {given.sample} largest of the installed distributions. Until store-rows has met it,")
    show(f"another process (this one) holds the writer lock of {database.name}.")
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        run = orchestrator.start(flow, given)

        def let_go(event: Event) -> None:
            if (event.event, event.node) == ("retrying", store.name):
                other.close()
                show(f"{'':11}{database.name} was locked; the other process lets go of it now")

        status = follow(stage, run, on_event=let_go)
    if status is not RunStatus.SUCCEEDED:
        raise DemoFailed(f"run 1 ended {status}: {run.error}")
    events, report, verdict = run.history(), run.result(Report), run.output("verdict", Verdict)
    if not any((event.event, event.node) == ("retrying", store.name) for event in events):
        raise DemoFailed("store-rows had no second attempt although the database was locked")
    show("", *draw_table(report), "", f"The branch that was taken: {verdict.branch}")
    show(*(f"  {line}" for line in verdict.lines))
    show(f"Stored in SQLite: {count_rows(database, run)} rows of run {run.id}", f"  {database}")
    show("", "TIMELINE of run 1", *draw_timeline(events))
    return run


def show_refusal(stage: Stage, orchestrator: Orchestrator, *, first: FlowRun) -> None:
    """Show a run that fails after it stored its rows, and that they are removed again, and no others."""
    database, show = stage.database, stage.screen.show
    # Half of the largest size is a limit that some package exceeds on every machine.
    limit_mib = round(max(row.bytes for row in first.result(Report).rows) / MIB / 2, 1)
    policy = Policy(heavy_mib=limit_mib, strict=True)
    show("", f"RUN 2: the {SMALL_SAMPLE} largest under a strict policy, nothing over {limit_mib:g} MiB.")
    run = orchestrator.start(flow, Inspection(database=str(database), sample=SMALL_SAMPLE, policy=policy))
    status, error = follow(stage, run), run.error
    if status is not RunStatus.FAILED or error is None or error.node_name != check.name:
        raise DemoFailed(f"run 2 was to be refused by {check.name}, and ended {status}: {error}")
    left, kept = count_rows(database, run), count_rows(database, first)
    receipt = run.output(store.output_key, Receipt)
    show("", f"Run 2 {status}: {error.node_name}: {error.message}")
    show(f"{store.name} had stored {receipt.rows} rows; {remove.name} compensated:")
    show(f"  {ROWS_OF_RUN}", f"  run 2, {run.id}: {left}", f"  run 1, {first.id}: {kept}")
    if left or not kept:
        raise DemoFailed(f"{left} rows of run 2 are left and {kept} of run 1; they were to be none and all")


def keep_open(stage: Stage, url: str, run: FlowRun) -> None:
    """Show the runs in Flower until a signal comes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"ORCHESTRATOR_REDIS_URL": url}
    flower = FlowerProcess("flower", stage.home / "flower.log", environment=environment, port=port)
    stage.watch.workers.append(flower)
    stage.watch.wait_until(flower.is_ready, "the start of Flower", limit_s=READY_S)
    stage.screen.show(
        "", f"Both runs: http://127.0.0.1:{port}/flows", f"Run 1:     http://127.0.0.1:{port}/flows/run/{run.id}"
    )
    stage.screen.show("Ctrl-C ends Flower, the workers and the server.")
    stage.watch.wait_for_signal()


def follow(stage: Stage, run: FlowRun, *, on_event: Callable[[Event], None] = lambda _event: None) -> RunStatus:
    """Show what happens to a run until it has ended."""
    seen: list[Event] = []
    running: dict[str, None] = {}

    def has_ended() -> bool:
        is_final = run.status.is_final  # before the history is read, so that the history is complete
        for event in run.history()[len(seen) :]:
            seen.append(event)
            stage.screen.show(describe_event(event, seen[0].at))
            on_event(event)
            running.pop(event.node, None)
            if event.event == "started":
                running[event.node] = None
        stage.screen.show_status(f"           running: {', '.join(running) or 'nothing'}")
        return is_final

    stage.watch.wait_until(has_ended, f"the end of run {run.id}", limit_s=RUN_S)
    stage.screen.show_status("")
    return run.status


def count_rows(database: Path, run: FlowRun) -> int:
    """Count the stored rows of a run."""
    with closing(sqlite3.connect(database)) as connection:
        row = connection.execute(ROWS_OF_RUN, (run.id,)).fetchone()
    return int(row[0])


if __name__ == "__main__":
    sys.exit(main())
