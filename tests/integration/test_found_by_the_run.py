"""The faults that no reading of the code can find: the run does, at the first attempt, with the error that says it."""

from __future__ import annotations

from orchestrator.errors import type_name
from tests.faulty_flows import AT_RUN_TIME
from tests.harness import load_program, workers


def test_every_fault_of_the_table_is_found_at_the_first_attempt(server, tmp_path):
    program = load_program("faulty", server.url)
    with workers("tests.programs.faulty", server.url, tmp_path, count=1):
        runs = {row: program.orchestrator.start(row.name) for row in AT_RUN_TIME}
        for row, run in runs.items():
            assert run.wait(timeout=60) == "failed", row.name
            assert row.raises is not None
            expected = (
                type_name(row.raises) if row.raises.__module__ != "builtins" else f"builtins.{row.raises.__name__}"
            )
            assert (run.error.type, run.error.attempt) == (expected, 1), row.name
