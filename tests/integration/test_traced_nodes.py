"""One tree of spans for each run, whatever its mode: caller, run, step, attempt, and what the functions open."""

from __future__ import annotations

import json

import pytest

from orchestrator.server import EmbeddedServer
from tests.harness import environment_for
from tests.warm import run_python

ATTEMPTS = {
    "single": ["a", "flaky", "flaky", "async"],
    "fused": ["a", "flaky", "flaky", "async"],
    "fan": ["a", "b"],
    "local": ["a", "b", "async"],
    "map": ["a", "all.over", "item[0]", "item[1]", "item[2]"],
    "undone": ["a", "broken", "undo"],
    "paged": ["pages"],
    "two-fused": ["a", "b"],
    "parent": ["begins", "a", "b"],
}


@pytest.fixture(scope="module")
def spans(tmp_path_factory):
    """Every span of a run of each flow, by the flow."""
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as server:
        ran = run_python(["-m", "tests.programs.traced"], environment_for(server.url), timeout=100)
    assert ran.returncode == 0, ran.stderr[-4000:]
    return json.loads(ran.stdout)


EACH = pytest.mark.parametrize("name", ATTEMPTS)


def kinds(spans, kind):
    return [span for span in spans if span["name"].startswith(kind)]


def above(spans, span):
    """Names of the spans above one, from the nearest on."""
    by_id = {each["id"]: each for each in spans}
    found = []
    while (span := by_id.get(span["parent"])) is not None:
        found.append(span["name"])
    return found


@EACH
def test_the_trace_of_the_caller_goes_on_in_the_run(spans, name):
    assert len({span["trace"] for span in spans[name]}) == 1
    assert len({span["id"] for span in spans[name]}) == len(spans[name])
    assert [span["name"] for span in spans[name] if span["parent"] is None] == ["caller"]
    attempts = kinds(spans[name], "attempt ")
    assert sorted(span["node"] for span in attempts) == sorted(ATTEMPTS[name])


@EACH
def test_what_a_function_opens_is_below_its_attempt_and_that_below_step_and_run(spans, name):
    own = kinds(spans[name], "own ")
    assert own
    for span in own:
        attempt, step, flow, *rest = above(spans[name], span)
        node = span["name"].removeprefix("own ")
        assert attempt == f"attempt {node}"
        assert step.startswith("step ")
        assert flow.startswith("flow ")
        assert rest[-1] == "caller"


@EACH
def test_a_span_is_within_the_one_above_it(spans, name):
    by_id = {each["id"]: each for each in spans[name]}
    clocks = 2_000_000  # a process's clock beside Redis's, which is in whole ms
    for span in spans[name]:
        over = by_id.get(span["parent"])
        if over is not None and over["name"] != "caller":
            assert over["start"] - clocks <= span["start"]
            assert span["end"] <= over["end"] + clocks or over["node"] == "begins"


def test_failed_attempts_are_errors_and_waits_are_spans(spans):
    for name in ("single", "fused"):
        flaky = sorted(kinds(spans[name], "attempt flaky"), key=lambda span: span["start"])
        (wait,) = kinds(spans[name], "wait flaky")
        assert [span["failed"] for span in flaky] == [True, False]
        assert flaky[0]["end"] <= wait["start"] <= wait["end"] <= flaky[1]["start"]
    (run,) = kinds(spans["undone"], "flow ")
    assert run["failed"]
    assert above(spans["undone"], kinds(spans["undone"], "own undo")[0])[1] == "step compensation"


def test_a_run_that_a_node_starts_is_below_its_attempt(spans):
    (child,) = kinds(spans["parent"], "flow two-fused")
    assert above(spans["parent"], child) == ["attempt begins", "step begins", "flow parent", "caller"]
