"""Values that do not fit or cannot be stored: a clear error, nothing written or lost, and workers that go on."""

from __future__ import annotations

import re
import time
import uuid
from datetime import timedelta
from typing import Any

import pytest

from orchestrator import (
    FlowBuilder,
    FlowDefinitionError,
    IdempotencyConflict,
    InvalidInput,
    Node,
    PayloadTooLarge,
    SharedConcurrency,
    SharedRateLimiter,
    UnknownFlow,
    UnknownRun,
    manual,
)
from tests.harness import wait_until
from tests.hostile_world import FORGED, QUEUE, TEXT, nothing_written, snapshot


# --- names -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("typd", "there is no flow named 'typd'; did you mean 'typed' or 'untyped'?"),
        (TEXT, f"there is no flow named {TEXT!r}; known flows: breaks-its-word, "),
        ("x" * 10_000, "there is no flow named 'xxx"),
        ("\ud800", r"there is no flow named '\ud800'; known flows: "),
        (5, "there is no flow named 5; known flows: "),
    ],
    ids=["near", "hostile", "long", "surrogate", "number"],
)
def test_an_unknown_flow_is_refused_with_the_nearest_names(hostile, stranger, client, name, message):
    for orchestrator in (hostile.orchestrator, stranger):
        with nothing_written(client), pytest.raises(UnknownFlow, match=re.escape(message)) as caught:
            orchestrator.start(name, {})
        assert type(caught.value) is UnknownFlow


@pytest.mark.parametrize(
    "make",
    [
        lambda run: "never-started",
        lambda run: "",
        lambda run: TEXT,
        lambda run: "\ud800",
        lambda run: "x" * 10_000,
        lambda run: None,
        lambda run: 5,
        lambda run: f"{run.id}:nodes",
        lambda run: f"{run.id}:outputs",
        lambda run: f"{run.id}:told",
        lambda run: "*",
    ],
    ids=["name", "empty", "hostile", "surrogate", "long", "none", "number", "nodes", "outputs", "history", "glob"],
)
def test_an_unknown_run_is_refused_and_no_other_key_is_taken_for_it(hostile, client, make):
    known = hostile.orchestrator.start("fresh")
    assert known.wait(timeout=30) == "succeeded"
    run_id = make(known)
    with nothing_written(client), pytest.raises(UnknownRun) as caught:
        hostile.orchestrator.get(run_id)
    assert type(caught.value) is UnknownRun
    assert f"run {run_id!r} is unknown: it was never started here, or its retention is over" in str(caught.value)


def test_a_run_is_found_by_its_id_as_text_or_as_a_uuid(hostile):
    run = hostile.orchestrator.start("fresh")
    found = hostile.orchestrator.get(uuid.UUID(run.id))
    assert (found.id, found.wait(timeout=30)) == (run.id, "succeeded")
    with pytest.raises(UnknownRun, match="is unknown"):
        hostile.orchestrator.get(uuid.UUID(int=1))


def test_no_late_call_brings_a_run_back(hostile, client):
    run = hostile.orchestrator.start("fresh")
    assert run.wait(timeout=30) == "succeeded"
    client.delete(*client.scan_iter(f"orchestrator:run:{run.id}*"))
    calls = [run.cancel, run.resume, run.wait, run.result, run.state, lambda: run.status, lambda: run.error]
    with nothing_written(client):
        for call in calls:
            with pytest.raises(UnknownRun, match=run.id):
                call()
        assert run.history() == []
        assert run.failures() == {}


def test_an_unknown_status_is_refused(hostile):
    with pytest.raises(ValueError, match=r"'suceeded' is not a run's status; use one of pending, running, .*succeeded"):
        hostile.orchestrator.runs(status="suceeded")
    assert hostile.orchestrator.runs(flow="typd") == []


