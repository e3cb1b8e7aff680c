"""The first message of a run, pushed by the script that makes the run: what Celery sends, or sent by Celery."""

from __future__ import annotations

import json
from base64 import b64decode

import pytest
import redis
from celery import Celery, signals
from kombu.transport.redis import Channel

from orchestrator import FlowBuilder, Node, Orchestrator, manual
from orchestrator.engine import engine_of
from orchestrator.messaging.queue_inspection import QueueHead, look_at_queue
from orchestrator.server import EmbeddedServer

QUEUE = "post"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def client(server):
    assert not signals.before_task_publish.receivers, "a test before this one still listens, so nothing is pushed"
    with redis.Redis.from_url(server.url) as made:
        yield made
        for key in made.scan_iter(f"*{QUEUE}"):
            if made.type(key) == b"list":
                made.delete(key)


@pytest.fixture
def post(server):
    """An app on the server; options of Celery's configuration."""

    def post(**conf):
        app = Celery("post", broker=server.url, backend=server.url, set_as_current=False)
        app.conf.update(conf)
        return Orchestrator(app)

    return post


def act() -> int:
    """The function of every node: no worker ever calls it."""
    return 1


def line(name="line"):
    return FlowBuilder(name).triggered_by(manual("test")).on_queue(QUEUE).then(Node("a", act)).then(Node("b", act))


def fan():
    members = [Node(f"m-{number}", act) for number in range(2)]
    return FlowBuilder("fan").triggered_by(manual("test")).on_queue(QUEUE).then_parallel("all", *members)


def messages(client):
    return [json.loads(text) for text in reversed(client.lrange(QUEUE, 0, -1))]


def told_alike(message, run):
    """A message without what is its own."""
    assert message["headers"]["id"] == message["properties"]["correlation_id"]
    message["body"] = json.loads(b64decode(message["body"]))
    own = [run.id, message["headers"]["id"], message["properties"]["delivery_tag"]]
    text = json.dumps(message, sort_keys=True)
    for each in own:
        assert each in text
        text = text.replace(each, "?")
    since = message["headers"].get("orchestrator_since")
    return text.replace(str(since), "?") if since else text


@pytest.fixture
def listener():
    """Somebody who is told of every message that is sent."""
    heard = []

    def hear(sender=None, **_):
        heard.append(sender)

    signals.before_task_publish.connect(hear)
    yield heard
    signals.before_task_publish.disconnect(hear)


@pytest.mark.parametrize("builder", [line, fan])
def test_what_is_pushed_is_what_celery_sends(post, client, builder, request):
    orchestrator, flow = post(), builder().build()
    pushed = [orchestrator.start(flow) for _ in range(2)]
    request.getfixturevalue("listener")
    sent = orchestrator.start(flow)
    found = messages(client)
    first, second, third = (told_alike(*pair) for pair in zip(found, [*pushed, sent], strict=True))
    assert first == second == third


def test_every_message_has_ids_and_the_instant_of_its_own(post, client):
    orchestrator, flow = post(), line().build()
    runs = [orchestrator.start(flow) for _ in range(3)]
    found = messages(client)
    assert [message["headers"]["root_id"] for message in found] == [run.id for run in runs]
    assert len({message["headers"]["id"] for message in found}) == 3
    assert len({message["properties"]["delivery_tag"] for message in found}) == 3
    for run, message in zip(runs, found, strict=True):
        since = message["headers"]["orchestrator_since"]
        assert run.created_at.timestamp() * 1000 == pytest.approx(since, abs=1)


def test_a_repeated_start_pushes_nothing(post, client):
    orchestrator, flow = post(), line().build()
    first = orchestrator.start(flow, idempotency_key="once")
    assert orchestrator.start(flow, idempotency_key="once").id == first.id
    assert len(messages(client)) == 1


def test_who_listens_to_celery_hears_of_every_message(post, client, listener):
    orchestrator, flow = post(), line().build()
    orchestrator.start(flow)
    assert listener == ["line.a"]
    assert len(messages(client)) == 1


