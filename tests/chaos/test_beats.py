"""Three beats at once, one of them killed and one paused: each instant of a schedule has one run, in real minutes."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from datetime import datetime, timedelta

import pytest

from orchestrator.engine import engine_of
from orchestrator.schedules import slots_of
from orchestrator.server import EmbeddedServer
from tests.harness import environment_for, load_program, wait_until, workers
from tests.processes import running

MODULE = "tests.programs.scheduled"
MINUTE = timedelta(minutes=1)
INSTANTS = 30
KILLED_AT, PAUSED_AT, GOES_ON_AT = 6, 10, 20


@pytest.mark.chaos_long
@pytest.mark.timeout(3000)
def test_three_beats_start_one_run_for_each_of_thirty_minutes(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_CRON", "* * * * *")
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer(tmp_path / "server"))
        program = load_program("scheduled", server.url)
        stack.enter_context(workers(MODULE, server.url, tmp_path / "workers"))
        slots = slots_of(engine_of(program.app).registry.flows["reports"])
        beats = [
            stack.enter_context(
                running(
                    ["-m", "celery", "-A", MODULE, "beat", "-l", "info", *options],
                    folder=tmp_path / name,
                    log=tmp_path / f"{name}.log",
                    environment=environment_for(server.url),
                )
            )
            for name, options in {
                "killed": [],
                "paused": [],
                "filed": ["--scheduler", "celery.beat:PersistentScheduler", "-s", "schedule"],
            }.items()
        ]

        def instants() -> dict[str, list[datetime]]:
            """The instants that each of the two schedules has started a run for, as its runs have written down."""
            found: dict[str, list[datetime]] = {"north": [], "south": []}
            for line in program.LEDGER.names("report"):
                name, instant, _ = line.split()
                found[name].append(datetime.fromisoformat(instant))
            return found

        def wait_for(count: int) -> None:
            left = (count - min(map(len, instants().values()))) * 60 + 120
            wait_until(lambda: min(map(len, instants().values())) >= count, f"{count} instants", timeout=left)

        wait_for(KILLED_AT)
        os.kill(beats[0].process.pid, signal.SIGKILL)
        wait_for(PAUSED_AT)
        os.kill(beats[1].process.pid, signal.SIGSTOP)
        try:
            wait_for(GOES_ON_AT)
        finally:
            os.kill(beats[1].process.pid, signal.SIGCONT)
        wait_for(INSTANTS)
        found = instants()
    assert len(slots) == len(found) == 2
    for each in found.values():
        taken = sorted(each)[:INSTANTS]
        assert taken == [taken[0] + number * MINUTE for number in range(INSTANTS)], (
            "one run for each minute, and no other"
        )
        assert len(set(each)) == len(each)
