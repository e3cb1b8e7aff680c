"""Findings of the doctor: each after the damage that it warns of, and none on a deployment as it is recommended."""

from __future__ import annotations

import contextlib
import os
import pickle
import time
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery import Celery
from celery.exceptions import Ignore
from kombu import serialization
from kombu.entity import Queue

from orchestrator import FlowBuilder, Node, Orchestrator, Settings, StoreFull, UnknownRun, doctor, manual, schedule
from orchestrator.engine import engine_of
from orchestrator.errors import ConfigurationError, StoreError
from orchestrator.schedules import CronSchedule, remember_slots, slots_of, start_due
from orchestrator.server import EmbeddedServer
from tests.harness import load_program, wait_until, workers

if TYPE_CHECKING:
    from pathlib import Path

NUMBERS = count()


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A server whose configuration is this module's."""
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def admin(own):
    names = ("maxmemory", "maxmemory-policy", "appendonly")
    with redis.Redis.from_url(own.url, decode_responses=True) as client:
        before = {name: client.config_get(name)[name] for name in names}
        yield client
        for name, value in before.items():
            client.config_set(name, value)


class Deployment:
    """One flow on a queue of its own, with a worker that announces itself as a real one does."""

    def __init__(
        self, url: str, *triggers, name: str = "plain", queue: str = "books", prefix: str = "", **conf
    ) -> None:
        self.app = Celery("shop", broker=url, backend=conf.pop("backend", url), set_as_current=False)
        self.app.conf.update({"worker_prefetch_multiplier": 1, "accept_content": ["json"]} | conf)
        settings = Settings(prefix=prefix or f"doctor{next(NUMBERS)}", allow_eviction=True)
        self.orchestrator = Orchestrator(self.app, redis_url=url, settings=settings)
        flow = FlowBuilder(name).triggered_by(manual("test"), *triggers).then(Node("only", lambda: 1))
        self.orchestrator.register(flow.on_queue(queue).build())
        self.engine = engine_of(self.app)
        self.entry = self.engine.registry.flows[name]
        self.announce()

    def announce(self, worker: str = "w1", **changes) -> None:
        self.engine.announce(self.entry)
        state = {
            "name": f"{worker}@host",
            "queues": [self.entry.plan.queue],
            "flows": {self.entry.plan.flow: ["only"]},
            "versions": {self.entry.plan.flow: self.entry.plan.hash},
            "processes": 2,
            "busy": 0,
            "clock": self.engine.store.now_ms() / 1000,
        }
        self.engine.store.announce_worker(worker, state | changes)

    def work(self, id: str) -> None:
        """Call the task of the node of a run, as its message would."""
        self.app.tasks[f"{self.entry.plan.flow}.only"].run(id, 1, self.entry.plan.hash)

    def names(self) -> list[str]:
        return [finding.name for finding in self.orchestrator.doctor()]


def test_nothing_is_found_on_a_deployment_as_it_is_recommended(own, tmp_path):
    with workers("tests.programs.recommended", own.url, tmp_path, options=["-c", "1", "-Q", "books"]):
        program = load_program("recommended", own.url)
        assert program.orchestrator.start("yearly").result(int, timeout=30) == 1
        began = time.monotonic()
        assert program.orchestrator.doctor() == []
        assert time.monotonic() - began < 6  # it is to take less than 2 s on a machine with nothing else to do
    # The worker has ended, and a run would wait.
    run = program.orchestrator.start("yearly")
    assert "no worker consumes" in run.explain()[0].reason
    (finding,) = program.orchestrator.doctor()
    assert finding.name == "no-consumer"
    assert "books" in finding.what
    run.cancel()


def test_a_server_that_evicts_loses_runs(own, admin):
    made = Deployment(own.url)
    used = admin.info("memory")["used_memory"]
    admin.config_set("maxmemory-policy", "allkeys-random")
    admin.config_set("maxmemory", used + 4_000_000)
    ids = [made.orchestrator.start("plain", "x" * 500_000).id for _ in range(20)]

    def is_gone(id: str) -> bool:
        try:
            made.orchestrator.get(id)
        except UnknownRun:
            return True
        return False

    assert any(is_gone(id) for id in ids)
    admin.config_set("maxmemory", 0)
    made.announce()
    assert "eviction" in made.names()
    admin.flushall()


def test_a_server_without_a_log_loses_runs_at_its_restart(own, admin):
    made = Deployment(own.url)
    admin.config_set("appendonly", "no")
    run = made.orchestrator.start("plain")
    own.process.kill()
    own.process.wait()
    own.restart()
    with pytest.raises(UnknownRun):
        made.orchestrator.get(run.id)
    admin.config_set("appendonly", "no")
    made.announce()
    assert made.names() == ["aof-off"]


