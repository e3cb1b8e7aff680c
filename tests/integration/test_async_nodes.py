"""Async nodes on real workers: one loop for each process, shared, kept between nodes, and closed at the end."""

from __future__ import annotations

import socketserver
import threading

import pytest

from tests.harness import WorkerProcess, environment_for, load_program, wait_until

OPTIONS = {
    "prefork": ["-c", "1"],
    "threads": ["-P", "threads", "-c", "8"],
    "gevent": ["-P", "gevent", "-c", "20"],
}


@pytest.fixture(scope="module")
def program(server):
    return load_program("async_nodes", server.url)


@pytest.fixture(scope="module", params=OPTIONS)
def pool(request, server, program, tmp_path_factory):
    """The name of a pool, with a worker behind its queue."""
    log = tmp_path_factory.mktemp("async") / "worker.log"
    name = request.param
    options = [*OPTIONS[name], "-Q", name]
    worker = WorkerProcess(
        "tests.programs.async_nodes", name, log, environment=environment_for(server.url), options=options
    )
    try:
        wait_until(worker.is_up, "worker ready", timeout=60)
        yield name
        leaves(program, name, worker)
    finally:
        worker.stop()
    assert "Traceback" not in log.read_text(), log.read_text()[-4000:]


def leaves(program, name, worker):
    """What a node left behind is ended in order with its process; tested at the end of each worker."""
    run = program.orchestrator.start(f"leaves-{name}")
    run.result(timeout=30)
    worker.stop()
    assert program.LEDGER.names("cancelled") == program.LEDGER.names("finished") == [run.id]
    program.LEDGER.clear()


def result_of(program, name, given=None):
    return program.orchestrator.start(name, given).result(timeout=30)


@pytest.fixture(scope="module")
def echoing():
    """A server that echoes lines; gives its port and a list with one entry for each connection."""
    connections = []

    class Echo(socketserver.StreamRequestHandler):
        def handle(self):
            connections.append(self.client_address)
            for line in self.rfile:
                self.wfile.write(line)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], connections
        server.shutdown()


def test_a_client_lives_on_between_nodes_and_runs(program, pool, echoing):
    port, connections = echoing
    before = len(connections)
    for kind in ("plain", "fused", "plain"):
        echoed = result_of(program, f"echoes-{kind}-{pool}", port)
        assert set(echoed.values()) == {"hello"}
        assert len(echoed) == 3
    assert len(connections) == before + 1


def test_members_of_a_local_step_share_the_loop(program, pool):
    met = result_of(program, f"meets-local-{pool}")
    assert len(met) == 3
    assert len({tuple(where) for where in met.values()}) == 1


def test_nodes_of_one_process_share_the_loop(program, pool):
    """Three that can only end together: in a pool of processes they need three of them."""
    if pool == "prefork":
        first, second = (result_of(program, f"meets-local-{pool}") for _ in range(2))
        assert first == second
    else:
        met = result_of(program, f"meets-group-{pool}")
        assert len({tuple(where) for where in met.values()}) == 1


def test_celerys_current_task_is_that_of_the_node(program, pool):
    run = program.orchestrator.start(f"told-{pool}")
    told = run.result(timeout=30)
    assert told == {node: [f"told-{pool}.{node}", run.id] for node in ("n0", "n1", "n2")}


def test_functions_have_loops_of_their_own(program, pool):
    kinds = ["plain", "fused"] if pool == "gevent" else ["plain", "fused", "local"]
    for kind in kinds * 3:
        loops = result_of(program, f"loops-{kind}-{pool}")
        assert sorted(first for first, *_ in loops.values()) == [5, 6]