def problem_of(flow):
    with pytest.raises(FlowDefinitionError) as caught:
        flow.build()
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize("name", [TEXT, "", "x" * 101, "\ud800", "__proto__", "../etc", "a:b", "a|b", "A", "ä", 5])
def test_a_hostile_name_is_refused_when_the_flow_is_built(name):
    def start(called):
        return FlowBuilder(called).triggered_by(manual("test"))

    node, second = Node("fine", lambda: 1), timedelta(seconds=1)
    problems = {
        "flow": problem_of(start(name).then(node)),
        "node": problem_of(start("fine").then(node.with_name(name))),
        "key": problem_of(start("fine").then(node.as_(name))),
        "step": problem_of(start("fine").then_parallel(name, node)),
        "limiter": problem_of(start("fine").then(node.with_shared_rate_limit(SharedRateLimiter(name, 1, per=second)))),
        "slots": problem_of(start("fine").then(node.with_concurrency(SharedConcurrency(name, 1)))),
        "compensation": problem_of(start("fine").then(node.on_error(node.with_name(name)))),
    }
    assert {problem.code for problem in problems.values()} == {"bad-name"}
    for problem in problems.values():
        assert "is not valid; use at most 100 characters of a-z, 0-9, _ and -" in problem.message
        assert len(str(problem).splitlines()) == 1


# --- inputs ----------------------------------------------------------------------------------------
LOOP: list[Any] = []
LOOP.append(LOOP)


def nest(depth):
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


