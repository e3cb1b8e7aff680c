"""Log lines of nodes: kept with their run within bounds, and records that say where they were written."""

from __future__ import annotations

import json
import logging

import pytest
from celery import Celery
from celery.exceptions import Ignore

from orchestrator import FlowBuilder, Node, NodeContext, Orchestrator, RetryPolicy, Settings, manual
from orchestrator.engine import engine_of
from orchestrator.node_logs import NodeFilter
from orchestrator.server import EmbeddedServer


def chatty(ctx: NodeContext) -> int:
    ctx.logger.info("attempt %d of %s", ctx.attempt, "chatty")
    ctx.logger.debug("nobody sees this")
    logging.getLogger("shop.mail").warning("a mail was sent")
    if ctx.attempt == 1:
        ctx.logger.error("the shop is closed\nuntil nine")
        raise ConnectionError("closed")
    return 1


def endless(ctx: NodeContext) -> int:
    for number in range(1000):
        ctx.logger.info("line %d %s", number, "x" * 400)
    return 1


def silent() -> int:
    return 1


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def orchestrator(server):
    app = Celery("logs", broker="memory://", backend=server.url, set_as_current=False)
    return Orchestrator(app, settings=Settings(prefix="logs"))


def run_of(orchestrator, function):
    """A run of one node, and what calls its task."""
    name = function.__name__
    retry = RetryPolicy(maximum_attempts=2)
    flow = FlowBuilder(f"{name}-flow").triggered_by(manual("test")).then(Node(name, function, retry=retry)).build()
    orchestrator.register(flow)
    plan = engine_of(orchestrator.app).registry.flows[flow.name].plan
    run = orchestrator.start(flow)
    return run, lambda: orchestrator.app.tasks[f"{flow.name}.{name}"].run(run.id, 1, plan.hash)


def wake(orchestrator, run, node):
    store = engine_of(orchestrator.app).store
    key = store.keys.nodes(run.id)
    record = json.loads(store.client.hget(key, node))
    store.client.hset(key, node, json.dumps(record | {"due": 0}))
    store.scripts.wake(run.id, store.run(run.id).plan, node)


def test_lines_are_kept_with_the_run_and_records_say_where_they_were_written(orchestrator, caplog):
    caplog.handler.addFilter(NodeFilter())
    run, work = run_of(orchestrator, chatty)
    with caplog.at_level(logging.INFO):
        with pytest.raises(Ignore):  # the node waits for its next attempt
            work()
        wake(orchestrator, run, "chatty")
        work()
    assert run.status == "succeeded"
    assert [(line.node, line.attempt, line.level, line.text) for line in run.show().log] == [
        ("chatty", 1, "INFO", "attempt 1 of chatty"),
        ("chatty", 1, "ERROR", "the shop is closed\nuntil nine"),
        ("chatty", 2, "INFO", "attempt 2 of chatty"),
    ]
    mails = [record for record in caplog.records if record.name == "shop.mail"]
    assert [(record.flow, record.run, record.node, record.attempt) for record in mails] == [
        ("chatty-flow", run.id, "chatty", 1),
        ("chatty-flow", run.id, "chatty", 2),
    ]
    (first, *_) = [record for record in caplog.records if record.name == "orchestrator.flow.chatty-flow"]
    assert (first.funcName, first.getMessage()) == ("chatty", "attempt 1 of chatty")
    assert run.failures() == {}


def test_a_run_keeps_so_many_bytes_of_lines_and_the_newest(orchestrator, caplog):
    run, work = run_of(orchestrator, endless)
    with caplog.at_level(logging.INFO):
        work()
    log = run.show().log
    assert 100 < len(log) <= 200
    assert log[-1].text.startswith("line 999 ")
    store = engine_of(orchestrator.app).store
    assert store.client.hstrlen(store.keys.failures(run.id), ":log") <= 65_536
    assert store.client.pttl(store.keys.failures(run.id)) > 0


def test_a_node_without_lines_leaves_nothing(orchestrator):
    run, work = run_of(orchestrator, silent)
    work()
    store = engine_of(orchestrator.app).store
    assert run.show().log == ()
    assert not store.client.exists(store.keys.failures(run.id))


def test_lines_bring_no_key_of_a_run_back_to_life(orchestrator):
    store = engine_of(orchestrator.app).store
    gone = "00000000-0000-0000-0000-000000000000"
    assert not store.scripts.keep_log(gone, "[]\n")
    assert not store.client.exists(store.keys.failures(gone))


def test_outside_of_nodes_a_record_says_nothing_and_keeps_its_own():
    record = logging.makeLogRecord({"node": "mine"})
    assert NodeFilter().filter(record)
    assert [getattr(record, name) for name in ("node", "flow", "attempt")] == ["mine", "", 0]
