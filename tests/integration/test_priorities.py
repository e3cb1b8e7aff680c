"""Runs with a priority: each of their messages has it, whoever sends it, and a more urgent one is received first."""

from __future__ import annotations

import json

import pytest
from celery import Celery

from orchestrator import ConfigurationError, FlowBuilder, InvalidInput, Node, Orchestrator, Settings, manual
from orchestrator.engine import engine_of
from orchestrator.maintenance.looks import Underway
from orchestrator.store.scripts.results import Seen
from tests.harness import child_pids, load_program, wait_until, workers

AWAY = "urgent-away"
LATER = 60_000


@pytest.fixture(scope="module")
def worker(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("urgent")
    with workers("tests.programs.urgent", server.url, folder, options=["-c", "1"], lease="4") as (started,):
        yield started


@pytest.fixture
def urgent(server):
    program = load_program("urgent", server.url)
    program.LEDGER.clear()
    return program


def came_with(urgent, run):
    """The tasks of a run by the priority with which their messages came."""
    found: dict[str, list[str]] = {}
    for event, task, _, _ in urgent.LEDGER.lines():
        run_id, _, priority = event.partition(" ")
        if run_id == run.id:
            found.setdefault(priority, []).append(task.rpartition(".")[2])
    return found


def list_of(step):
    return f"{AWAY}\x06\x16{step}" if step else AWAY


@pytest.mark.parametrize("priority", [None, 4])
def test_every_message_of_a_run_and_of_its_children_has_its_priority(priority, worker, urgent):
    """Chain, chord, map, gate, retry, a killed process, a child, the rollback and a resume: each has its publisher."""
    urgent.LEDGER.client.set("fails", "1")
    run = urgent.orchestrator.start("urgent-all", priority=priority)
    assert run.wait(timeout=60) == "failed"
    urgent.LEDGER.client.delete("fails")
    run.resume()
    assert run.wait(timeout=60) == "succeeded"
    run.undo("not wanted")
    assert run.wait(timeout=60) == "cancelled"
    assert run.priority == priority
    assert {child.priority for child in run.children()} == {priority}

    (tasks,) = came_with(urgent, run).values()
    assert {"begin", "next", "left", "right", "item", "twice", "die", "below", "beside", "fail", "undo-begin"} <= {
        *tasks
    }
    assert tasks.count("die") == 2, "its process was killed once"
    assert list(came_with(urgent, run)) == [str(priority or 0)]
    for child in run.children():
        assert list(came_with(urgent, child)) == [str(priority or 0)]


def test_of_two_backlogs_the_more_urgent_one_is_worked_on_first(worker, urgent):
    wait_until(lambda: len(child_pids(worker.pid)) == 1, "it has its process")
    holder = urgent.orchestrator.start("urgent-hold", "first")
    urgent.LEDGER.wait_for("holds", "first")
    begun = [("late", 9), ("fused", 6), ("plain", None), ("early", 0)]
    runs = [
        urgent.orchestrator.start(
            "urgent-fused" if name == "fused" else "urgent-mark", f"{name}{number}", priority=given
        )
        for name, given in begun
        for number in range(3)
    ]
    urgent.LEDGER.client.set("go", "1")
    assert {run.wait(timeout=30) for run in [holder, *runs]} == {"succeeded"}
    names = [name[:-1] for name in urgent.LEDGER.names("mark")]
    assert names == ["plain"] * 3 + ["early"] * 3 + ["fused"] * 3 + ["late"] * 3


def test_a_lost_message_is_sent_again_into_its_own_list_whatever_waits_behind_it(worker, urgent, server):
    """Less urgent messages that are older say nothing of one that is lost; more urgent ones, and its own, do."""
    client = engine_of(urgent.app).store.client
    patient = urgent.orchestrator.start(AWAY, priority=9)
    run = urgent.orchestrator.start(AWAY, priority=4)
    assert (client.llen(list_of(9)), client.llen(list_of(3))) == (1, 1)
    client.delete(list_of(3))
    wait_until(lambda: client.llen(list_of(3)), "it is sent again")
    assert client.llen(list_of(0)) == 0
    message = json.loads(client.lindex(list_of(3), 0))
    assert message["headers"]["root_id"] == run.id
    assert message["properties"]["priority"] == 4
    assert client.llen(list_of(9)) == 1
    (waiting,) = run.explain()
    assert waiting.reason.startswith(f"waits in queue {AWAY} of length 2 with priority 4, which no worker consumes")
    for each in (patient, run):
        each.cancel()
    client.delete(list_of(3), list_of(9))


# --- without a worker ------------------------------------------------------------------------------
def nothing() -> None:
    """Do nothing."""


def made(server, name="prior", **conf):
    app = Celery(name, broker=conf.pop("broker", server.url), backend=server.url, set_as_current=False)
    app.conf.update(task_default_queue=name, **conf)
    # A prefix of its own: the leader of another module's worker would send again what these tests take away.
    orchestrator = Orchestrator(app, settings=Settings(prefix="unled"))
    flow = FlowBuilder(name).triggered_by(manual("test")).then(Node("a", nothing)).then(Node("b", nothing)).build()
    orchestrator.register(flow)
    return orchestrator


@pytest.fixture
def prior(server):
    orchestrator = made(server)
    client = engine_of(orchestrator.app).store.client
    yield orchestrator
    for key in client.scan_iter("prior*", _type="list"):
        client.delete(key)


def test_a_run_without_a_priority_is_as_it_always_was(prior, server):
    run = prior.start("prior")
    record = engine_of(prior.app).store.run(run.id)
    assert (run.priority, record.fields["epoch"]) == (None, "1")
    assert not [name for name in record.fields if "priority" in name]
    urgent = prior.start("prior", priority=0)
    assert (urgent.priority, urgent.show().run.epoch) == (0, 1)
    client = engine_of(prior.app).store.client
    assert client.llen("prior") == 2, "0 is what a message has that says nothing"


def test_many_runs_and_delayed_ones_have_it_too(prior):
    many = prior.start_many("prior", [None] * 3, priority=6)
    assert [run.priority for run in many] == [6] * 3
    assert {row.priority for row in prior.runs("prior", limit=3).rows} == {6}
    client = engine_of(prior.app).store.client
    assert client.llen("prior\x06\x166") == 3


@pytest.mark.parametrize("given", [-1, 10, 2.0, True, "3"])
def test_a_number_that_the_broker_does_not_have_is_refused(given, prior):
    before = prior.counts()
    for start in (prior.start, lambda *args, **options: prior.start_many(args[0], [None, None], **options)):
        with pytest.raises(InvalidInput, match="use a whole number from 0 to 9, as a Redis broker takes"):
            start("prior", priority=given)
    assert prior.counts() == before


def test_a_broker_without_priorities_is_refused(server):
    orchestrator = made(server, "memorised", broker="memory://")
    with pytest.raises(ConfigurationError, match=r"\(memory\) has none; leave it out, or use Redis or RabbitMQ"):
        orchestrator.start("memorised", priority=3)


@pytest.mark.parametrize(
    ("conf", "given", "error", "match"),
    [
        ({}, 3, ConfigurationError, "queue ranked has no x-max-priority"),
        ({"task_queue_max_priority": 5}, 6, InvalidInput, "from 0 to 5, as queue ranked takes"),
        ({}, 256, InvalidInput, "from 0 to 255"),
    ],
)
def test_a_queue_of_rabbitmq_has_to_declare_priorities(conf, given, error, match, server):
    orchestrator = made(server, "ranked", broker="amqp://127.0.0.1:1//", **conf)
    with pytest.raises(error, match=match):
        orchestrator.start("ranked", priority=given)
    assert orchestrator.runs("ranked").rows == ()


def test_a_ready_node_is_compared_with_its_own_list_and_more_urgent_ones(prior):
    engine = engine_of(prior.app)
    plan = engine.registry.flows["prior"].plan
    old = prior.start("prior", priority=6)
    since = round(old.created_at.timestamp() * 1000) + LATER
    seen = Seen("ready", "a", str(since))

    def is_lost(priority):
        given = prior.start("prior", priority=priority)
        record = engine.store.run(given.id)
        engine.store.client.delete("prior", "prior\x06\x163")
        return Underway(engine, since).may_have_lost(plan, given.id, record.epoch, seen)

    assert [is_lost(each) for each in (None, 0, 3)] == [True] * 3, "only a less urgent message is there"
    assert [is_lost(each) for each in (6, 9)] == [False] * 2


def test_a_default_of_the_app_counts_as_the_priority_of_runs_that_have_none(server):
    orchestrator = made(server, "prior", task_default_priority=6)
    engine = engine_of(orchestrator.app)
    orchestrator.start("prior", priority=3)
    client = engine.store.client
    assert client.llen("prior\x06\x163") == 1
    underway = Underway(engine, 0)
    plan = engine.registry.flows["prior"].plan
    seen = Seen("ready", "a", str(engine.store.now_ms() + LATER))
    assert not underway.may_have_lost(plan, "run", 1, seen), "it may wait behind a more urgent one"
    client.delete("prior\x06\x163")
