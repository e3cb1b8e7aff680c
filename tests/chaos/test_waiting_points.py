"""kill -9 at each named point of a node that waits: in the worker, in a client that answers it, in the reconciler."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from orchestrator.fault_points import FAULTS_VARIABLE, hits_file
from tests.chaos.world import check_keys
from tests.harness import environment_for, wait_until
from tests.warm import run_python

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from orchestrator import FlowRun
    from tests.chaos.world import World

ANSWER = """
import sys
from celery import Celery
from orchestrator import Orchestrator
url, run_id, how, given = sys.argv[1:]
orchestrator = Orchestrator(Celery("client", broker=url, backend=url))
if how == "signal":
    orchestrator.get(run_id).signal("paid", 3, key="evt-1")
else:
    orchestrator.complete(given, 4)
"""


def answer(world: World, run: FlowRun, how: str, faults: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Answer a run from a process of its own, which may be told to die on the way."""
    own = {FAULTS_VARIABLE: str(faults)} if faults else {}
    given = world.ledger.client.get(f"callback {run.id}") or "none"
    assert isinstance(given, str)
    return run_python(["-c", ANSWER, world.url, run.id, how, given], environment_for(world.url) | own)


def await_waiting(world: World, run: FlowRun) -> None:
    rows = world.orchestrator().waiting
    wait_until(lambda: {row.node for row in rows() if row.run_id == run.id} == {"paid", "ask"}, "both wait", timeout=30)


def finish(world: World, run: FlowRun) -> None:
    """The run ends as if nothing had happened, each node stored once."""
    assert run.result(int, timeout=60) == 3 + 4 + 1
    done = [event.node for event in run.history() if event.event == "succeeded"]
    assert sorted(done) == ["ask", "cool-off", "first", "last", "paid"]
    check_keys(world.client)


@pytest.mark.parametrize(
    "point",
    [
        "before_wait@ask",
        "after_store@ask",
        "after_publish@ask",
        "after_store@first",
        "before_judge@paid",
        "after_judge@paid",
    ],
)
def test_a_worker_killed_at_a_point_of_waiting_loses_nothing(point, world):
    world.fail_at(f"{point}:kill9:1")
    run = world.orchestrator().start("waits")
    wait_until(lambda: world.ledger.client.get(f"callback {run.id}"), "the callback is known", timeout=30)
    run.signal("paid", 3)
    world.orchestrator().complete(world.ledger.client.get(f"callback {run.id}"), 4)
    finish(world, run)
    assert world.hits, "the point was not reached"


@pytest.mark.parametrize("point", ["before_wake@cool-off", "after_wake@cool-off"])
def test_a_reconciler_killed_while_it_wakes_a_node_is_followed_by_another(point, world):
    world.fail_at(f"{point}:kill9:1")
    run = world.orchestrator().start("waits")
    await_waiting(world, run)
    run.signal("paid", 3)
    world.orchestrator().complete(world.ledger.client.get(f"callback {run.id}"), 4)
    finish(world, run)
    assert world.hits, "the point was not reached"


@pytest.mark.parametrize("point", ["before_complete", "after_complete"])
@pytest.mark.parametrize("how", ["signal", "callback"])
def test_a_client_killed_while_it_answers_has_answered_once_or_not(how, point, world, tmp_path):
    run = world.orchestrator().start("waits")
    await_waiting(world, run)
    if how == "callback":
        run.signal("paid", 3)
    else:
        world.orchestrator().complete(world.ledger.client.get(f"callback {run.id}"), 4)
    faults = tmp_path / "faults"
    faults.write_text(f"{point}:kill9:1")

    dead = answer(world, run, how, faults)

    assert dead.returncode == -signal.SIGKILL, dead.stderr
    assert hits_file(faults).read_bytes(), "the point was not reached"
    if point == "before_complete" or how == "signal":  # a signal with a key may be sent again whenever
        assert answer(world, run, how).returncode == 0
    finish(world, run)
