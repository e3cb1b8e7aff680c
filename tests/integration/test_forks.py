"""Forks on real workers: what stands before the step is taken over, and what it was stays the other run's."""

from __future__ import annotations

from collections import Counter

import pytest
from celery import Celery

from orchestrator import ConfigurationError, InvalidInput, Orchestrator, PayloadTooLarge, RunError, RunStatus
from orchestrator.fault_points import FAULTS_VARIABLE, hits_file
from tests.harness import environment_for, load_program, wait_until, workers
from tests.warm import run_python

FLOWS = ["order", "order-fused"]
RESULT = "3 yes label 3 6 2 left"
CLIENT = """
import sys
from celery import Celery
from orchestrator import Orchestrator
url, run_id = sys.argv[1:]
Orchestrator(Celery("client", broker=url, backend=url)).get(run_id).fork(at="tell")
"""


@pytest.fixture(scope="module")
def forked(server, tmp_path_factory):
    program = load_program("forked", server.url)
    folder = tmp_path_factory.mktemp("forked")
    with workers("tests.programs.forked", server.url, folder, options=["-c", "2", "-Q", "forked"]):
        yield program


@pytest.fixture
def elsewhere(server):
    """A client that has no code of any flow."""
    return Orchestrator(Celery("elsewhere", broker=server.url, backend=server.url))


@pytest.fixture
def broken(forked):
    """The last node fails."""
    forked.LEDGER.client.set("broken", 1)
    yield
    forked.LEDGER.client.delete("broken")


def ended(forked, flow="order"):
    run = forked.orchestrator.start(flow, 2, tags={"shop": "west"})
    run.signal("paid", "yes")
    run.wait(timeout=30)
    return run


def calls(forked, run):
    return Counter(forked.LEDGER.names(run.id))


@pytest.mark.parametrize("flow", FLOWS)
def test_a_fork_does_again_what_is_behind_its_step_and_nothing_before_it(forked, flow):
    run = ended(forked, flow)
    (child,) = run.children()
    fork = run.fork(at="right")
    assert fork.result(str, timeout=30) == run.result(str) == RESULT
    assert calls(forked, fork) == {"left": 1, "right": 1, "tell": 1}
    assert calls(forked, child) == {"label": 1, "packed": 1}
    assert (fork.children(), [each.id for each in run.children()]) == ([], [child.id])
    assert (fork.forked_from.id, [each.id for each in run.forks()], fork.tags) == (run.id, [fork.id], {"shop": "west"})
    assert run.forked_from is None
    view = fork.show()
    assert (view.forked_from, view.forked_at, run.show().forks) == (run.id, "right", (fork.id,))
    inherited = {row.name for row in view.nodes if row.is_inherited}
    assert inherited == {"prepare", "paid", "ship", "each.over"}
    assert view.to_json()["forked_from"] == run.id
    assert [event.detail for event in fork.history() if event.event == "forked-from"] == [f"{run.id} at right"]
    assert [event.detail for event in run.history() if event.event == "forked"] == [f"{fork.id} at right"]
    assert fork.fork(at="tell").result(str, timeout=30) == RESULT, "a fork of a fork"


@pytest.mark.parametrize("flow", FLOWS)
def test_a_fork_with_another_input_or_output_goes_on_with_that(forked, flow):
    run = ended(forked, flow)
    fork = run.fork(at="prepare", input=9)
    fork.signal("paid", "no")
    assert fork.result(str, timeout=30) == "10 no label 10 20 2 left"
    assert len(fork.children()) == 1
    mapped = run.fork(at="double", outputs={"prepare": 5, "paid": "later"})
    assert mapped.result(str, timeout=30) == "5 later label 3 10 2 left"
    assert calls(forked, mapped)["double[0]"] == calls(forked, mapped)["double[1]"] == 1


def test_what_was_compensated_is_given_and_what_is_taken_over_is_never_undone(forked, broken):
    run = ended(forked)
    assert run.status == RunStatus.FAILED
    undone = wait_until(lambda: forked.LEDGER.names("undo"), "it is undone")
    assert {"undo-prepare", "unpack"} <= set(undone)
    with pytest.raises(RunError, match="node prepare was compensated and node ship was compensated; give the output"):
        run.fork(at="tell")
    fork = run.fork(at="tell", outputs={"prepare": 1, "ship": "mine"})
    assert fork.wait(timeout=30) == RunStatus.FAILED
    assert calls(forked, fork) == {"tell": 1}
    assert forked.LEDGER.names("undo") == undone
    forked.LEDGER.client.delete("broken")
    fork.resume()
    assert fork.result(str, timeout=30) == "1 yes mine 6 2 left"
    fork.undo("not wanted")
    assert fork.wait(timeout=30) == RunStatus.CANCELLED
    assert forked.LEDGER.names("undo") == undone


def test_values_are_checked_where_the_code_is(forked, elsewhere):
    run = ended(forked)
    for options in ({"outputs": {"prepare": "many"}}, {"input": "many"}, {"outputs": {"double": [1, "x"]}}):
        with pytest.raises(InvalidInput):
            run.fork(at="tell", **options)
    with pytest.raises(InvalidInput, match=r"did you mean tell\?"):
        run.fork(at="tel")
    with pytest.raises(PayloadTooLarge):
        run.fork(at="tell", outputs={"paid": "x" * 2_000_000})
    assert run.forks() == []
    fork = elsewhere.get(run.id).fork(at="tell", outputs={"double": [7]})
    assert fork.result(str, timeout=30) == "3 yes label 3 7 left"


def test_a_run_that_goes_on_or_has_a_parent_is_not_forked(forked):
    run = forked.orchestrator.start("order", 2)
    with pytest.raises(RunError, match="only a run that has ended can be forked"):
        run.fork(at="prepare")
    run.signal("paid", "yes")
    run.wait(timeout=30)
    with pytest.raises(RunError, match=f"it is forked with the run {run.id} at the top"):
        run.children()[0].fork(at="label")


def test_no_fork_begins_beside_a_worker_that_would_undo_what_is_taken_over(forked, elsewhere):
    run, store = ended(forked), forked.orchestrator._engine.store
    store.announce_worker("old", {"name": "old@host", "queues": [], "flows": {}})
    try:
        with pytest.raises(ConfigurationError, match="update old@host"):
            elsewhere.get(run.id).fork(at="tell")
    finally:
        store.withdraw_worker("old")


@pytest.mark.parametrize(("point", "count"), [("between_portions", 0), ("before_fork", 0), ("after_fork", 1)])
def test_a_client_killed_at_a_point_has_forked_once_or_not(forked, server, tmp_path, point, count):
    run = ended(forked)
    orders = tmp_path / "faults"
    orders.write_text(f"{point}:kill9:1")
    environment = environment_for(server.url) | {FAULTS_VARIABLE: str(orders)}
    run_python(["-c", CLIENT, server.url, run.id], environment)
    assert hits_file(orders).exists()
    forks = run.forks()
    assert len(forks) == count
    for fork in forks:  # the reconciler finds its first node, which nobody has published
        assert fork.result(str, timeout=30) == RESULT
        assert calls(forked, fork) == {"tell": 1}
