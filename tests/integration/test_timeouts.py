"""Nodes that do not come back: every attempt ends at its limit, in every pool, and as a NodeTimeout."""

from __future__ import annotations

import re
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from orchestrator.server import EmbeddedServer
from tests.harness import WorkerProcess, environment_for, load_program, wait_until

LIMIT_S = 1.0
KILLED_AFTER_S = LIMIT_S + 3
SWEPT_AFTER_S = LIMIT_S + 1
RAISED = r"the attempt took longer than its timeout of 1 s \[flow \S+, run \S+, node \S+, attempt \d\]"
KILLED = r"the attempt was past its timeout of 1 s: (its worker process \d+ died|it did not stop)"
SWEPT = r"the attempt was past its timeout of 1 s: it did not stop"

# What a function does, and how its attempt ends in a pool of processes.
HANGS = {
    "sleep": RAISED,
    "loop": RAISED,
    "regex": RAISED,
    "swallow": KILLED,
    "swallow-all": KILLED,
    "hash": KILLED,
    "held": KILLED,
}
OPTIONS = {
    "prefork": ["-c", str(len(HANGS) + 9)],
    "threads": ["-P", "threads", "-c", "8"],
    "solo": ["-P", "solo"],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def hanging(server):
    return load_program("hanging", server.url)


@pytest.fixture(scope="module")
def pools(server, hanging, tmp_path_factory):
    """A worker of each pool, each with a queue of its own."""
    folder = tmp_path_factory.mktemp("pools")
    environment = environment_for(server.url, lease="3", reconcile_every="0.5")
    started = {
        pool: WorkerProcess(
            "tests.programs.hanging",
            pool,
            folder / f"{pool}.log",
            environment=environment,
            options=[*options, "-Q", pool],
        )
        for pool, options in OPTIONS.items()
    }
    try:
        wait_until(lambda: all(worker.is_up() for worker in started.values()), "workers ready", timeout=60)
        yield started
    finally:
        hanging.LEDGER.client.set(hanging.LET_GO, 1)
        for worker in started.values():
            worker.terminate()
        for worker in started.values():
            worker.stop()


@pytest.fixture(scope="module")
def runs(hanging, pools):
    """Everything that hangs, at once, so that what is stuck could hold up the rest; waits until all of it has ended."""
    start = hanging.orchestrator.start
    started = {
        **{kind: start("hangs-prefork", kind) for kind in HANGS},
        **{f"recovers {kind}": start("recovers-prefork", kind) for kind in ("sleep", "held")},
        **{f"async {kind}": start("async-prefork", kind) for kind in ("sleep", "swallow", "block")},
        "input": start("input-hangs"),
        "undo": start("undo-hangs"),
        "threads": start("hangs-threads", "gate"),
        "threads again": start("recovers-threads", "gate"),
        "threads async": start("async-threads", "sleep"),
        "solo": start("hangs-solo", "sleep"),
        "solo async": start("async-solo", "sleep"),
    }
    for run in started.values():
        with suppress(TimeoutError):  # whose test says so
            run.wait(timeout=30)
    return started


@pytest.fixture(autouse=True)
def _workers_live(pools):
    yield
    for name, worker in pools.items():
        assert worker.process.poll() is None, f"{name}: {worker.log.read_text()[-4000:]}"


def seconds(run, first, last, node):
    """Seconds on Redis's clock from one event of a node to another."""
    at = {event.event: event.at for event in reversed(run.history()) if event.node == node}
    return (at[last] - at[first]).total_seconds()


def assert_timed_out(run, how, *, node="hang"):
    """The run failed as its node's one attempt was ended in this way, in time."""
    assert run.wait(timeout=30) == "failed"
    error = run.error
    assert error.type == "orchestrator.errors.NodeTimeout"
    assert (error.node_name, error.attempt) == (node, 1)
    assert re.fullmatch(how, error.message)
    limit = {RAISED: LIMIT_S, KILLED: KILLED_AFTER_S, SWEPT: SWEPT_AFTER_S}[how]
    assert limit - 0.1 < seconds(run, "started", "failed", node) < 3 * limit


@pytest.mark.parametrize("kind", HANGS)
def test_a_pool_process_ends_an_attempt_that_is_out_of_time(runs, kind):
    assert_timed_out(runs[kind], HANGS[kind])


@pytest.mark.parametrize("kind", ["sleep", "held"])
def test_an_attempt_out_of_time_is_made_again_by_the_policy(hanging, runs, kind):
    run = runs[f"recovers {kind}"]
    assert run.result(int, timeout=30) == 2
    assert len(hanging.LEDGER.times("start", run.id)) == 2
    # A message that waits for its turn may be published once more, which starts nothing.
    events = [event.event for event in run.history() if event.node and event.event != "republished"]
    assert events == ["started", "retrying" if kind == "sleep" else "timed-out", "started", "succeeded"]


@pytest.mark.parametrize(("kind", "how"), [("sleep", RAISED), ("swallow", KILLED), ("block", KILLED)])
def test_an_async_node_is_ended_too(runs, kind, how):
    assert_timed_out(runs[f"async {kind}"], how, node="hang-async")


def test_an_input_function_that_hangs_is_an_attempt_out_of_time(hanging, runs):
    run = runs["input"]
    assert run.wait(timeout=30) == "failed"
    assert run.error.type == "orchestrator.errors.NodeTimeout"
    assert (run.error.node_name, run.error.attempt) == ("take", 2)
    assert re.fullmatch(RAISED, run.error.message)
    assert len(hanging.LEDGER.times("start", run.id)) == 2, "its policy allows two attempts"


def test_a_compensation_that_hangs_fails_and_the_others_run(hanging, runs):
    run = runs["undo"]
    assert run.wait(timeout=30) == "compensation_failed"
    assert run.error.type == "builtins.ZeroDivisionError", "the first failure stays the run's error"
    failure = run.failures()["undo-second"]
    assert failure.type == "orchestrator.errors.NodeTimeout"
    assert re.fullmatch(RAISED, failure.message)
    assert hanging.LEDGER.names("undo") == ["second", "first"]


def test_in_a_pool_of_threads_the_sweep_ends_it_and_a_late_return_is_dropped(hanging, pools, runs):
    assert_timed_out(runs["threads"], SWEPT)
    again = runs["threads again"]
    assert again.result(int, timeout=30) == 2
    assert len(hanging.LEDGER.times("start", again.id)) == 2

    hanging.LEDGER.client.set(hanging.LET_GO, 1)
    for name in ("threads", "threads again"):
        run = runs[name]
        hanging.LEDGER.wait_for("late", run.id)
        wait_until_logged(pools["threads"], f"run {run.id} node hang: a later attempt holds the node; dropped")
    assert runs["threads"].status == "failed"
    assert runs["threads"].state().keys() == set()
    assert again.output("hang", int) == 2
    hanging.LEDGER.client.delete(hanging.LET_GO)


def wait_until_logged(worker, line):
    wait_until(lambda: line in worker.log.read_text(), line)


def test_in_a_pool_of_threads_an_async_node_ends_at_its_limit(runs):
    assert_timed_out(runs["threads async"], RAISED, node="hang-async")


def test_a_worker_without_a_pool_ends_it_in_its_own_process(runs):
    assert_timed_out(runs["solo"], RAISED)
    assert_timed_out(runs["solo async"], RAISED, node="hang-async")


def test_a_worker_without_a_pool_is_not_ended_for_a_node_that_swallows_its_timeout(hanging, pools, runs):
    run = hanging.orchestrator.start("hangs-solo", "swallow-at-gate")
    assert_timed_out(run, SWEPT)
    ended = KILLED_AFTER_S + 1
    wait_until(lambda: seconds_since(run, hanging) > ended, "the time at which a pool process would be killed")
    hanging.LEDGER.client.set(hanging.LET_GO, 1)
    hanging.LEDGER.wait_for("late", run.id)
    assert hanging.orchestrator.start("hangs-solo", "quick").result(int, timeout=30) == 1
    hanging.LEDGER.client.delete(hanging.LET_GO)


def seconds_since(run, hanging):
    """Seconds on Redis's clock since the run's node started."""
    (began,) = hanging.LEDGER.times("start", run.id)
    now, micros = hanging.LEDGER.client.time()
    return now + micros / 1e6 - began


def test_after_all_that_every_worker_takes_fresh_work(hanging, pools, runs):
    for pool in hanging.POOLS:
        fresh = [hanging.orchestrator.start(f"hangs-{pool}", "quick") for _ in range(20)]
        assert {run.result(int, timeout=30) for run in fresh} == {1}, "no limit of an earlier node strikes a later one"


def is_there(pid):
    """Whether a process runs; one that ended and was not reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_process_is_killed_at_its_limit_while_redis_does_not_answer(hanging, runs, server):
    """What renews leases waits for Redis then; what watches limits must not."""
    run = hanging.orchestrator.start("hangs-prefork", "held")
    wait_until(lambda: hanging.LEDGER.times("start", run.id), "its node runs")
    (record,) = hanging.orchestrator._engine.store.nodes(run.id).values()
    pid = int(record["holder"].split("/")[1])
    server.process.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: not is_there(pid), "its process is killed", timeout=3 * KILLED_AFTER_S)
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert run.wait(timeout=60) == "failed"
    assert run.error.type == "orchestrator.errors.NodeTimeout"
