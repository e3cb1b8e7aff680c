"""Many runs started by one call: a run or an error for each, in pipelines, and safe to repeat with keys."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from celery import Celery

from orchestrator import (
    FlowBuilder,
    FlowRun,
    IdempotencyConflict,
    InvalidInput,
    Node,
    Orchestrator,
    PayloadTooLarge,
    Settings,
    StoreUnavailable,
    UnknownFlow,
    manual,
    run_input,
)
from orchestrator.fault_points import FAULTS_VARIABLE
from orchestrator.server import EmbeddedServer
from orchestrator.store.scripts.connection import Wire
from tests.harness import environment_for
from tests.warm import run_python

CLIENT = """
import sys
from tests.integration.test_start_many import client
found = client(sys.argv[1]).start_many("many", range(1200), keys=[f"key-{number}" for number in range(1200)])
print(len({run.id for run in found}))
"""


def many() -> Any:
    return (
        FlowBuilder("many")
        .takes(int | str)
        .triggered_by(manual("test"))
        .then(Node("take", lambda given: given).with_inputs(given=run_input))
        .build()
    )


def client(url: str, **settings: Any) -> Orchestrator:
    made = Orchestrator(Celery("many", broker=url, backend=url), settings=Settings(**settings))
    made.register(many())
    return made


@pytest.fixture
def own_server(tmp_path):
    with EmbeddedServer(tmp_path / "server") as running:
        yield running


@pytest.fixture
def round_trips(monkeypatch):
    """How many starts each pipeline had."""
    sizes: list[int] = []
    ask_all = Wire.ask_all

    def counted(self: Wire, command: str, script: str, calls: Any) -> Any:
        sizes.append(len(calls))
        return ask_all(self, command, script, calls)

    monkeypatch.setattr(Wire, "ask_all", counted)
    return sizes


def ids_of(found: list[Any]) -> list[str]:
    assert {type(each) for each in found} == {FlowRun}
    return [run.id for run in found]


def test_runs_come_back_in_the_order_of_their_inputs_and_run(sample):
    found = sample.orchestrator.start_many("line", [{"value": number} for number in range(5)])
    assert [run.result(int, timeout=30) for run in found] == [30, 31, 32, 33, 34]


def test_a_pipeline_has_at_most_500_runs(own_server, round_trips):
    made = client(own_server.url)
    ids = ids_of(made.start_many("many", range(1200), tags={"tenant": "a"}))
    assert len(set(ids)) == 1200
    assert round_trips == [500, 500, 199]
    assert made.get(ids[700]).tags == {"tenant": "a"}
    assert made.get(ids[700]).status == "pending"
    assert made.totals().open == 1200


def test_a_pipeline_has_at_most_4_mib(own_server, round_trips):
    ids = ids_of(client(own_server.url).start_many("many", ["x" * 1_000_000] * 10))
    assert len(ids) == 10
    assert round_trips == [4, 4]


def test_with_keys_the_same_call_again_starts_nothing(own_server):
    made = client(own_server.url)
    keys = ["a", "b", None]
    first = ids_of(made.start_many("many", [1, 2, 3], keys))
    again = ids_of(made.start_many("many", [1, 2, 3], keys))
    assert again[:2] == first[:2]
    assert again[2] != first[2], "without a key it is another start"
    assert made.start("many", 1, idempotency_key="a").id == first[0]


def test_an_error_stands_in_the_place_of_its_input_and_the_others_start(own_server):
    made = client(own_server.url, max_payload_bytes=1000)
    held = made.start("many", 1, idempotency_key="held")
    found = made.start_many("many", [7, 1.5, "x" * 2000, 8, 9], ["a", "b", "c", "held", ""])
    assert [type(each) for each in found] == [FlowRun, InvalidInput, PayloadTooLarge, IdempotencyConflict, InvalidInput]
    assert held.id in str(found[3])


def test_what_is_wrong_with_the_call_is_raised_and_nothing_is_started(own_server):
    made = client(own_server.url)
    with pytest.raises(ValueError, match="there are 2 inputs and 1 keys"):
        made.start_many("many", [1, 2], ["a"])
    with pytest.raises(UnknownFlow):
        made.start_many("none", [1, 2])
    with pytest.raises(InvalidInput, match="tags must map str to str"):
        made.start_many("many", [1], tags={"a": 1})  # type: ignore[dict-item]
    assert made.start_many("many", []) == []
    assert made.totals().open == 0


def test_runs_that_were_sent_while_redis_was_away_are_errors_each(tmp_path):
    with EmbeddedServer(tmp_path / "server") as running:
        made = client(running.url)
        made.start("many", 1)
    found = made.start_many("many", [1, 2, 3])
    assert [type(each) for each in found] == [StoreUnavailable] * 3


def test_a_client_that_is_killed_between_two_pipelines_is_repeated_without_a_second_run(own_server, tmp_path):
    faults = tmp_path / "faults"
    faults.write_text("after_starts:kill9:1")
    command = ["-c", CLIENT, own_server.url]
    environment = environment_for(own_server.url)
    dead = run_python(command, environment | {FAULTS_VARIABLE: str(faults)})
    assert dead.returncode == -signal.SIGKILL
    assert client(own_server.url).totals().open == 501
    again = run_python(command, environment)
    assert (again.returncode, again.stdout) == (0, "1200\n")
    assert client(own_server.url).totals().open == 1200
