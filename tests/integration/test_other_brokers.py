"""Run flows over brokers that are neither Redis nor RabbitMQ, with results elsewhere and the runs in Redis."""

from __future__ import annotations

import pytest

from orchestrator import ConfigurationError
from tests.harness import Ledger, workers
from tests.integration.test_connections import ENDS, PROGRAM, connected


@pytest.mark.chaos_long
def test_every_kind_of_step_works_over_files(server, tmp_path):
    ledger = Ledger(server.url)
    ledger.clear()
    ledger.note("seen", "")
    for name in ("queues", "control", "results"):
        (tmp_path / name).mkdir()
    queues = {"data_folder_in": f"{tmp_path}/queues", "data_folder_out": f"{tmp_path}/queues"}
    celery = {
        "broker_url": "filesystem://",
        "broker_transport_options": {**queues, "control_folder": f"{tmp_path}/control"},
        "result_backend": f"file://{tmp_path}/results",
    }
    variables = {"store_url": server.url, "prefix": "files", "hold_s": "1"}
    with (
        connected(server, celery, **variables) as program,
        workers(PROGRAM, server.url, tmp_path, count=1, options=["-c", "2"], lease="4"),
    ):
        runs = {name: program.orchestrator.start(name) for name in ENDS}
        assert {name: run.wait(timeout=60) for name, run in runs.items()} == ENDS
        assert program.orchestrator.start("connected-stay").result(int, timeout=30) == 1
        assert program.own.delay(1).get(timeout=30) == 2


@pytest.mark.parametrize("broker", ["amqp://127.0.0.1:1//", "filesystem://", "memory://"])
def test_without_a_redis_there_is_no_place_for_runs(server, broker):
    said = "has no Redis as result_backend or broker_url, and runs live in Redis; pass Orchestrator"
    with (
        pytest.raises(ConfigurationError, match=said),
        connected(server, {"broker_url": broker, "result_backend": "rpc://"}),
    ):
        pass
