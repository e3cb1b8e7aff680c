"""The error tree: every class comes back from pickle and from JSON, and says where and what to do."""

import inspect
import json
import pickle
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery
from pydantic import BaseModel, ValidationError

from orchestrator import errors
from orchestrator.errors import (
    FlowDefinitionError,
    FlowDefinitionWarning,
    IdempotencyConflict,
    NodeFailure,
    OrchestratorError,
    PayloadTooLarge,
    Problem,
    RetryLater,
    RunError,
    RunFailed,
    Signal,
    StoreError,
    Terminal,
    UnknownFlow,
    describe_fields,
    path_text,
    text_of,
    type_name,
)

FAILURE = NodeFailure(flow_name="f", node_name="n", attempt=2, type="a.B", message="no", traceback="T")

EXAMPLES: dict[type[BaseException], Any] = {
    FlowDefinitionError: FlowDefinitionError([Problem("node a", "bad-name", "is bad"), Problem("flow f", "x", "y")]),
    UnknownFlow: UnknownFlow("enrich-isues", ["enrich-issues", "other"]),
    IdempotencyConflict: IdempotencyConflict("f", "order-42", "r1"),
    PayloadTooLarge: PayloadTooLarge("output of node a", 2_000_000, 1_048_576),
    RunFailed: RunFailed(FAILURE, run_id="r1"),
    RetryLater: RetryLater("busy", after=timedelta(seconds=90), freeze=True),
    Terminal: Terminal("no such customer"),
    FlowDefinitionWarning: FlowDefinitionWarning("over 50 nodes"),
}


def classes():
    return [
        each
        for _, each in inspect.getmembers(errors, inspect.isclass)
        if issubclass(each, BaseException | Warning) and each.__module__ == errors.__name__
    ]


def example(kind):
    if kind in EXAMPLES:
        return EXAMPLES[kind]
    if issubclass(kind, RunError):
        return kind("it broke", flow_name="f", run_id="r", node_name="n", attempt=3)
    return kind("it broke")


def same(one, other):
    assert type(other) is type(one)
    assert str(other) == str(one)
    assert other.args == one.args
    assert {k: v for k, v in vars(other).items() if k != "args"} == vars(one)


@pytest.mark.parametrize("kind", classes())
def test_every_class_survives_pickle(kind):
    one = example(kind)
    same(one, pickle.loads(pickle.dumps(one)))


@pytest.mark.parametrize("kind", classes())
def test_every_class_survives_json(kind):
    one = example(kind)
    arguments = json.loads(json.dumps(one.args))
    other = kind(*arguments)
    assert str(other) == str(one)
    assert vars(other) == vars(one)


@pytest.mark.parametrize("kind", classes())
def test_every_class_survives_celerys_json_results(kind):
    one = example(kind)
    with Celery("test", set_as_current=False) as app:
        backend = app.backend
        stored = json.loads(json.dumps(backend.prepare_exception(one, serializer="json")))
        other = backend.exception_to_python(stored)
    assert type(other) is kind
    assert str(other) == str(one)


def test_the_tree_has_one_root_and_signals_and_warnings_stay_outside():
    outside = {each for each in classes() if not issubclass(each, OrchestratorError)}
    assert outside == {Signal, Terminal, RetryLater, FlowDefinitionWarning}
    assert issubclass(FlowDefinitionWarning, UserWarning)


def test_the_drawing_names_every_class():
    assert all(each.__name__ in errors.__doc__ for each in classes())


def test_problems_are_one_line_each():
    error = EXAMPLES[FlowDefinitionError]
    assert str(error) == "node a: is bad\nflow f: y"
    assert error.problems[0] == Problem(where="node a", code="bad-name", message="is bad")


def test_unknown_flow_names_the_nearest():
    assert "'enrich-issues'" in str(UnknownFlow("enrich-isues", ["enrich-issues", "other"]))
    assert "other" in str(UnknownFlow("zzz", ["other"]))
    assert "no flow is known" in str(UnknownFlow("zzz"))


def test_run_errors_say_where():
    error = RunError("it broke", flow_name="f", node_name="n")
    assert str(error) == "it broke [flow f, node n]"
    assert str(RunError("it broke")) == "it broke"
    assert (error.run_id, error.attempt) == (None, None)


def test_run_failed_carries_the_failure():
    error = RunFailed(FAILURE, run_id="r1")
    assert error.error is FAILURE
    assert (error.flow_name, error.run_id, error.node_name, error.attempt) == ("f", "r1", "n", 2)
    assert str(error) == "flow f, node n failed in attempt 2: a.B: no [run r1]"


