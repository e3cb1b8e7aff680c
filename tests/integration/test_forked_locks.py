"""A pool process that is forked while a thread of the engine writes to the log can write to it, too."""

from __future__ import annotations

from tests.harness import child_pids, load_program, wait_until, workers

RUNS = 6


def test_a_process_that_is_forked_while_the_log_is_written_logs(server, tmp_path, ledger):
    program = load_program("slow_log", server.url)
    options = ["-c", "2", "-Q", "slow-log"]
    soon = {"lease": "3", "reconcile_every": "0.5"}
    with workers("tests.programs.slow_log", server.url, tmp_path, options=options, count=1, **soon) as (worker,):
        first = program.orchestrator.start("dies-once")
        written = wait_until(lambda: ledger.names("written"), "the death of the first process is in the log")
        wait_until(lambda: written[0] not in map(str, child_pids(worker.pid)), "the second is gone")
        wait_until(lambda: len(child_pids(worker.pid)) == 2, "both were replaced")
        runs = [program.orchestrator.start("logs") for _ in range(RUNS)]
        assert [run.wait(timeout=20) for run in (first, *runs)] == ["succeeded"] * (RUNS + 1)
