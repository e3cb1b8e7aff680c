"""Errors in an attempt and their outcome; its task is called in this process, as a message would call it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from celery import Celery

from orchestrator import FlowBuilder, InvalidInput, Node, Orchestrator, manual
from orchestrator.engine import engine_of


@pytest.fixture
def failure_of(server):
    """The failure that a flow's run ends with when the task of one node was called once."""

    def failure_of(builder, task):
        orchestrator = Orchestrator(Celery("attempts", broker="memory://", backend=server.url, set_as_current=False))
        flow = builder.build()
        orchestrator.register(flow)
        run = orchestrator.start(flow, "x")
        plan = engine_of(orchestrator.app).registry.flows[flow.name].plan
        with suppress(Exception):  # the task fails as its node does
            orchestrator.app.tasks[f"{flow.name}.{task}"].run(run.id, 1, plan.hash)
        assert run.status == "failed"
        return run.error

    return failure_of


class Ambiguous:
    """Such as an array: it has no truth value."""

    def __bool__(self) -> bool:
        raise ValueError("ambiguous")


def is_vague(_state: object) -> Any:
    return Ambiguous()


def test_a_predicate_whose_answer_is_neither_true_nor_false_is_not_asked_again(failure_of):
    builder = FlowBuilder("vague").triggered_by(manual("test")).when(is_vague)
    error = failure_of(builder.then(Node("a", lambda: 1)).end_when(), "when-1")
    assert (error.type, error.node_name, error.attempt) == ("builtins.ValueError", "when-1", 1)


def test_an_error_about_another_run_still_names_that_run(failure_of):
    def ask_another() -> int:
        raise InvalidInput("does not fit", flow_name="other", run_id="1", node_name="theirs")

    builder = FlowBuilder("asking").triggered_by(manual("test")).then(Node("a", ask_another))
    error = failure_of(builder, "a")
    assert error.node_name == "a"
    assert "other" in error.message


def test_an_error_about_a_value_of_its_own_names_its_run(failure_of):
    def wants_number(value: int) -> int:
        return value

    node = Node("a", wants_number).with_input_func(lambda state: state.input())
    error = failure_of(FlowBuilder("own").triggered_by(manual("test")).then(node), "a")
    assert error.type.endswith("InvalidInput")
    assert "own" in error.message