REFUSED = {
    "missing": ("typed", {}, "id: Field required"),
    "none": ("typed", None, "(root): Input should be"),
    "extra": ("typed", {"id": 1, "colour": "red"}, "colour: Extra inputs are not permitted"),
    "wrong": ("typed", {"id": 1, "lines": [{"article": "a", "count": "many"}]}, "lines.0.count: Input should be"),
    "several": ("typed", {"lines": [{}]}, "id: Field required; lines.0.article: Field required; lines.0.count: "),
    "text": ("typed", "order", "(root): Input should be"),
    "keys": ("typed", {"id": 1, 2: 3}, "2: Keys should be strings"),
    "nan": ("typed", {"id": 1, "price": float("nan")}, "price: NaN and infinity are not JSON"),
    "infinity": ("typed", {"id": 1, "price": float("inf")}, "price: NaN and infinity are not JSON"),
    "huge": ("typed", {"id": 10**5000}, "number out of range"),
    "bytes": ("typed", {"id": 1, "lines": [{"article": b"\xff", "count": 1}]}, "lines.0.article: Input should be"),
    "surrogate": ("typed", {"id": 1, "lines": [{"article": "\ud800", "count": 1}]}, "lines.0.article: "),
    "deep": ("typed", {"id": 1, "lines": nest(10_000)}, "lines.0: Input should be"),
    "loop": ("typed", {"id": 1, "lines": LOOP}, "lines.0: Input should be"),
    "any nan": ("untyped", {"rows": [0, float("nan")]}, "rows.1: NaN and infinity are not JSON"),
    "any huge": ("untyped", 10**5000, "number out of range"),
    "any bytes": ("untyped", {"raw": b"\xff"}, "raw: bytes: invalid utf-8"),
    "any surrogate": ("untyped", ["a", "\ud800"], "1: str: UnicodeEncodeError"),
    "any surrogate key": ("untyped", {"\ud800": 1}, "(root): dict: UnicodeEncodeError"),
    "any deep": ("untyped", nest(10_000), "nested deeper than 200 levels"),
    "any loop": ("untyped", LOOP, "0: a list that contains itself"),
    "any object": ("untyped", [object()], "0: object: Unable to serialize unknown type"),
    "any same keys": ("untyped", {1: "a", "1": "b"}, "two of its keys are the same text in JSON"),
    "any generator": ("untyped", (n for n in range(3)), "generator is not JSON; return a list"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_input_that_does_not_fit_is_refused_at_start_with_its_path(hostile, client, ledger, case):
    flow, value, message = REFUSED[case]
    with nothing_written(client), pytest.raises(InvalidInput, match=re.escape(message)) as caught:
        hostile.orchestrator.start(flow, value, idempotency_key="refused", tags={"a": "b"})
    assert type(caught.value) is InvalidInput
    assert caught.value.flow_name == flow
    assert str(caught.value).startswith(f"the input of flow {flow}")
    assert ledger.names("start") == []


@pytest.mark.parametrize("value", ["x" * 2_000_000, list(range(500_000))], ids=["text", "list"])
def test_a_large_input_is_refused_before_redis_sees_it(hostile, client, value):
    message = r"input of flow untyped is \d+ bytes of JSON, over the limit of 1048576; store it elsewhere"
    with nothing_written(client), pytest.raises(PayloadTooLarge, match=message):
        hostile.orchestrator.start("untyped", value)


@pytest.mark.parametrize(
    "value",
    [None, 0, "", TEXT, 10**30, 1e308, {"": {}}, {TEXT: [TEXT, None]}, nest(100), "x" * 1_000_000],
    ids=range(10),
)
def test_odd_inputs_that_are_json_arrive_as_they_are(hostile, value):
    assert hostile.orchestrator.start("untyped", value).result(timeout=30) == value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tags": {"a": 5}}, "tags must map str to str; the tag 'a' does not"),
        ({"tags": {5: "a"}}, "tags must map str to str; the tag 5 does not"),
        ({"tags": ["a"]}, "tags must be a mapping of str to str, not list"),
        ({"idempotency_key": 5}, "an idempotency key must be a str, not int"),
        ({"idempotency_key": ""}, "an idempotency key must not be empty; give None for a start without one"),
    ],
    ids=["value", "key", "list", "idempotency", "empty"],
)
def test_tags_and_idempotency_keys_are_text(hostile, client, options, message):
    with nothing_written(client), pytest.raises(InvalidInput, match=message):
        hostile.orchestrator.start("fresh", **options)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "id: Field required"),
        (None, "(root): Input should be an object"),
        ({"id": 1, "lines": [{"article": "a", "count": "many"}]}, "lines.0.count: Input should be a valid integer"),
        ({"id": 1, "colour": "red"}, "colour: Extra inputs are not permitted"),
        (["order"], "(root): Input should be an object"),
    ],
    ids=["missing", "none", "wrong", "extra", "list"],
)
def test_without_the_code_the_worker_refuses_the_input_before_any_node_acts(stranger, ledger, value, message):
    run = stranger.start("typed", value)
    assert run.wait(timeout=30) == "failed"
    error = run.error
    assert error.type == "orchestrator.errors.InvalidInput"
    assert (error.flow_name, error.node_name, error.attempt) == ("typed", "read-order", 1)
    assert error.message == (
        f"the run's input: does not fit tests.programs.hostile.Order: {message}{error.message.partition(message)[2]}"
    )
    assert error.message.endswith(f"[flow typed, run {run.id}, node read-order, attempt 1]")
    assert ledger.names("start") == []
    assert [event.event for event in run.history()] == ["run-started", "started", "failed", "run-ending", "run-failed"]


def test_without_the_code_what_is_no_json_is_refused_at_start(stranger, client):
    for value in (float("nan"), b"\xff", "\ud800", 10**5000, nest(10_000), LOOP):
        with nothing_written(client), pytest.raises(InvalidInput, match=r"^the input of flow typed"):
            stranger.start("typed", value)


