"""A worker that is told to end in the middle of a long node: it may go on for its grace, then its nodes are free."""

from __future__ import annotations

import os
import signal

import pytest

from tests.chaos.world import World, check_keys, check_run
from tests.harness import wait_until

# Far longer than the test: what happens sooner was not found by waiting for it.
LEASE_S = 120


@pytest.fixture
def world(tmp_path):
    with World(tmp_path) as made:
        made.settings |= {"lease": str(LEASE_S), "shutdown_grace": "1"}
        yield made


def start(world, name, **environment):
    worker = world.start_worker(name, **environment)
    wait_until(worker.is_up, f"{name} is ready", timeout=60)
    return worker


def start_held(world, flow, node):
    """A run whose node goes on for a minute on the one worker there is."""
    leaving = start(world, "leaving", TEST_WORK_S="60")
    run = world.orchestrator().start(flow)
    world.ledger.wait_for("start", f"{run.id}/{node}/1")
    return leaving, run


WARM = (os.kill, signal.SIGTERM)
COLD = (os.kill, signal.SIGQUIT)
# To all processes of the worker at once, as systemd does: a node is interrupted in the middle.
WHOLE_GROUP = (os.killpg, signal.SIGTERM)


@pytest.mark.parametrize(("way", "exit_codes"), [(WARM, {0}), (COLD, {0, 1})], ids=["warm", "cold"])
def test_a_node_is_given_back_when_the_grace_is_over_and_made_again_at_once(world, way, exit_codes):
    leaving, run = start_held(world, "chain", "link-0")
    start(world, "staying", TEST_WORK_S="0.01")
    send, signal_number = way
    send(leaving.pid, signal_number)
    assert run.result(int, timeout=LEASE_S / 3) == 5
    assert leaving.process.wait(timeout=30) in exit_codes
    assert check_run(run, "succeeded") == {"link-0": 2} | {f"link-{n}": 1 for n in range(1, 5)}
    assert world.ledger.names("end")[0] == f"{run.id}/link-0/2"
    check_keys(world.client)


def test_members_of_a_local_step_are_given_back_by_a_cold_shutdown(world):
    world.settings["shutdown_grace"] = "60"
    leaving, run = start_held(world, "local", "member-0")
    start(world, "staying", TEST_WORK_S="0.01")
    leaving.process.send_signal(signal.SIGQUIT)
    assert leaving.process.wait(timeout=30) in {0, 1}, "it does not wait for the threads of the members"
    assert run.wait(timeout=LEASE_S / 3) == "succeeded"
    assert check_run(run, "succeeded")["member-0"] == 2
    check_keys(world.client)


def test_a_node_that_ends_within_the_grace_is_not_made_again(world):
    world.settings["shutdown_grace"] = "60"
    leaving = start(world, "leaving", TEST_WORK_S="3")
    run = world.orchestrator().start("chain")
    world.ledger.wait_for("start", f"{run.id}/link-0/1")
    leaving.process.send_signal(signal.SIGTERM)
    assert leaving.process.wait(timeout=50) == 0
    assert world.ledger.names("end") == [f"{run.id}/link-0/1"], "its node ended, and nothing new was begun"
    start(world, "staying", TEST_WORK_S="0.01")
    assert run.result(int, timeout=LEASE_S / 3) == 5
    assert set(check_run(run, "succeeded").values()) == {1}
    check_keys(world.client)


def test_the_last_attempt_that_is_interrupted_has_an_unknown_outcome(world):
    leaving, run = start_held(world, "once", "only")
    start(world, "staying", TEST_WORK_S="0.01")
    send, signal_number = WHOLE_GROUP
    send(leaving.pid, signal_number)
    assert run.wait(timeout=LEASE_S / 3) == "failed"
    assert [event.event for event in run.history() if event.node == "only"][-1] == "unknown"
    assert len(world.ledger.names("start")) == 1
    check_keys(world.client)
