"""Version 0.1.0 beside this one: a run that either has begun is ended by the other, whatever it was stopped in.

The old version is its wheel. What it left behind is not a file of ours: an old client starts runs, an old worker takes
each into its middle and is killed there. Which version made a call is told by the call.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import redis

from orchestrator.server import EmbeddedServer
from orchestrator.store.keys import Keys
from tests.chaos.world import check_keys, check_run
from tests.harness import ROOT, WorkerProcess, environment_for, load_program, wait_until
from tests.processes import running
from tests.warm import run_python

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from orchestrator import FlowRun

PROGRAM = "tests.programs.fleet"
WHEEL = ROOT / "tests" / "data" / "celery_orchestrator-0.1.0-py3-none-any.whl"
OLD_CLIENT = """
import json, sys
from tests.programs.fleet import LIBRARY, orchestrator
names, key = sys.argv[1].split(","), sys.argv[2]
print(json.dumps([LIBRARY, {name: orchestrator.start(name, idempotency_key=key + name).id for name in names}]))
"""
# What each run gives, None if it fails; and who was undone, in this order.
RESULTS: dict[str, Any] = {
    "fleet-chain": 3,
    "fleet-fused": 3,
    "fleet-fan": 25,
    "fleet-local": 25,
    "fleet-map": [0, 2, 4, 6, 8, 10],
    "fleet-pages": 5,
    "fleet-saga": None,
    "fleet-undoing": None,
    "fleet-branch": 6,
    "fleet-retry": 2,
    "fleet-limits": 2,
    "fleet-slots": 2,
    "fleet-mended": 2,
}
UNDONE = {"fleet-saga": ["one/1"], "fleet-undoing": ["two/2", "one/1"]}
HELD = RESULTS.keys() - {"fleet-limits"}
"""They say that they are in their middle; of the limits the second call waits in line."""
CHILDREN = len(HELD) + 4
TICKED = re.compile(r"Task orchestrator\.tick\S+ succeeded")


@dataclass
class Fleet:
    """One server, the old version in a folder, and what happened.

    Attributes:
        server: Of both versions.
        folder: Where workers and beats are started: not in the root, which has this version in it.
        old: The old version, unpacked.
        program: The program on this version, for its client.
        missed: The instant of the schedule.
        runs: By who started them and where they were stopped, then by flow.
        schedules: Names under which schedules keep their instants, after each version's beat.
        beats: What the beats wrote.
    """

    server: EmbeddedServer
    folder: Path
    old: Path
    program: Any
    missed: datetime
    runs: dict[str, dict[str, FlowRun]] = field(default_factory=dict)
    schedules: list[list[str]] = field(default_factory=list)
    beats: list[str] = field(default_factory=list)

    @property
    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.server.url, decode_responses=True)

    def environment(self, *, is_old: bool, **more: str) -> dict[str, str]:
        path = {"PYTHONPATH": f"{self.old}{os.pathsep}{ROOT}"} if is_old else {}
        return environment_for(self.server.url, lease="3", reconcile_every="0.5") | path | more

    @contextmanager
    def worker(self, name: str, *, is_old: bool, **more: str) -> Iterator[WorkerProcess]:
        made = WorkerProcess(
            PROGRAM,
            name,
            self.folder / f"{name}.log",
            environment=self.environment(is_old=is_old, **more),
            options=["-c", str(CHILDREN), "--without-gossip"],
            folder=self.folder,
        )
        try:
            wait_until(made.is_up, f"{name} is ready", timeout=60)
            yield made
        finally:
            made.stop()

    def is_mended(self) -> bool:
        """Whether runs are indexed as this version does, also those that the old one has moved."""
        older = [f"orchestrator:index:status:{status}" for status in ("pending", "running", "compensating")]
        older += [f"orchestrator:index:flow:{name}" for name in RESULTS]
        live, left = self.client.zcard("orchestrator:live"), self.client.zcard("orchestrator:index:status:open")
        return not self.client.exists(*older) and live == left

    def start_as_old(self, key: str) -> dict[str, FlowRun]:
        """Let a client of the old version start every flow."""
        done = run_python(["-c", OLD_CLIENT, ",".join(RESULTS), key], self.environment(is_old=True), folder=self.folder)
        assert done.returncode == 0, done.stderr
        library, ids = json.loads(done.stdout)
        assert library.startswith(str(self.old)), "the client is not of the old version"
        return {name: self.program.orchestrator.get(run_id) for name, run_id in ids.items()}

    def start_as_new(self, key: str) -> dict[str, FlowRun]:
        return {name: self.program.orchestrator.start(name, idempotency_key=key + name) for name in RESULTS}

    def tick(self, worker: WorkerProcess, *, is_old: bool) -> None:
        """Let a beat of a version find the instant that was missed; all beats have one schedule file."""
        (name,) = names = self.schedule_names()
        self.client.hset("orchestrator:slots", name, round(self.missed.timestamp() * 1000) - 60_000)
        options = ["-m", "celery", "-A", PROGRAM, "beat", "-l", "info", "-s", str(self.folder / "schedule")]
        log = self.folder / f"beat-{len(self.beats)}.log"
        with running(options, folder=self.folder, log=log, environment=self.environment(is_old=is_old)) as process:
            process.wait_for(f"Sending due task orchestrator.tick {name}")
            wait_until(lambda: TICKED.search(worker.log.read_text()), "the tick is handled")
            self.beats.append(process.text)
        self.schedules.append(names)

    def schedule_names(self) -> list[str]:
        return [str(name) for name in self.client.hkeys("orchestrator:slots") if "|" not in str(name)]

    def is_stopped(self, runs: dict[str, FlowRun]) -> bool:
        """Every run is in its middle, or has failed and waits to be mended."""
        held = set(self.program.LEDGER.names("held"))
        in_line = self.client.zcard(bucket_keys("fleet-seldom")[1])
        return in_line == 1 and {runs[name].id for name in HELD} <= held and runs["fleet-mended"].status == "failed"

    def libraries(self, *runs: FlowRun) -> set[str]:
        """Files of the library by which the nodes of runs were called."""
        ids = {run.id for run in runs}
        lines = [line.split(" ") for line in self.program.LEDGER.names("start")]
        return {library for name, library in lines if name.split("/")[0] in ids}


def bucket_keys(name: str) -> Sequence[str]:
    return Keys("orchestrator").bucket(name)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    old = folder / "old"
    with zipfile.ZipFile(WHEEL) as wheel:
        wheel.extractall(old)
    missed = (datetime.now(UTC) - timedelta(minutes=1)).replace(second=0, microsecond=0)
    with EmbeddedServer(folder / "server") as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_CRON", f"{missed.minute} {missed.hour} {missed.day} {missed.month} *")
        yield play(Fleet(server, folder, old, load_program("fleet", server.url), missed))


def play(fleet: Fleet) -> Fleet:
    """The old version alone, then this one alone, then both; waits for the end of every run."""
    ledger = fleet.program.LEDGER
    with fleet.worker("old", is_old=True) as old:
        fleet.tick(old, is_old=True)
        stopped = fleet.runs["old, stopped in the middle"] = fleet.start_as_old("stopped")
        wait_until(lambda: fleet.is_stopped(stopped), "every run is in its middle", timeout=60)
        old.kill()
    fleet.runs["old, not begun"] = fleet.start_as_old("waiting")
    ledger.client.mset({fleet.program.GO_ON: 1, fleet.program.MENDED: 1})
    with fleet.worker("new", is_old=False, TEST_PER_S="1") as new:
        stopped["fleet-mended"].resume()
        fleet.tick(new, is_old=False)
        for runs in list(fleet.runs.values()):
            end(runs)
        with fleet.worker("old-again", is_old=True, TEST_PER_S="1"):
            for number in range(2):
                fleet.runs[f"old, beside new {number}"] = fleet.start_as_old(f"beside-{number}")
                fleet.runs[f"new, beside old {number}"] = fleet.start_as_new(f"new-{number}")
            for runs in fleet.runs.values():
                end(runs)
        # Behind the end of the old worker: under load it may have taken the lead, and it knows no new indexes.
        wait_until(fleet.is_mended, "the leader has put every run into the indexes that it belongs to", timeout=30)
    return fleet


def end(runs: dict[str, FlowRun]) -> None:
    for run in runs.values():
        with suppress(TimeoutError):  # whose test says so
            run.wait(timeout=60)


def check_end(fleet: Fleet, name: str, run: FlowRun) -> None:
    """A run ended as its flow does, with each node's effect recorded once, and undid what it had to."""
    check_run(run, "failed" if RESULTS[name] is None else "succeeded")
    if RESULTS[name] is not None:
        assert run.result() == RESULTS[name]
    undone = [line.partition("/")[2] for line in fleet.program.LEDGER.names("undo") if line.startswith(run.id)]
    assert list(dict.fromkeys(undone)) == UNDONE.get(name, [])