# --- outputs ---------------------------------------------------------------------------------------
UNSTORABLE = {
    "lock": "_thread.lock is not JSON: (root): _thread.lock: Unable to serialize unknown type",
    "loop": "list is not JSON: 1: a list that contains itself",
    "unreadable": "hostile.Unreadable is not JSON: (root): tests.programs.hostile.Unreadable: Unable to serialize",
    "nested unreadable": "dict is not JSON: rows.1.cell: tests.programs.hostile.Unreadable: Unable to serialize",
    "nan": "dict is not JSON: rows.1: NaN and infinity are not JSON",
    "infinity": "float is not JSON: (root): NaN and infinity are not JSON",
    "bytes": "dict is not JSON: raw: bytes: invalid utf-8",
    "generator": "generator is not JSON; return a list",
    "deep": "nested deeper than 200 levels",
    "surrogate": "dict is not JSON: text: str: UnicodeEncodeError",
    "keys": "two of its keys are the same text in JSON",
    "huge": "number out of range",
}


@pytest.mark.parametrize("kind", UNSTORABLE)
def test_an_output_that_cannot_be_stored_fails_its_node_once(hostile, ledger, kind):
    run = hostile.orchestrator.start("gives", kind)
    assert run.wait(timeout=30) == "failed"
    error = run.error
    assert error.type == "orchestrator.errors.InvalidOutput"
    assert UNSTORABLE[kind] in error.message
    assert error.message.endswith(f"[flow gives, run {run.id}, node give, attempt 1]")
    assert ledger.names("start") == ["give"], "another attempt cannot help, and none was made"
    assert list(run.state().keys()) == []


def test_an_output_that_is_not_what_was_promised_fails_its_node_once(hostile, ledger):
    run = hostile.orchestrator.start("breaks-its-word")
    assert run.wait(timeout=30) == "failed"
    assert run.error.type == "orchestrator.errors.InvalidOutput"
    assert "does not fit tests.programs.hostile.Order: id: Input should be a valid integer" in run.error.message
    assert "lines.0.count: Field required [flow breaks-its-word, run " in run.error.message
    assert ledger.names("start") == ["promise"]


def test_a_large_output_fails_its_node_once_and_is_not_stored(hostile, client, ledger):
    run = hostile.orchestrator.start("gives", "large")
    assert run.wait(timeout=30) == "failed"
    assert run.error.type == "orchestrator.errors.PayloadTooLarge"
    assert run.error.node_name == "give"
    assert run.error.message == (
        "output of node give is 2000002 bytes of JSON, over the limit of 1048576; store it elsewhere and pass a "
        "reference, or raise Settings.max_payload_bytes"
    )
    assert ledger.names("start") == ["give"]
    keys = client.scan_iter(f"orchestrator:run:{run.id}*")
    assert sum(client.memory_usage(key) for key in keys) < 100_000


@pytest.mark.parametrize("kind", ["none", "text"])
def test_odd_outputs_that_are_json_go_on_as_they_are(hostile, kind):
    run = hostile.orchestrator.start("gives", kind)
    assert run.result(timeout=30) == hostile.OUTPUTS[kind]()
    assert run.output("given") == hostile.OUTPUTS[kind]()


# --- texts -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", [TEXT, "", "\ud800", "x" * 10_000, "*", "orchestrator:live"], ids=range(6))
def test_no_idempotency_key_or_tag_reaches_another_key(hostile, client, text):
    neighbour = hostile.orchestrator.start("untyped", "neighbour", idempotency_key="neighbour")
    assert neighbour.wait(timeout=30) == "succeeded"
    wait_until(lambda: not client.exists(QUEUE) and not client.hlen("unacked"), "the worker is quiet")
    before = snapshot(client)

    given = {"asked": str(time.time())}
    run = hostile.orchestrator.start("untyped", given, idempotency_key=text + given["asked"], tags={text: text})
    assert run.result(timeout=30) == given
    assert run.tags == {text: text}
    assert hostile.orchestrator.start("untyped", given, idempotency_key=text + given["asked"]).id == run.id
    with pytest.raises(
        IdempotencyConflict, match=f"belongs to run {run.id}, which was started with another input; use another key"
    ):
        hostile.orchestrator.start("untyped", "other", idempotency_key=text + given["asked"])

    wait_until(lambda: not client.exists(QUEUE) and not client.hlen("unacked"), "the worker is quiet")
    after = snapshot(client)
    made = {key.decode() for key in set(after) - set(before)}
    own = rf"orchestrator:(run:{run.id}(:nodes|:outputs|:told)?|idem:untyped:[0-9a-f]{{64}})"
    assert made == {key for key in made if re.fullmatch(own, key)}
    assert len(made) == 5
    shared = r"orchestrator:(events|events:\d+|index:(expiring|(flow:untyped|status):succeeded)|plan:[0-9a-f]{32})"
    touched = {key.decode() for key in before if after.get(key) != before[key]}
    assert touched == {key for key in touched if re.fullmatch(shared, key)}


