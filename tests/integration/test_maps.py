"""then_map on real workers: one call for each item, recorded, retried, limited and undone item by item."""

from __future__ import annotations

from collections import Counter

import pytest

from orchestrator import MissingOutputError
from orchestrator.fault_points import hits_file
from tests.harness import lasting_keys, load_program, wait_until, workers


@pytest.fixture(scope="module")
def orders(tmp_path_factory):
    """The file of orders to fail that the worker reads."""
    return tmp_path_factory.mktemp("orders") / "faults"


@pytest.fixture(scope="module")
def mapped(server, orders, tmp_path_factory):
    program = load_program("mapped", server.url)
    folder = tmp_path_factory.mktemp("mapped")
    options = ["-c", "4", "-Q", "mapped"]
    with workers("tests.programs.mapped", server.url, folder, options=options, faults=str(orders)):
        yield program


def start(mapped, flow, count=10):
    return mapped.orchestrator.start(flow, count)


@pytest.mark.parametrize("flow", ["sums", "batched", "many"])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 300])
def test_every_item_is_called_and_the_outputs_are_in_order(mapped, flow, count):
    run = start(mapped, flow, count)
    assert run.result(int, timeout=60) == sum(2 * number for number in range(count))
    assert run.output("double", list[int]) == [2 * number for number in range(count)]
    assert run.state().get(mapped.doubles) == [2 * number for number in range(count)]
    assert lasting_keys(mapped.LEDGER.client, f"*{run.id}*") == {}


def test_each_item_starts_once(mapped, ledger):
    run = start(mapped, "counted", 50)
    assert run.result(list[int], timeout=30) == [2 * number for number in range(50)]
    assert Counter(ledger.names("start")) == Counter(f"{run.id}/{number}" for number in range(50))


def test_a_failed_item_is_tried_again_alone(mapped, ledger):
    run = start(mapped, "flaky", 30)
    assert run.result(list[int], timeout=30) == list(range(30))
    starts = Counter(ledger.names("start"))
    assert {number: starts[f"{run.id}/{number}"] for number in range(30)} == {
        n: 2 if n % 3 == 0 else 1 for n in range(30)
    }


def test_a_failed_item_leaves_none_and_its_failure_by_index(mapped):
    run = start(mapped, "continues", 6)
    indexes, outputs = run.result(list, timeout=30)
    assert (indexes, outputs) == ([1, 3, 5], [0, None, 2, None, 4, None])
    assert run.state().failures("even")[3].message == "3 is odd"
    assert run.failures()["even[3]"].node_name == "even[3]"


def test_too_few_successes_fail_the_run_at_the_join(mapped):
    assert start(mapped, "requires", 8).result(int, timeout=30) == 12
    run = start(mapped, "requires", 7 - 1)
    assert run.wait(timeout=30) == "failed"
    assert run.error.message == "step all: 3 of 6 nodes succeeded, 4 are required"
    empty = start(mapped, "requires", 0)
    assert empty.wait(timeout=30) == "failed"
    assert empty.error.message == "step all: 0 of 0 nodes succeeded, 4 are required"


def test_a_failed_item_fails_the_run_and_resume_repeats_only_what_is_missing(mapped, ledger):
    run = start(mapped, "resumes", 8)
    assert run.wait(timeout=30) == "failed"
    assert run.error.node_name == "maybe[3]"
    with pytest.raises(MissingOutputError):
        run.output("maybe")
    before = Counter(ledger.names("start"))
    done = {number for number in range(8) if before[f"{run.id}/{number}"] and number != 3}
    ledger.client.set("open", 1)
    run.resume()
    assert run.result(list[int], timeout=30) == list(range(8))
    after = Counter(ledger.names("start"))
    assert {number for number in range(8) if after[f"{run.id}/{number}"] > before[f"{run.id}/{number}"]} == (
        set(range(8)) - done
    )


def test_no_more_than_max_concurrency_are_at_work(mapped, ledger):
    run = start(mapped, "narrow", 12)
    assert run.wait(timeout=30) == "succeeded"
    at_work = most = 0
    for kind, _, _, _ in sorted(ledger.lines(), key=lambda line: line[2]):
        at_work += 1 if kind == "start" else -1
        most = max(most, at_work)
    assert most == 2