@pytest.mark.parametrize("name", RESULTS)
def test_a_run_that_the_old_version_began_goes_on_from_where_it_was(name, fleet):
    stopped = fleet.runs["old, stopped in the middle"][name]
    check_end(fleet, name, stopped)
    libraries = fleet.libraries(stopped)
    assert any(library.startswith(str(fleet.old)) for library in libraries), "the old worker was not of the old version"
    assert str(ROOT / "orchestrator" / "__init__.py") in libraries, "this version called nothing"


def test_a_history_has_what_either_version_wrote(fleet):
    for runs in fleet.runs.values():
        for run in runs.values():
            events = [event.event for event in run.history()]
            assert (events[0], events[-1]) == ("run-started", f"run-{run.status}")
            begun = {(event.node, event.attempt) for event in run.history() if event.event == "started"}
            ended = {(event.node, event.attempt) for event in run.history() if event.event == "succeeded"}
            assert ended <= begun


@pytest.mark.parametrize("name", RESULTS)
def test_a_run_that_an_old_client_started_is_run_by_this_version(name, fleet):
    waiting = fleet.runs["old, not begun"][name]
    check_end(fleet, name, waiting)
    assert fleet.libraries(waiting) == {str(ROOT / "orchestrator" / "__init__.py")}


@pytest.mark.parametrize("name", RESULTS)
def test_a_fleet_of_both_ends_every_run(name, fleet):
    for who, runs in fleet.runs.items():
        if "beside" in who:
            check_end(fleet, name, runs[name])