def test_a_replica_refuses_runs(own, admin):
    made = Deployment(own.url)
    admin.replicaof("127.0.0.1", 1)
    try:
        with pytest.raises(StoreError):
            made.orchestrator.start("plain")
        assert "replica" in made.names()
    finally:
        admin.replicaof("NO", "ONE")


def test_a_full_server_is_named_with_what_retention_frees(own, admin):
    made = Deployment(own.url)
    for _ in range(3):
        made.orchestrator.start("plain", "x" * 100_000).cancel()
    admin.config_set("maxmemory", admin.info("memory")["used_memory"] + 200_000)
    with pytest.raises(StoreFull):
        [made.orchestrator.start("plain", "x" * 100_000) for _ in range(20)]
    (finding,) = [each for each in made.orchestrator.doctor() if each.name == "memory"]
    assert "plain about" in finding.what
    assert "Settings.retention" in finding.setting
    admin.config_set("maxmemory", 0)


def test_a_short_visibility_timeout_delivers_a_message_again(own):
    made = Deployment(own.url, broker_transport_options={"visibility_timeout": 1})
    made.orchestrator.start("plain")
    with made.app.connection_for_read() as held, made.app.connection_for_read() as other:
        assert held.default_channel.basic_get("books") is not None  # and not acknowledged
        channel = other.default_channel

        def comes_again() -> bool:
            channel.qos.restore_visible()
            return channel.basic_get("books") is not None

        wait_until(comes_again, "the message comes again")
    assert made.names() == ["visibility-timeout"]


class Bomb:
    def __init__(self, place: Path) -> None:
        self._place = place

    def __reduce__(self):
        return os.mkdir, (str(self._place),)


def test_pickle_runs_a_strangers_code(own, tmp_path):
    made = Deployment(own.url, accept_content=["json", "pickle"])
    accepted = serialization.prepare_accept_content(made.app.conf.accept_content)
    message = pickle.dumps(Bomb(tmp_path / "by a stranger"))
    serialization.loads(message, "application/x-python-serialize", "binary", accept=accepted)
    assert (tmp_path / "by a stranger").is_dir()
    assert made.names() == ["unsafe-content"]


def test_an_annotation_does_not_reach_a_node(own):
    assert Deployment(own.url).names() == []
    chosen = {"acks_late": False, "rate_limit": "1/h"}
    made = Deployment(own.url, task_annotations={"plain.only": chosen, "count": chosen})

    @made.app.task(name="count")
    def count() -> None: ...

    assert (count.acks_late, count.rate_limit) == (False, "1/h")  # as Celery has it for a task of the app
    node = made.app.tasks["plain.only"]
    assert (node.acks_late, node.rate_limit) == (True, None)
    runs = [made.orchestrator.start("plain") for _ in range(2)]
    for run in runs:
        made.work(run.id)
    assert [run.status for run in runs] == ["succeeded", "succeeded"]  # both in this hour
    assert made.names() == ["annotations"]


def test_without_a_result_backend_nobody_has_results(own):
    made = Deployment(own.url, backend=None)
    run = made.orchestrator.start("plain")
    with pytest.raises(NotImplementedError):
        made.app.AsyncResult(run.id).get(timeout=1)
    assert made.names() == ["no-result-backend"]


def test_a_worker_that_reserves_more_than_it_runs_keeps_messages_from_others(own):
    made = Deployment(own.url, worker_prefetch_multiplier=4)
    for _ in range(4):
        made.orchestrator.start("plain")
    with made.app.connection_for_read() as connection:
        taken: list[Any] = []
        consumer = made.app.amqp.TaskConsumer(
            connection.default_channel, queues=[made.app.amqp.queues["books"]], on_message=taken.append
        )
        consumer.qos(prefetch_count=4)
        with consumer:
            wait_until(lambda: connection.drain_events(timeout=5) or len(taken) == 4, "one takes all")
    assert made.names() == ["prefetch"]


def test_a_queue_that_nobody_consumes_keeps_its_runs(own):
    made = Deployment(own.url)
    made.engine.store.withdraw_worker("w1")
    (waiting,) = made.orchestrator.start("plain").explain()
    assert waiting.reason.endswith("which no worker consumes")
    assert made.names() == ["no-consumer"]


def test_a_queue_that_the_app_does_not_declare_refuses_every_start(own):
    made = Deployment(own.url, task_queues=[Queue("attic")], task_create_missing_queues=False)
    with pytest.raises(ConfigurationError):
        made.orchestrator.start("plain")
    assert made.names() == ["refused"]


def test_a_worker_without_the_flow_leaves_its_runs_waiting(own):
    made = Deployment(own.url)
    made.announce(flows={}, versions={})
    assert "have no code for plain.only" in made.orchestrator.start("plain").explain()[0].reason
    assert made.names() == ["worker-without-flow"]


