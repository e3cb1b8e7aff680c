"""Cost of a step in Redis, counted exactly: round trips of the client and commands of the server.

Whoever adds one changes a number here. Nothing is timed, and no worker runs: its task is called in this process.
"""

from __future__ import annotations

import pytest
import redis
from celery import Celery

from orchestrator import FlowBuilder, Node, Orchestrator, manual
from orchestrator.engine import engine_of
from orchestrator.server import EmbeddedServer

LENGTH = 10
# Round trips and commands of one chain of ten nodes, from the first claim to the last commit.
COSTS = {
    "one task a node": (2 * LENGTH, 210),
    "messages pushed": (2 * LENGTH, 219),
    "fused": (LENGTH + 1, 120),
}
START = (1, 14)
# The same chain as a child of a fused flow, between two nodes of that.
CHILD = (LENGTH + 4, 217)
# Bytes that a finished chain of so many small steps leaves, by MEMORY USAGE of its keys.
BYTES = {10: 4608, 5: 3584}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def spent(server, monkeypatch):
    """Counts what a call costs: round trips, and commands of the server, those of its scripts included."""
    trips = []
    send = redis.Connection.send_packed_command

    def counted(self, *args, **options):
        trips.append(1)
        return send(self, *args, **options)

    monkeypatch.setattr(redis.Connection, "send_packed_command", counted)
    with redis.Redis.from_url(server.url) as admin:

        def spent(call):
            admin.config_resetstat()
            trips.clear()
            call()
            asked = len(trips)
            stats = admin.info("commandstats")
            own = {"cmdstat_config|resetstat", "cmdstat_evalsha"}
            return asked, sum(row["calls"] for name, row in stats.items() if name not in own)

        yield spent


def client_of(server, *, broker="memory://"):
    """A client and worker in one; scripts push messages only where the broker is the run store's Redis."""
    app = Celery("budget", broker=broker, backend=server.url, set_as_current=False)
    app.conf.task_default_queue = "budget"
    return Orchestrator(app)


def after(key):
    return lambda state: state.get(key, int)


def chain(name, length=LENGTH):
    builder = FlowBuilder(name).triggered_by(manual("test")).then(Node("n-0", lambda: 1))
    for number in range(1, length):
        builder.then(Node(f"n-{number}", lambda value: value).with_input_func(after(f"n-{number - 1}")))
    return builder


def work_through(orchestrator, run, flow):
    """Call the tasks of a run one after the other, as its messages would; a fused one does all in the first."""
    app, plan = orchestrator.app, engine_of(orchestrator.app).registry.flows[flow.name].plan
    for number in range(1 if plan.fused else len(plan.steps)):
        app.tasks[f"{flow.name}.n-{number}"].run(run.id, 1, plan.hash)


@pytest.mark.parametrize("mode", COSTS)
def test_a_chain_costs_so_much_and_no_more(mode, server, spent):
    orchestrator = client_of(server, broker=server.url if mode == "messages pushed" else "memory://")
    builder = chain("budget-fused" if mode == "fused" else "budget")
    flow = builder.fused().build() if mode == "fused" else builder.build()
    orchestrator.register(flow)
    work_through(orchestrator, orchestrator.start(flow), flow)  # loads the scripts and the plan
    run = orchestrator.start(flow)
    assert spent(lambda: work_through(orchestrator, run, flow)) == COSTS[mode]
    assert run.status == "succeeded"


def test_a_fused_child_costs_so_much_and_no_more(server, spent):
    orchestrator = client_of(server)
    child = chain("budget-child").fused().build()
    builder = FlowBuilder("budget-parent").triggered_by(manual("test")).then(Node("n-0", lambda: 1))
    builder.then(Node("child", child)).then(Node("last", lambda value: value).with_inputs(value="child"))
    flow = builder.fused().build()
    for each in (child, flow):
        orchestrator.register(each)
    task = orchestrator.app.tasks["budget-parent.n-0"]
    # What it goes on with depends on the queue that its message came from.
    task.push_request(delivery_info={"routing_key": "budget"})
    work_through(orchestrator, orchestrator.start(flow), flow)
    run = orchestrator.start(flow)
    assert spent(lambda: work_through(orchestrator, run, flow)) == CHILD
    assert run.status == "succeeded"


def test_a_start_costs_so_much_and_no_more(server, spent):
    orchestrator = client_of(server)
    flow = chain("budget-start").build()
    orchestrator.start(flow)
    assert spent(lambda: orchestrator.start(flow)) == START


@pytest.mark.parametrize("length", BYTES)
@pytest.mark.parametrize("mode", ["one task a node", "fused"])
def test_a_finished_chain_leaves_so_many_bytes_and_no_more(mode, length, server):
    orchestrator = client_of(server)
    builder = chain(f"bytes-{mode.split()[0]}-{length}", length)
    flow = builder.fused().build() if mode == "fused" else builder.build()
    orchestrator.register(flow)
    run = orchestrator.start(flow)
    work_through(orchestrator, run, flow)
    assert run.status == "succeeded"
    with redis.Redis.from_url(server.url) as admin:
        own = list(admin.scan_iter(match=f"*{run.id}*"))
        assert own
        assert sum(admin.memory_usage(key, samples=0) for key in own) <= BYTES[length]