def test_every_item_that_succeeded_is_undone_last_first(mapped, ledger):
    check_undone(mapped, ledger, 30)


def test_a_process_killed_between_portions_of_a_rollback_leaves_it_whole(mapped, ledger, orders):
    orders.write_text("between_portions:kill9")
    check_undone(mapped, ledger, 250)
    assert hits_file(orders).stat().st_size > 1, "another process went on"
    orders.unlink()


def check_undone(mapped, ledger, count):
    run = start(mapped, "undone", count)
    assert run.wait(timeout=90) == "failed"
    assert Counter(ledger.names("undo")) == Counter(f"undo-made[{number}]={2 * number}" for number in range(count))
    ended = {
        name: record["seq"] for name, record in run._engine.store.nodes(run.id).items() if name.startswith("made[")
    }
    undone = [name.split("=")[0].removeprefix("undo-") for name in ledger.names("undo")]
    assert undone == sorted(undone, key=lambda name: -ended[name])


def test_a_crash_in_a_batch_repeats_only_the_item_that_was_running(mapped, ledger):
    run = start(mapped, "dies", 20)
    assert run.result(list[int], timeout=60) == list(range(20))
    starts = Counter(ledger.names("start"))
    assert {number: starts[f"{run.id}/{number}"] for number in range(20)} == {n: 2 if n == 5 else 1 for n in range(20)}


def test_a_limit_holds_for_each_item(mapped, ledger):
    run = start(mapped, "limited", 25)
    assert run.wait(timeout=60) == "succeeded"
    at = sorted(ledger.times("start", run.id))
    assert len(at) == 25
    assert at[-1] - at[0] > 24 / 20 * 0.9


@pytest.mark.parametrize(
    ("flow", "kind", "words"),
    [
        ("not-a-list", "InvalidOutput", "over of all returned int; return a list"),
        ("bad-items", "InvalidInput", "item 1: "),
    ],
)
def test_what_cannot_be_mapped_fails_the_run_with_a_reason(mapped, flow, kind, words):
    run = start(mapped, flow)
    assert run.wait(timeout=30) == "failed"
    assert run.error.type == f"orchestrator.errors.{kind}"
    assert words in run.error.message
    assert run.error.node_name == "all.over"


@pytest.mark.parametrize(
    ("kind", "result"),
    [("range", [0, 2, 4]), ("generator", [0, 2, 4]), ("set", [14]), ("tuple", [2, 4]), ("keys", [2]), ("values", [4])],
)
def test_any_series_of_items_can_be_mapped(mapped, kind, result):
    assert start(mapped, "series", kind).result(list[int], timeout=30) == result


@pytest.mark.parametrize("kind", ["text", "bytes", "mapping", "none"])
def test_what_is_no_series_of_items_fails_the_run(mapped, kind):
    run = start(mapped, "series", kind)
    assert run.wait(timeout=30) == "failed"
    assert f"over of all returned {type(mapped.SERIES[kind]()).__name__}; return a list" in run.error.message


def test_an_endless_series_fails_the_run(mapped):
    run = start(mapped, "series", "endless")
    assert run.wait(timeout=30) == "failed"
    assert "over of all returned too many items; at most 100000 can be" in run.error.message


def test_a_map_over_a_map_and_a_map_on_a_branch(mapped):
    assert start(mapped, "twice", 5).result(list[int], timeout=30) == [
        0, 4, 8, 12, 16,
    ]  # fmt: skip
    assert start(mapped, "chosen", 3).result(list[int], timeout=30) == [0, 2, 4]
    assert start(mapped, "chosen", 2).result(list[int], timeout=30) == []


def test_a_map_is_cancelled_in_the_middle(mapped, ledger):
    run = start(mapped, "limited", 500)
    wait_until(lambda: len(ledger.times("start", run.id)) > 5, "it is at work")
    run.cancel()
    assert run.wait(timeout=30) == "cancelled"
    other = start(mapped, "limited", 3)
    assert other.wait(timeout=30) == "succeeded"
