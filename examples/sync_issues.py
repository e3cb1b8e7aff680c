"""Example `python -m examples.sync_issues`: sync a paginated API into SQLite while its worker is killed.

It starts everything it needs: a server, the API as a process of its own, and workers. A second sync fetches only what
is new.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import Request, urlopen

from celery import Celery

from examples.issue_flow import flow
from orchestrator import FlowRun, Orchestrator
from orchestrator.server import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parent.parent
PAGES_BEFORE_THE_KILL = 7
NEW_ISSUES = 60
PATIENCE_S = 60


@contextmanager
def running(*command: str, environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process until the block ends, then kill it with its children; its output goes to the log."""
    with log.open("a") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its children at once, as a host that loses its power does."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Poll until the condition holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {PATIENCE_S} s")
        time.sleep(0.02)


@contextmanager
def running_api(folder: Path) -> Iterator[str]:
    """Run the API and return its address."""
    log = folder / "api.log"
    with running("examples.issue_api", environment={}, log=log):
        wait_for(lambda: log.read_text().endswith("\n"), "the API serves")
        yield f"http://127.0.0.1:{log.read_text().strip()}"


def count_pages(run: FlowRun) -> int:
    """Return the number of pages stored so far."""
    return sum(event.event == "page" for event in run.history())


def count_requests(api: str) -> dict[str, int]:
    """Return the API's requests by answer."""
    with urlopen(f"{api}/requests", timeout=10) as response:  # noqa: S310
        counts: dict[str, int] = json.load(response)
    return counts


def show(run: FlowRun, database: Path) -> None:
    """Print the outcome of a run."""
    with closing(sqlite3.connect(database)) as issues:
        rows, numbers = issues.execute("SELECT COUNT(*), COUNT(DISTINCT number) FROM issues").fetchone()
    print(f"{run.status}: {count_pages(run)} pages; SQLite has {rows} issues, {numbers} different ones")


def main() -> None:
    """Sync, kill the worker, finish with another, and sync again."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(EmbeddedServer(folder / "server")).url
        environment = {"ISSUES_DB": str(folder / "issues.sqlite"), "ORCHESTRATOR_REDIS_URL": url}
        environment |= {"ORCHESTRATOR_LEASE": "2", "ORCHESTRATOR_RECONCILE_EVERY": "0.5"}
        api = environment["ISSUES_API"] = stack.enter_context(running_api(folder))

        worker = ("celery", "-A", "examples.issue_flow", "worker", "-c", "2")
        first = stack.enter_context(running(*worker, environment=environment, log=folder / "worker.log"))
        orchestrator = Orchestrator(Celery("client", broker=url, backend=url))
        run = orchestrator.start(flow)
        wait_for(lambda: count_pages(run) >= PAGES_BEFORE_THE_KILL, "pages are fetched")
        kill(first)
        print(f"the worker was killed: the run is {run.status}, another worker goes on")
        stack.enter_context(running(*worker, environment=environment, log=folder / "worker.log"))
        run.wait(timeout=PATIENCE_S)
        show(run, folder / "issues.sqlite")
        asked = count_requests(api)
        print("the API failed:", ", ".join(f"{asked[fault]} x {fault}" for fault in ("503", "hang-up")))

        with urlopen(Request(f"{api}/issues?count={NEW_ISSUES}", method="POST"), timeout=10):  # noqa: S310
            print(f"{NEW_ISSUES} issues are new")
        run = orchestrator.start(flow)
        run.wait(timeout=PATIENCE_S)
        show(run, folder / "issues.sqlite")
        print("the next run begins after issue", orchestrator.cursor(flow, "issues"))


if __name__ == "__main__":
    main()