def test_run_failed_of_a_run_without_a_node():
    failure = NodeFailure(
        flow_name="f", node_name=None, attempt=0, type="orchestrator.errors.RunTimeout", message="late"
    )
    assert str(RunFailed(failure)) == "flow f failed: orchestrator.errors.RunTimeout: late"


def test_retry_later_needs_a_delay():
    with pytest.raises(TypeError, match="after="):
        RetryLater("x")  # type: ignore[call-overload]
    assert RetryLater(after=timedelta(minutes=1)).after == timedelta(minutes=1)
    assert not RetryLater(after=timedelta(minutes=1)).freeze


def test_store_errors_are_apart_from_run_errors():
    assert not issubclass(StoreError, RunError)


class Hostile(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


def throw(error):
    raise error


def fail(error):
    try:
        throw(error)
    except BaseException as caught:  # noqa: BLE001
        return caught


def test_a_failure_records_an_exception():
    failure = NodeFailure.of(fail(ValueError("boom")), flow_name="f", node_name="n", attempt=1)
    assert failure.type == "builtins.ValueError"
    assert failure.message == "boom"
    assert "in throw" in failure.traceback
    assert NodeFailure.model_validate_json(failure.model_dump_json()) == failure


def test_a_failure_of_a_nested_class_has_its_qualified_name():
    class Refused(Exception):
        pass

    failure = NodeFailure.of(Refused("x"), flow_name="f")
    assert failure.type.endswith("test_a_failure_of_a_nested_class_has_its_qualified_name.<locals>.Refused")
    assert failure.type.startswith(f"{__name__}.")


@pytest.mark.parametrize(
    "error",
    [
        Hostile(),
        ValueError(Hostile()),
        ValueError("\ud800 lone surrogate"),
        ValueError(b"\xff"),
        ValueError("x" * 5_000_000),
        ExceptionGroup("many", [ValueError(str(n)) for n in range(50)]),
        SystemExit(3),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_failure_records_hostile_exceptions(error):
    failure = NodeFailure.of(fail(error), flow_name="f", node_name="n", attempt=1)
    stored = failure.model_dump_json().encode()
    assert len(stored) < 50_000
    assert NodeFailure.model_validate_json(stored) == failure


def test_a_failure_survives_hostile_notes_and_causes():
    error = ValueError("outer")
    error.__notes__ = 5  # type: ignore[assignment]
    error.__cause__ = Hostile()
    failure = NodeFailure.of(fail(error), flow_name="f")
    assert "in throw" in failure.traceback


def test_a_failure_survives_a_class_that_hides_its_name():
    class Nameless(type):
        def __getattribute__(cls, name):
            raise RuntimeError("no name")

    class Strange(Exception, metaclass=Nameless):
        pass

    assert NodeFailure.of(Strange("x"), flow_name="f").type == "<unprintable type>"


def test_a_traceback_that_cannot_be_formatted_still_shows_its_frames(monkeypatch):
    def refuse(_error):
        raise RuntimeError("no")

    monkeypatch.setattr("traceback.TracebackException.from_exception", refuse)
    assert "in throw" in NodeFailure.of(fail(ValueError("x")), flow_name="f").traceback


def test_names_and_texts_never_raise():
    assert type_name(int) == "int"
    assert type_name(list[int]) == "list[int]"
    assert type_name(Problem) == "orchestrator.errors.Problem"
    assert type_name(Hostile()) == "<unprintable type>"
    assert type_name("\ud800") == "\\ud800", "what cannot be written as UTF-8 would break a log"
    assert text_of(Hostile()) == "<its text cannot be read>"


def test_field_descriptions_have_paths_and_no_values():
    class Order(BaseModel):
        lines: list[dict[str, int]]

    with pytest.raises(ValidationError) as caught:
        Order.model_validate({"lines": [{"a": "hunter2"}] * 30})
    text = describe_fields(caught.value)
    assert "lines.0.a: Input should be a valid integer" in text
    assert "and 10 more" in text
    assert "hunter2" not in text


def test_paths_are_short_and_printable():
    assert path_text(()) == "(root)"
    assert path_text(("a", 0, Hostile())).startswith("a.0.")
    assert len(path_text(range(1000))) < 100
    assert len(path_text(["k" * 10_000])) < 300