def test_what_another_library_adds_is_sent_with_every_message(post, client, monkeypatch):
    """Tracing libraries wrap the sending of a task, and put a header of their own into each message."""
    orchestrator, flow = post(), line().build()
    send = Celery.send_task
    traces: list[str] = []

    def traced(self, *args, headers=None, **options):
        traces.append(f"trace-{len(traces)}")
        return send(self, *args, headers=(headers or {}) | {"traceparent": traces[-1]}, **options)

    monkeypatch.setattr(Celery, "send_task", traced)
    for _ in range(2):
        orchestrator.start(flow)
    assert [message["headers"]["traceparent"] for message in messages(client)] == traces[-2:]


def test_another_broker_gets_its_message_from_celery(server, client):
    app = Celery("post", broker=f"{server.url.rsplit('/', 1)[0]}/5", backend=server.url, set_as_current=False)
    Orchestrator(app).start(line().build())
    assert messages(client) == []
    with redis.Redis.from_url(f"{server.url.rsplit('/', 1)[0]}/5") as broker:
        assert len(messages(broker)) == 1
        broker.flushdb()


def test_a_broker_with_a_prefix_and_priorities_is_pushed_what_celery_sends(post, client, monkeypatch):
    conf = {"broker_transport_options": {"global_keyprefix": "mine:"}, "task_default_priority": 6}
    orchestrator, flow, key = post(**conf), line().build(), f"mine:{QUEUE}\x06\x166"
    with monkeypatch.context() as patched:
        patched.setattr("orchestrator.messaging.publisher.is_unobserved", lambda _app: False)
        sent = orchestrator.start(flow)
    pushed = orchestrator.start(flow)
    queue = f"mine:{QUEUE}"
    assert {name: client.llen(name) for name in (key, queue, QUEUE)} == {key: 2, queue: 0, QUEUE: 0}
    found = [json.loads(client.rpop(key)) for _ in range(2)]
    first, second = (told_alike(*pair) for pair in zip(found, [sent, pushed], strict=True))
    assert first == second
    with monkeypatch.context() as patched:
        patched.setattr(Channel, "_put", lambda *_args, **_options: pytest.fail("Celery sends"))
        orchestrator.start(flow)
    assert client.delete(key) == 1


@pytest.mark.parametrize("conf", [{}, {"broker_transport_options": {"global_keyprefix": "mine:"}}])
def test_the_oldest_messages_of_a_queue_are_seen_whatever_its_keys_are_called(post, client, conf):
    orchestrator = post(**conf)
    runs = [orchestrator.start(line().build())]
    post(**conf, task_default_priority=3).start(line("urgent").build())
    head = look_at_queue(orchestrator.app, QUEUE)
    assert head.length == 2
    assert head.oldest == pytest.approx(runs[0].created_at.timestamp() * 1000, abs=1)
    assert not head.may_have_lost(head.oldest or 0, now=0)
    for key in client.scan_iter(f"*{QUEUE}*"):
        if client.type(key) == b"list":
            client.delete(key)
    assert look_at_queue(orchestrator.app, QUEUE) == QueueHead(0, None)


def test_a_start_with_its_message_is_one_call_of_the_server(post, client):
    orchestrator, flow = post(), line().build()
    orchestrator.start(flow)
    client.config_resetstat()
    orchestrator.start(flow)
    calls = {name: row["calls"] for name, row in client.info("commandstats").items()}
    assert calls["cmdstat_evalsha"] == calls["cmdstat_lpush"] == 1
    assert not calls.keys() & {"cmdstat_multi", "cmdstat_ping", "cmdstat_sadd"}


def test_messages_of_the_first_protocol_are_left_to_celery(post, client):
    orchestrator, flow = post(task_protocol=1), line().build()
    for _ in range(2):
        orchestrator.start(flow)
    bodies = [json.loads(b64decode(message["body"])) for message in messages(client)]
    assert len({body["id"] for body in bodies}) == 2


def test_a_message_that_expires_is_left_to_celery(post, client, monkeypatch):
    """An instant in a message is not that of the next one."""
    orchestrator, flow = post(), line().build()
    send = Celery.send_task
    monkeypatch.setattr(Celery, "send_task", lambda *args, **options: send(*args, **options | {"expires": 60}))
    for _ in range(2):
        orchestrator.start(flow)
    first, second = (message["headers"]["expires"] for message in messages(client))
    assert first < second


