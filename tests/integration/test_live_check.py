"""Verdicts over unfinished runs: the same code, code that is gone, and types that no longer fit."""

from __future__ import annotations

from itertools import count

import pytest
from celery import Celery

from orchestrator import FlowBuilder, Node, Orchestrator, Settings, manual
from orchestrator.cli.live import GOES_ON, GONE, NO_FIT, judge_live

NUMBERS = count()


def take(given: int) -> int:
    return given


def pack(given: int) -> str:
    return str(given)


def pack_otherwise(given: int) -> str:
    return f"a box of {given}"


def take_text(given: str) -> str:
    return given


def flow(first=take, second=pack, *, name: str = "order", last: str = "pack"):
    read = int if first is take else str
    return (
        FlowBuilder(name)
        .takes(read)
        .triggered_by(manual("test"))
        .on_queue("nobody")
        .then(Node("take", first).with_input_func(lambda state: state.input(read)))
        .then(Node(last, second).with_input_func(lambda state: state.get("take", read)))
        .build()
    )


def app_with(server, prefix: str, *flows) -> Orchestrator:
    app = Celery("live", broker=server.url, backend=server.url, set_as_current=False)
    orchestrator = Orchestrator(app, settings=Settings(prefix=prefix))
    for each in flows:
        orchestrator.register(each)
    return orchestrator


@pytest.fixture
def prefix(server):
    return f"live{next(NUMBERS)}"


def verdicts(orchestrator: Orchestrator) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(each.verdict, each.reason, each.runs) for each in judge_live(orchestrator)]


def test_the_same_code_and_another_body_let_a_run_go_on(server, prefix):
    run = app_with(server, prefix, flow()).start("order", 1)
    other_body = app_with(server, prefix, flow(second=pack_otherwise))
    assert verdicts(app_with(server, prefix, flow())) == [(GOES_ON, "", (run.id,))]
    assert [verdict for verdict, _, _ in verdicts(other_body)] == [GOES_ON]
    run.cancel()
    assert verdicts(other_body) == []


def test_a_flow_or_a_node_that_is_gone_keeps_runs_waiting(server, prefix):
    run = app_with(server, prefix, flow()).start("order", 1)
    without_flow = app_with(server, prefix, flow(name="other"))
    assert verdicts(without_flow) == [(GONE, "the app has no flow order", (run.id,))]
    without_node = app_with(server, prefix, flow(last="wrap"))
    assert verdicts(without_node) == [(GONE, "pack: it has no node of this name", (run.id,))]
    run.cancel()


def test_a_type_that_has_changed_does_not_fit_what_is_stored(server, prefix):
    run = app_with(server, prefix, flow()).start("order", 1)
    ((verdict, reason, runs),) = verdicts(app_with(server, prefix, flow(first=take_text, second=take_text)))
    assert (verdict, runs) == (NO_FIT, (run.id,))
    assert reason.startswith("take: ")
    assert "type" in reason
    run.cancel()
