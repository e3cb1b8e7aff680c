"""The same flows in every kind of pool: parallel steps, lost processes, timeouts, and a worker that is told to end."""

from __future__ import annotations

import signal

import pytest
import redis

from tests.harness import WorkerProcess, environment_for, load_program, wait_until

# Longer than any test: what happens sooner was not found by waiting for a lease.
LEASE = "120"
GRACE_S = 1.0
# More than the connections of a pool, 10 by default: as many as publish at once.
MANY = {"gevent": 60, "prefork-of-one-connection": 20}
POOLS = {
    "prefork-of-one-connection": (["-c", "2"], {"TEST_POOL_LIMIT": "1"}),
    "spawn": (["-c", "2"], {"TEST_START_METHOD": "spawn"}),
    "forkserver": (["-c", "2"], {"TEST_START_METHOD": "forkserver"}),
    "recycled": (["-c", "2", "--max-tasks-per-child", "3", "--autoscale", "3,1", "-O", "fair"], {}),
    "threads": (["-P", "threads", "-c", "8"], {}),
    "gevent": (["-P", "gevent", "-c", "50"], {}),
    "solo": (["-P", "solo"], {}),
}
HAS_PROCESSES = {"prefork-of-one-connection", "spawn", "forkserver", "recycled"}
LONG = dict.fromkeys(("forkserver", "recycled"), pytest.mark.chaos_long)
"""One makes its processes as "spawn" does, and replaced processes are in `test_replaced_processes.py`, too."""
WANTED = {"hangs": "failed", "stubborn": "failed"}


@pytest.fixture(scope="module")
def server(pooled_server):
    return pooled_server


@pytest.fixture(scope="module")
def pooled(server):
    return load_program("pooled", server.url)


@pytest.fixture(params=[pytest.param(name, marks=LONG.get(name, ())) for name in POOLS])
def pool(request):
    return request.param


@pytest.fixture
def worker(server, pool, tmp_path):
    options, variables = POOLS[pool]
    environment = environment_for(server.url, lease=LEASE, shutdown_grace=str(GRACE_S)) | variables
    options = [*options, "-Q", "flows", "--without-gossip", "--without-mingle"]
    made = WorkerProcess("tests.programs.pooled", "w0", tmp_path / "w0.log", environment=environment, options=options)
    try:
        wait_until(made.is_up, "the worker is up", timeout=60)
        yield made
    finally:
        if made.process.poll() is None:
            made.kill()
        with redis.Redis.from_url(server.url) as client:
            client.flushall()


def events(run, node):
    return [event.event for event in run.history() if event.node == node and event.event != "republished"]


def test_a_pool_runs_flows_ends_what_hangs_and_ends_well(pooled, worker, pool, ledger):
    start = pooled.orchestrator.start
    names = [name for name in pooled.FLOWS if name != "held"]
    if pool not in HAS_PROCESSES:  # there a node that ends the process ends the worker
        names.remove("dies")
    if pool == "solo":  # nothing interrupts a function there
        names = [name for name in names if name not in {"hangs", "stubborn"}]
    runs = [(name, start(name, 1 if pooled.FLOWS[name].build().input_codec else None)) for name in names]
    runs += [("fan", start("fan", 1)) for _ in range(MANY.get(pool, 3))]
    runs += [("shares", start("shares")) for _ in range(5)]
    for name, run in runs:
        assert run.wait(timeout=60) == WANTED.get(name, "succeeded"), (name, run.error, worker.log.read_text()[-3000:])
    for name, run in runs:
        if name == "dies":
            assert events(run, "die") == ["started", "lost", "started", "succeeded"]
        if name in {"hangs", "stubborn"}:
            assert run.error.type == "orchestrator.errors.NodeTimeout"
    if pool == "recycled":  # after as many nodes, not messages
        pids = [
            {run.output(node) for node in "abc"} for run in [start("pids") for _ in range(4)] if run.wait(timeout=60)
        ]
        assert [len(of_run) for of_run in pids] == [1] * 4
        assert len(set.union(*pids)) == 4
    if pool == "spawn":
        run = start(pooled.lacking)
        (found,) = wait_until(
            lambda: [w for w in run.explain() if "in a pool process; those of" in w.reason], "it is explained"
        )
        assert found.node == "only"
        assert "flow lacking: this pool process does not have it" in worker.log.read_text()
        run.cancel()
    assert pooled.orchestrator._engine.store.workers() != []

    held = start("held")
    ledger.wait_for("start", held.id)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(timeout=GRACE_S + 15) == 0
    assert events(held, "hold") == ["started", "lost"]
    assert "BlockingSwitchOutError" not in worker.log.read_text()
    assert pooled.orchestrator._engine.store.workers() == [], "its announcement is gone with it"