def test_a_client_with_another_default_queue_pushes_to_the_queue_of_the_workers(post, server, client):
    built = FlowBuilder("announced").triggered_by(manual("test")).then(Node("a", act)).build()
    workers = post(task_default_queue=QUEUE)
    workers.register(built)
    workers._engine.announce(workers._engine.registry.flows["announced"])
    post(task_default_queue="elsewhere").start(built)
    assert client.llen("elsewhere") == 0
    assert [message["headers"]["task"] for message in messages(client)] == ["announced.a"]


def work_on(orchestrator, run, node):
    """Call a node's task as its message would."""
    plan = engine_of(orchestrator.app).registry.flows["line"].plan
    orchestrator.app.tasks[f"line.{node}"].run(run.id, 1, plan.hash)


def test_what_a_commit_pushes_is_what_celery_sends(post, client, request):
    orchestrator, flow = post(), line().build()
    runs = [orchestrator.start(flow) for _ in range(3)]
    for run in runs[:2]:
        work_on(orchestrator, run, "a")
    request.getfixturevalue("listener")
    work_on(orchestrator, runs[2], "a")
    found = [message for message in messages(client) if message["headers"]["task"] == "line.b"]
    first, second, third = (told_alike(*pair) for pair in zip(found, runs, strict=True))
    assert first == second == third


def test_a_commit_with_the_message_behind_it_is_one_call_of_the_server(post, client):
    orchestrator, flow = post(), line().build()
    run, warm = orchestrator.start(flow), orchestrator.start(flow)
    work_on(orchestrator, warm, "a")
    client.config_resetstat()
    work_on(orchestrator, run, "a")
    calls = {name: row["calls"] for name, row in client.info("commandstats").items()}
    assert calls["cmdstat_evalsha"] == 2, "a claim and a commit"
    assert calls["cmdstat_lpush"] == 1
    assert not calls.keys() & {"cmdstat_multi", "cmdstat_ping", "cmdstat_sadd"}


def test_the_message_of_a_decision_and_of_the_branch_that_it_chose_are_pushed(post, client, monkeypatch):
    builder = line("choice").when(lambda state: False).then(Node("c", act)).else_when(lambda state: True)
    orchestrator, flow = post(), builder.then(Node("d", act)).end_when().then(Node("e", act)).build()

    def work_through():
        run, done = orchestrator.start(flow), []
        plan = engine_of(orchestrator.app).registry.flows["choice"].plan
        while run.status in {"pending", "running"}:
            done.append(json.loads(client.lpop(QUEUE))["headers"]["task"])
            orchestrator.app.tasks[done[-1]].run(run.id, 1, plan.hash)
        assert run.status == "succeeded"
        assert [task.partition(".")[2] for task in done] == ["a", "b", "when-1", "d", "e"]

    work_through()  # learns how the messages look
    monkeypatch.setattr(Channel, "_put", lambda *_args, **_options: pytest.fail("Celery sends"))
    work_through()


@pytest.mark.parametrize("trouble", [AttributeError("of kombu"), redis.ConnectionError("away"), KeyError("no route")])
def test_how_a_message_looks_is_asked_behind_the_commit_and_may_fail(post, client, monkeypatch, trouble):
    orchestrator, flow = post(), line().build()
    run = orchestrator.start(flow)
    stored = []

    def refuse(*_args):
        stored.append(orchestrator._engine.store.nodes(run.id)["a"]["state"])
        raise trouble

    monkeypatch.setattr("orchestrator.messaging.publisher.take_envelope", refuse)
    work_on(orchestrator, run, "a")
    assert stored == ["succeeded"]
    assert [message["headers"]["task"] for message in messages(client)] == ["line.a", "line.b"], "Celery sends it"
    work_on(orchestrator, run, "b")
    again = orchestrator.start(flow)
    work_on(orchestrator, again, "a")
    assert stored == ["succeeded"], "a broker in trouble is not asked for every node"
    assert [run.status, again.status] == ["succeeded", "running"]
