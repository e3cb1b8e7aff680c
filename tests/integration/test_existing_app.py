"""Flows on an app that is there already: its own tasks, queues and settings stay what they are."""

from __future__ import annotations

import gc
import sys
from types import ModuleType

import pytest
from celery import Celery, Task, chain, chord, group
from celery.exceptions import Ignore, Reject, Retry

from orchestrator import FlowBuilder, Node, Orchestrator, RegistrationError, RunFailed, manual, schedule
from orchestrator.server import EmbeddedServer
from tests.harness import load_program, wait_until, workers


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of its own: the kiosk has queues of its own, but one worker more is not needed."""
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as own:
        yield own
        gc.collect()  # a result of Celery unsubscribes when it goes, and would wait for a server that has gone


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kiosk")


@pytest.fixture(scope="module")
def kiosk(server, folder):
    """The kiosk with one worker, started as before there was any flow."""
    program = load_program("kiosk", server.url)
    options = ["-c", "2", "-Q", "kiosk,kiosk-slow"]
    with workers("tests.programs.kiosk", server.url, folder, count=1, options=options):
        yield program


def test_own_tasks_give_their_results(kiosk):
    assert kiosk.add.delay(2, 3).get(timeout=30) == 5
    assert chain(kiosk.add.s(1, 2), kiosk.add.s(4)).apply_async().get(timeout=30) == 7
    assert sorted(group(kiosk.limited.s(n) for n in range(5)).apply_async().get(timeout=30)) == [0, 1, 2, 3, 4]
    total = chord([kiosk.add.s(n, n) for n in range(3)], kiosk.add.si(40, 2)).apply_async()
    assert total.get(timeout=30) == 42
    result = kiosk.add.delay("no", 1)
    with pytest.raises(TypeError):
        result.get(timeout=30)
    assert result.state == "FAILURE"


def test_own_tasks_keep_queues_and_options(kiosk):
    sent = kiosk.where.delay()
    found = sent.get(timeout=30)
    assert found == {"queue": "kiosk", "parent": None, "root": sent.id, "acks_late": False, "ignore_result": False}
    assert kiosk.slow_where.delay().get(timeout=30) == "kiosk-slow"
    assert sent.name == "kiosk.where"  # result_extended
    (tasks,) = kiosk.app.control.inspect(timeout=10, limit=1).registered("rate_limit").values()
    assert "kiosk.limited [rate_limit=100/s]" in tasks
    (stats,) = kiosk.app.control.inspect(timeout=10, limit=1).stats().values()
    assert stats["prefetch_count"] == 2 * 3  # the app's own choice


def test_own_tasks_retry_in_celerys_own_way(kiosk):
    assert kiosk.patient.delay(2).get(timeout=30) == 2
    assert kiosk.auto.delay(2).get(timeout=30) == 2
    with pytest.raises(ConnectionError, match="no 2"):
        kiosk.auto.delay(5).get(timeout=30)
    with pytest.raises(kiosk.patient.MaxRetriesExceededError):
        kiosk.patient.delay(9).get(timeout=30)


def test_own_error_callbacks_are_called(kiosk, ledger):
    kiosk.auto.apply_async((9,), link_error=kiosk.note_failure.s())
    ledger.wait_for("errback", "ConnectionError('no 2')")


def test_a_task_as_a_node_runs_under_the_nodes_policies(kiosk, ledger):
    run = kiosk.orchestrator.start("checkout")
    assert run.result(str, timeout=30) == run.id
    # `self.retry(exc=e, countdown=3600)` was two failed attempts, made again by the node's policy.
    assert run.output("charge") == 5
    events = [(event.event, event.attempt) for event in run.history() if event.node == "charge"]
    assert events == [
        ("started", 1), ("retrying", 1), ("started", 2), ("retrying", 2), ("started", 3), ("succeeded", 3),
    ]  # fmt: skip
    # Neither the task's own queue, nor its limit of one in an hour, nor its back-off of a minute held it back.
    assert run.output("autoretried") == "autoretried"

    # What a node calls belongs to the run like what any task calls.
    asked = wait_until(lambda: kiosk.LEDGER.client.get("asked"), "the node asked")
    answer = kiosk.app.AsyncResult(asked).get(timeout=30)
    assert (answer["queue"], answer["root"]) == ("kiosk", run.id)


def test_a_retry_with_an_error_is_a_failed_attempt_with_that_error(kiosk):
    with pytest.raises(RunFailed) as caught:
        kiosk.orchestrator.start("refused").result(timeout=30)
    error = caught.value.error
    assert (error.type, error.message, error.attempt) == ("builtins.PermissionError", "card is blocked", 3)
    assert "in refuse" in error.traceback


@pytest.mark.parametrize(("flow", "kind"), [("silent", Retry), ("rejected", Reject), ("ignored", Ignore)])
def test_celerys_own_signals_are_failures_like_any_other(kiosk, folder, flow, kind):
    run = kiosk.orchestrator.start(flow)
    assert run.wait(timeout=30) == "failed"
    assert (run.error.attempt, run.error.type) == (3, f"celery.exceptions.{kind.__name__}")
    log = folder / "w0.log"
    failed = [f"Task {flow}.{flow}[", "raised unexpected: RunError("]
    wait_until(
        lambda: any(all(words in line for words in failed) for line in log.read_text().splitlines()),
        "the task has failed in Celery's eyes too",
    )


def test_the_configuration_is_not_touched(kiosk):
    assert {key: value for key, value in kiosk.app.conf.items() if kiosk.before.get(key) != value} == {}
    assert kiosk.app.conf.beat_schedule == {}


def test_only_beat_entries_are_added_to_the_configuration():
    app = Celery("quiet", broker="redis://127.0.0.1:1/0", backend="redis://127.0.0.1:1/0", set_as_current=False)
    own = {"task": "own", "schedule": 60.0}
    app.conf.beat_schedule = {"own": own}
    before = dict(app.conf) | {"beat_schedule": None}
    orchestrator = Orchestrator(app)
    flow = FlowBuilder("quiet").triggered_by(schedule("0 4 * * *")).then(Node("only", lambda: None)).build()
    orchestrator.register(flow)
    orchestrator.register(flow)
    after = dict(app.conf)
    entries = after.pop("beat_schedule")
    assert after | {"beat_schedule": None} == before
    assert entries.pop("own") is own
    (name,) = entries
    assert name.startswith("orchestrator.tick quiet:")


def test_a_task_that_is_called_like_a_node_is_refused():
    app = Celery("taken", broker="redis://127.0.0.1:1/0", backend="redis://127.0.0.1:1/0", set_as_current=False)

    @app.task(name="orders.ship", shared=False)
    def ship() -> str:
        return "the kiosk's own"

    orchestrator = Orchestrator(app)
    flow = FlowBuilder("orders").triggered_by(manual("test")).then(Node("ship", lambda: None)).build()
    with pytest.raises(RegistrationError, match=r"already has the task orders\.ship; rename the flow or its node"):
        orchestrator.register(flow)
    assert app.tasks["orders.ship"]() == "the kiosk's own"
    assert not [name for name in app.tasks if name.startswith("orders.") and name != "orders.ship"]
    renamed = FlowBuilder("parcels").triggered_by(manual("test")).then(Node("ship", lambda: None)).build()
    orchestrator.register(renamed)
    assert "parcels.ship" in app.tasks


def test_a_task_that_is_given_the_name_of_a_node_later_is_refused():
    app = Celery("given", broker="redis://127.0.0.1:1/0", backend="redis://127.0.0.1:1/0", set_as_current=False)
    orchestrator = Orchestrator(app)
    for name in ("orders", "parcels"):
        orchestrator.register(FlowBuilder(name).triggered_by(manual("test")).then(Node("ship", lambda: None)).build())
    nodes = {name: app.tasks[name] for name in ("orders.ship", "parcels.ship")}

    class Ship(Task):
        name = "orders.ship"

    def ship() -> None:
        pass

    ship.__module__ = "orders"
    for define in (
        app.task(name="orders.ship", shared=False),
        app.task(name="parcels.ship", shared=False),
        lambda _: app.task(shared=False)(ship),
        lambda _: app.register_task(Ship),
        lambda _: app.register_task(Ship()),
    ):
        with pytest.raises(RegistrationError, match=r"\.ship is that of a node of a flow; give the task another name"):
            define(lambda: None)
    assert {name: app.tasks[name] for name in nodes} == nodes

    @app.task(name="orders.pack", bind=True, shared=False)
    def pack(self, box: str) -> str:
        return f"{self.name} {box}"

    assert app.tasks["orders.pack"]("small") == "orders.pack small"


def test_handlers_that_are_connected_after_the_orchestrator_are_called_once(caplog):
    app = Celery("late", broker="redis://127.0.0.1:1/0", backend="redis://127.0.0.1:1/0", set_as_current=False)
    called: list[tuple[str, bool, object]] = []

    @app.on_after_configure.connect
    def early(sender, source, **_):
        called.append(("early", sender is app, source is not None))

    Orchestrator(app)
    assert called == [("early", True, True)]

    @app.on_after_configure.connect
    def configured(sender, source, **_):
        called.append(("configured", sender is app, source["broker_url"]))
        sender.add_periodic_task(60.0, later.s(), name="own")

    @app.on_after_finalize.connect
    def finalized(sender, **_):
        called.append(("finalized", sender is app, None))

    @app.task(shared=False)
    def later():
        return 1

    app.loader.init_worker()  # what a worker and beat begin with
    assert called[1:] == [("configured", True, "redis://127.0.0.1:1/0"), ("finalized", True, None)]
    assert app.conf.beat_schedule["own"]["task"] == later.name
    assert caplog.records == []


TASK_MODULE = """
from late_app import app, called