@pytest.mark.parametrize("who", ["old", "new"])
def test_in_a_fleet_of_both_either_runs_what_either_started(who, fleet):
    runs = [run for key, runs in fleet.runs.items() if key.startswith(f"{who}, beside") for run in runs.values()]
    assert {library.startswith(str(fleet.old)) for library in fleet.libraries(*runs)} == {True, False}


def test_a_key_of_the_old_version_holds_its_run(fleet):
    for name, run in fleet.start_as_new("stopped").items():
        assert run.id == fleet.runs["old, stopped in the middle"][name].id


def test_an_instant_that_an_old_beat_started_is_not_started_again(fleet):
    (report,) = fleet.program.LEDGER.names("report")
    (run,) = fleet.program.orchestrator.runs(flow="fleet-reports")
    assert report == f"{run.id} {fleet.missed.isoformat()}"
    first, second = fleet.schedules
    assert first == second, "a schedule has another name"
    assert [text for text in fleet.beats if re.search("Traceback|Reset|orrupted", text)] == []


def test_every_run_is_listed_and_counted_by_how_it_ended(fleet):
    runs = [run for runs in fleet.runs.values() for run in runs.values()]
    listed = {row.id: row.status for row in fleet.program.orchestrator.runs(limit=1000).rows}
    assert {run.id: listed.get(run.id) for run in runs} == {run.id: run.status for run in runs}
    totals = fleet.program.orchestrator.totals()
    assert (totals.open, totals.succeeded + totals.failed) == (0, len(listed))


def test_nothing_is_left(fleet):
    check_keys(fleet.client)