@pytest.mark.parametrize(
    "text",
    [f"%s %(x)s {{}}\n{FORGED}", f"\r\n{FORGED}\r", f"\u2028{FORGED}\x0b{FORGED}\x85{FORGED}", TEXT],
    ids=["newline", "return", "separators", "hostile"],
)
def test_the_text_of_an_error_is_kept_and_forges_no_line_of_the_log(hostile, worker, text):
    size = len(worker.log.read_bytes())
    run = hostile.orchestrator.start("says", text)
    assert run.wait(timeout=30) == "failed"
    assert (run.error.type, run.error.message) == ("builtins.ValueError", text)

    def logged():
        return worker.log.read_bytes()[size:].decode()

    wait_until(lambda: "Task says.say[" in logged() and "raised unexpected" in logged(), "the error is logged")
    wait_until(lambda: "raise ValueError(text)" in logged(), "its traceback is logged")
    log = logged()
    assert [line for line in log.splitlines() if line.startswith(FORGED)] == []
    assert "Logging error" not in log
    record = re.compile(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}: [A-Z]+/[\w-]+\] ")
    strangers = [line for line in log.splitlines() if not record.match(line) and not line.startswith(("    ", "\t"))]
    assert strangers == [], "every line is a record or indented"


def test_a_traceback_in_the_log_and_in_the_state_begins_at_the_users_own_frame(hostile, worker):
    size = len(worker.log.read_bytes())
    run = hostile.orchestrator.start("says", "short")
    assert run.wait(timeout=30) == "failed"
    wait_until(lambda: b"raise ValueError(text)" in worker.log.read_bytes()[size:], "its traceback is logged")
    for text in (run.error.traceback, worker.log.read_bytes()[size:].decode()):
        lines = text.partition("Traceback (most recent call last):\n")[2].splitlines()
        assert re.match(r'\s+File ".*/tests/programs/hostile\.py", line \d+, in say', lines[0])
        assert "/orchestrator/" not in text
        assert "/celery/" not in text


def test_a_verdict_of_a_node_is_logged_as_expected(hostile, worker):
    size = len(worker.log.read_bytes())
    run = hostile.orchestrator.start("says", "terminal: no")
    assert run.wait(timeout=30) == "failed"
    assert run.error.message == "terminal: no"
    wait_until(lambda: b"raised expected" in worker.log.read_bytes()[size:], "the verdict is logged")
    log = worker.log.read_bytes()[size:].decode()
    (line,) = (line for line in log.splitlines() if "raised " in line)
    assert ": INFO/" in line
    assert line.endswith("raised expected: Terminal('terminal: no')")
    assert "Traceback" not in log


def test_a_very_long_error_does_not_fill_log_or_state(hostile, client, worker):
    size = len(worker.log.read_bytes())
    run = hostile.orchestrator.start("says", "x" * 1_000_000)
    assert run.wait(timeout=30) == "failed"
    assert "characters left out" in run.error.message
    assert len(run.error.message) < 3_000
    wait_until(lambda: b"raise ValueError(text)" in worker.log.read_bytes()[size:], "its traceback is logged")
    assert len(worker.log.read_bytes()) - size < 100_000
    assert client.memory_usage(f"orchestrator:run:{run.id}:failures") < 100_000
