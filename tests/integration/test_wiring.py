"""Inputs wired by name on real workers: every mode of running a node reads the same values."""

from __future__ import annotations

import pytest

from tests.harness import load_program, workers

ORDER = {"item": "cup", "parcels": [{"weight": 2, "labelText": "A"}, {"weight": 5, "labelText": "B"}]}


@pytest.fixture(scope="module")
def wired(server, tmp_path_factory):
    program = load_program("wired", server.url)
    folder = tmp_path_factory.mktemp("wired")
    with workers("tests.programs.wired", server.url, folder, options=["-c", "4", "-Q", "wired"]):
        yield program


@pytest.mark.parametrize("mode", ["tasks", "in-one-task", "locally"])
def test_nodes_take_outputs_the_runs_input_constants_and_defaults(wired, mode):
    run = wired.orchestrator.start(mode, ORDER)
    assert run.result(str, timeout=30) == "ship: 3 4 cup B road 100 -1 | 307"


@pytest.mark.parametrize("name", ["mapping", "batched"])
def test_items_take_parts_of_the_item_and_what_every_node_can_read(wired, name):
    run = wired.orchestrator.start(name, ORDER)
    assert run.result(list[str], timeout=30) == ["p0/2/0", "p1/2/0", "p2/2/0"]


def test_an_item_of_one_parameter_is_taken_whole(wired):
    assert wired.orchestrator.start("whole", [1, 2]).result(list[int], timeout=30) == [11, 12]


def test_compensations_are_wired_as_nodes_are(wired, ledger):
    run = wired.orchestrator.start("undoing", ORDER)
    assert run.wait(timeout=30) == "failed"
    assert ledger.names("undone") == ["t p"]


def test_the_compensation_of_an_item_is_wired_too(wired, ledger):
    run = wired.orchestrator.start("unmapping", ORDER | {"item": "fiver"})
    assert run.wait(timeout=30) == "failed"
    assert run.error.message == "no four"
    assert set(ledger.names("undone")) == {"fiver p"}


def test_pages_are_fetched_with_what_is_wired(wired):
    run = wired.orchestrator.start("paged", ORDER)
    assert run.result(list[str], timeout=30) == ["cup0", "cup0", "cup1", "cup1", "cup2", "cup2"]


def test_a_part_that_is_needed_and_not_there_ends_the_node_at_once(wired):
    run = wired.orchestrator.start("untyped", {"m": 1})
    assert run.wait(timeout=30) == "failed"
    assert (run.error.type, run.error.attempt) == ("orchestrator.errors.InvalidInput", 1)
    assert run.error.message.startswith("n: there is no n of the run's input [")
