"""with_repeat on real workers: iteration after iteration, each stored, retried, limited and gone on from by itself."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from itertools import pairwise

import pytest

from tests.harness import lasting_keys, load_program, wait_until, workers


@pytest.fixture(scope="module")
def repeating(server, tmp_path_factory):
    program = load_program("repeating", server.url)
    folder = tmp_path_factory.mktemp("repeating")
    with workers("tests.programs.repeating", server.url, folder, options=["-c", "4", "-Q", "repeating"]):
        yield program


def start(repeating, flow, *given):
    return repeating.orchestrator.start(flow, *given)


def counted(ledger, run):
    """Input of an iteration to how often it was made."""
    return dict(Counter(int(name.split("/")[1]) for name in ledger.names("count") if name.startswith(run.id)))


def once(last):
    return dict.fromkeys(range(last), 1)


@pytest.mark.parametrize("flow", ["plain", "fused"])
def test_an_output_is_the_next_input_and_the_last_one_the_nodes_output(repeating, ledger, flow):
    run = start(repeating, flow)
    assert run.result(int, timeout=30) == 50
    assert counted(ledger, run) == once(5)
    assert [event.detail for event in run.history() if event.event == "iteration"] == ["0", "1", "2", "3", "4"]
    assert lasting_keys(repeating.LEDGER.client, f"*{run.id}*") == {}


def test_more_iterations_than_one_message_makes(repeating, ledger):
    run = start(repeating, "long")
    assert run.result(int, timeout=60) == 120
    assert counted(ledger, run) == once(120)


def test_a_model_goes_round_and_nothing_runs_between_two_iterations(repeating, ledger):
    run = start(repeating, "polls")
    assert run.result(repeating.Poll, timeout=30) == repeating.Poll(job="7", seen=3, done=True)
    at = sorted(at for kind, name, at, _ in ledger.lines() if kind == "count" and name.startswith(run.id))
    assert len(at) == 3
    assert min(later - earlier for earlier, later in pairwise(at)) >= 0.2


def test_an_async_function_repeats_too(repeating):
    assert start(repeating, "later").result(int, timeout=30) == 5


def test_a_function_is_told_its_iteration_and_has_a_key_for_each(repeating):
    assert start(repeating, "told").result(list[object], timeout=30) == [2, 1, "/told/0/2"]


def test_an_output_of_several_fields_is_the_next_arguments(repeating):
    assert start(repeating, "sums").result(dict[str, int], timeout=30) == {"a": 7, "b": 2}


def test_a_crash_repeats_only_the_iteration_that_was_being_made(repeating, ledger):
    run = start(repeating, "dies")
    assert run.result(int, timeout=60) == 5
    assert counted(ledger, run) == {0: 1, 1: 1, 2: 1, 3: 2, 4: 1}
    assert [event.node for event in run.history() if event.event == "lost"] == ["count"]


def test_each_iteration_has_all_its_attempts(repeating, ledger):
    run = start(repeating, "flakes")
    assert run.result(int, timeout=60) == 3
    assert counted(ledger, run) == dict.fromkeys(range(3), 3)


def test_an_attempt_past_its_timeout_repeats_its_iteration(repeating, ledger):
    run = start(repeating, "hangs")
    assert run.result(int, timeout=60) == 3
    assert counted(ledger, run) == {0: 1, 1: 2, 2: 1}


def test_a_limit_holds_for_each_iteration(repeating, ledger):
    run = start(repeating, "limited")
    assert run.wait(timeout=60) == "succeeded"
    at = sorted(at for kind, name, at, _ in ledger.lines() if kind == "count" and name.startswith(run.id))
    assert len(at) == 25
    assert at[-1] - at[0] > 24 / 20 * 0.9


def test_resume_goes_on_at_the_iteration_that_was_missing(repeating, ledger):
    run = start(repeating, "refuses")
    assert run.wait(timeout=30) == "failed"
    assert (run.error.node_name, run.error.message) == ("count", "closed")
    ledger.client.set("open", 1)
    run.resume()
    assert run.result(int, timeout=30) == 5
    assert counted(ledger, run) == {0: 1, 1: 1, 2: 2, 3: 1, 4: 1}


def test_more_iterations_than_allowed_end_the_node(repeating, ledger):
    run = start(repeating, "many")
    assert run.wait(timeout=30) == "failed"
    assert run.error.type == "orchestrator.errors.RepetitionError"
    assert "max_iterations=4" in run.error.message
    assert counted(ledger, run) == once(4)


def test_what_until_raises_ends_the_node(repeating):
    run = start(repeating, "unsure")
    assert run.wait(timeout=30) == "failed"
    assert (run.error.type, run.error.message, run.error.attempt) == ("builtins.ValueError", "cannot tell", 1)


@pytest.mark.parametrize(
    ("what", "kind", "words"),
    [
        ("large", "PayloadTooLarge", "iteration 0 of node wrong is 2000002"),
        ("not-json", "InvalidOutput", "NaN"),
        ("object", "InvalidInput", "string"),
    ],
)
def test_an_output_that_cannot_go_on_ends_the_node(repeating, what, kind, words):
    run = start(repeating, "wrongs", what)
    assert run.wait(timeout=30) == "failed"
    assert run.error.type == f"orchestrator.errors.{kind}"
    assert words in run.error.message


def test_a_run_is_cancelled_between_two_iterations_and_its_last_output_undone(repeating, ledger):
    run = start(repeating, "waits")
    wait_until(lambda: [each.state for each in run.explain()] == ["parked"], "its first iteration is stored")
    (waiting,) = run.explain()
    assert waiting.reason == "has 1 iterations; waits for its next iteration"
    assert waiting.until - run.history()[-1].at > timedelta(hours=23)
    run.cancel()
    assert run.wait(timeout=30) == "cancelled"
    assert ledger.names("undo") == [f"{run.id}=1"]


def test_in_a_parallel_step_the_join_waits_for_the_last_iteration(repeating):
    assert start(repeating, "both").result(int, timeout=60) == 10


def test_a_step_goes_on_without_the_output_of_a_member_that_failed_later(repeating):
    assert start(repeating, "best").result(list[str], timeout=30) == ["one"]


def test_the_last_output_is_undone_once(repeating, ledger):
    run = start(repeating, "undone")
    assert run.wait(timeout=30) == "failed"
    other = start(repeating, "undone-started")
    assert other.wait(timeout=30) == "failed"
    assert sorted(ledger.names("undo")) == sorted([f"{run.id}=5", f"{other.id}=2"])
    ledger.client.set("open", 1)
    other.resume()
    assert other.result(int, timeout=30) == 5
    assert counted(ledger, other) == {0: 2, 1: 2, 2: 2, 3: 1, 4: 1}
