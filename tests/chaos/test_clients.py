"""kill -9 of who starts runs: a client around the start script, and beat between an instant and its message."""

from __future__ import annotations

import signal
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import redis

from orchestrator.fault_points import FAULTS_VARIABLE, hits_file
from orchestrator.server import EmbeddedServer
from tests.chaos.world import check_keys, check_run
from tests.harness import Ledger, environment_for, wait_until, workers
from tests.processes import running
from tests.warm import run_python

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from orchestrator import FlowRun
    from tests.chaos.world import World

CLIENT = """
import sys
from celery import Celery
from orchestrator import Orchestrator
url, key = sys.argv[1:]
print(Orchestrator(Celery("client", broker=url, backend=url)).start("chain", idempotency_key=key).id)
"""


def start_in_a_client(world: World, key: str, faults: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Start a run from a process of its own, which may be told to die on the way."""
    own = {FAULTS_VARIABLE: str(faults)} if faults else {}
    return run_python(["-c", CLIENT, world.url, key], environment_for(world.url) | own)


def keys_of(world: World) -> set[str]:
    """Keys of runs, and of their idempotency keys."""
    return {name for part in ("run", "idem") for name in world.client.scan_iter(f"orchestrator:{part}:*")}


@pytest.mark.parametrize("point", ["before_start", "after_start"])
def test_a_client_killed_while_it_starts_a_run_leaves_none_or_a_whole_one(point, world, tmp_path):
    def new_runs() -> list[FlowRun]:
        return [run for run in world.orchestrator().runs(limit=5) if run.id not in older]

    before, older = keys_of(world), {run.id for run in world.orchestrator().runs(limit=5)}
    faults = tmp_path / "faults"
    faults.write_text(f"{point}:kill9:1")
    dead = start_in_a_client(world, point, faults)
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    assert hits_file(faults).read_bytes(), "the point was not reached"
    if point == "before_start":
        assert keys_of(world) == before
        assert new_runs() == []
    else:
        (whole,) = new_runs()
        assert whole.wait(timeout=30) == "succeeded", "nobody has to ask again"
    again = [start_in_a_client(world, point) for _ in range(2)]
    (run,) = new_runs()
    assert [client.stdout.strip() for client in again] == [run.id] * 2, again
    assert run.result(int, timeout=30) == 5
    assert set(check_run(run, "succeeded").values()) == {1}
    assert len(world.ledger.names("start")) == 5
    check_keys(world.client)


def test_a_beat_killed_between_an_instant_and_its_message_loses_no_run(tmp_path, monkeypatch):
    missed = (datetime.now(UTC) - timedelta(minutes=1)).replace(second=0, microsecond=0)
    monkeypatch.setenv("TEST_CRON", f"{missed.minute} {missed.hour} {missed.day} {missed.month} *")
    program = "tests.programs.scheduled"
    beat = ["-m", "celery", "-A", program, "beat", "-l", "info"]
    beat += ["--scheduler", "celery.beat:PersistentScheduler", "-s", str(tmp_path / "schedule")]
    with (
        EmbeddedServer(tmp_path / "server") as server,
        workers(program, server.url, tmp_path / "workers", count=1),
    ):
        client, ledger = redis.Redis.from_url(server.url, decode_responses=True), Ledger(server.url)
        for slot in client.hkeys("orchestrator:slots"):
            client.hset("orchestrator:slots", slot, round(missed.timestamp() * 1000) - 60_000)
        environment = environment_for(server.url)
        dying = environment | {"TEST_BEAT_DIES": "1"}
        with running(beat, folder=tmp_path, log=tmp_path / "dead.log", environment=dying) as dead:
            wait_until(lambda: dead.process.poll() is not None, "beat dies")
            assert dead.process.returncode == -signal.SIGKILL
            assert "Sending due task orchestrator.tick" in dead.text
        assert ledger.names("report") == []
        assert list(client.scan_iter("orchestrator:run:*")) == []
        with running(beat, folder=tmp_path, log=tmp_path / "next.log", environment=environment) as successor:
            successor.wait_for("Sending due task orchestrator.tick", times=2)
            wait_until(lambda: len(ledger.names("report")) == 2, "two reports")
            wait_until(lambda: not client.llen("celery") and not client.hlen("unacked"), "every hint is handled")
        reports = ledger.names("report")
        assert sorted(line.split()[0] for line in reports) == ["north", "south"]
        assert {line.split()[1] for line in reports} == {missed.isoformat()}
        check_keys(client)