@app.on_after_configure.connect
def configured(**_):
    called.append(f"{__name__} configured")

@app.on_after_finalize.connect
def finalized(**_):
    called.append(f"{__name__} finalized")
"""


def test_handlers_in_task_modules_are_called_once(tmp_path, monkeypatch):
    # Given: an orchestrator, then a task module that Celery finds, and one that it is told of
    (tmp_path / "late_found").mkdir()
    (tmp_path / "late_found" / "tasks.py").write_text(TASK_MODULE)
    (tmp_path / "late_included.py").write_text(TASK_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    app = Celery("late", broker="redis://127.0.0.1:1/0", backend="redis://127.0.0.1:1/0", set_as_current=False)
    called: list[str] = []
    module = ModuleType("late_app")
    module.__dict__.update(app=app, called=called)
    monkeypatch.setitem(sys.modules, "late_app", module)
    Orchestrator(app)
    app.conf.include = ["late_included"]
    app.autodiscover_tasks(["late_found"])

    # When: a worker begins
    app.loader.init_worker()

    # Then
    names = ("late_found.tasks", "late_included")
    expected = [f"{name} {event}" for name in names for event in ("configured", "finalized")]
    assert sorted(called) == expected

    # When: something else imports the modules again
    app.loader.import_default_modules()

    # Then
    assert sorted(called) == expected