def test_a_worker_with_another_version_decides_what_new_runs_are(own):
    made = Deployment(own.url)
    other = Deployment(own.url, queue="attic", prefix=made.engine.settings.prefix)
    client = Orchestrator(
        Celery("client", broker=own.url, backend=own.url, set_as_current=False), settings=made.engine.settings
    )
    run = client.start("plain")
    assert run._record().plan == other.entry.plan.hash != made.entry.plan.hash
    made.announce()
    made.announce("w2", versions={"plain": other.entry.plan.hash})
    assert made.names() == ["worker-version"]


def test_a_clock_that_is_wrong_makes_ticks_come_early(own, monkeypatch):
    made = Deployment(own.url, schedule("*/10 * * * *"))
    remember_slots(made.engine, made.entry)
    (slot,) = slots_of(made.entry)
    now = datetime.now(UTC)
    wrong = now.replace(minute=now.minute // 10 * 10, second=1, microsecond=0) + timedelta(minutes=10)
    monkeypatch.setattr(CronSchedule, "now", lambda _: wrong)
    assert CronSchedule("*/10 * * * *", "UTC").is_due(wrong - timedelta(seconds=2))[0]
    assert start_due(made.engine, made.entry, slot) == []
    made.announce(clock=made.engine.store.now_ms() / 1000 + 60)
    assert made.names() == ["clock-skew"]


def test_without_a_beat_instants_pass(own):
    made = Deployment(own.url, schedule("* * * * *"))
    (slot,) = slots_of(made.entry)
    store = made.engine.store
    store.client.hset(store.keys.slots, slot, store.now_ms() - 600_000)
    assert list(made.orchestrator.runs()) == []
    assert made.names() == ["beat-off"]
    made.orchestrator.pause_schedule("plain", "on purpose")
    assert made.names() == []


def test_numbers_of_an_operator_are_not_those_of_the_code(own):
    program = load_program("recommended", own.url)
    engine = engine_of(program.app)
    entry = engine.registry.flows["yearly"]
    engine.announce(entry)

    def work_two() -> list[str]:
        runs = [program.orchestrator.start("yearly") for _ in range(2)]
        for run in runs:
            with contextlib.suppress(Ignore):  # it waits for the limit
                program.app.tasks["yearly.close"].run(run.id, 1, entry.plan.hash)
        return [waiting.reason for run in runs for waiting in run.explain()]

    assert work_two() == []
    assert "limit-set" not in [each.name for each in program.orchestrator.doctor()]
    program.orchestrator.set_limit("books", 1, per=timedelta(hours=1))
    assert "books" in " ".join(work_two())  # what the code lets through at once waits for an hour
    assert "limit-set" in [each.name for each in program.orchestrator.doctor()]
    program.orchestrator.reset_limit("books")
    assert "limit-set" not in [each.name for each in program.orchestrator.doctor()]


def test_a_worker_that_takes_nothing_lets_messages_grow_old(own, monkeypatch):
    made = Deployment(own.url)
    run = made.orchestrator.start("plain")
    monkeypatch.setattr(doctor, "WAITS_LONG", timedelta(0))
    monkeypatch.setattr(doctor, "STUCK_AFTER", timedelta(0))
    wait_until(lambda: len(made.names()) == 2, "both are found")
    assert run.status == "pending"
    assert made.names() == ["idle-consumer", "no-progress"]
    monkeypatch.setattr(doctor, "LISTED", 10)
    for _ in range(25):  # newer ones, which wait rightly
        made.orchestrator.start("plain").pause("the bank is closed")
    assert made.names() == ["idle-consumer", "no-progress"]
    run.pause("it too")
    assert made.names() == ["idle-consumer"]


def test_a_server_that_is_too_old_does_not_know_what_a_leader_asks_for(own, monkeypatch):
    made = Deployment(own.url)
    run = made.orchestrator.start("plain")
    assert made.names() == []
    ask = made.engine.store.client.execute_command

    def answer_as_version_6_0(*words: Any, **options: Any) -> Any:
        if words[0] == "ZADD" and not {"LT", b"LT"}.isdisjoint(words):
            raise redis.ResponseError("syntax error")
        found = ask(*words, **options)
        return found | {"redis_version": "6.0.9"} if words[0] == "INFO" and "redis_version" in found else found

    monkeypatch.setattr(made.engine.store.client, "execute_command", answer_as_version_6_0)
    assert made.engine.store.upkeep.live_runs(count=2) == [run.id]
    with pytest.raises(StoreError), made.engine.store.guarded():
        made.engine.store.upkeep.bring_looks_forward(0, to=0, count=1)
    assert made.names() == ["old-server"]


def test_a_server_that_is_away_is_an_error_and_no_finding():
    made = Celery("away", broker="redis://127.0.0.1:1/0", backend="redis://127.0.0.1:1/0", set_as_current=False)
    with pytest.raises(StoreError):
        Orchestrator(made).doctor()
