"""Kill RabbitMQ under running flows and start it anew: no run is lost, and none is counted twice."""

from __future__ import annotations

import threading

import pytest

from tests.harness import Ledger, wait_until, workers
from tests.integration.test_connections import PROGRAM, connected
from tests.rabbit import Rabbit

pytestmark = [pytest.mark.rabbitmq, pytest.mark.chaos_long]


@pytest.mark.parametrize("kind", ["classic", "quorum"])
@pytest.mark.timeout(400)
def test_a_broker_that_is_killed_twice_loses_no_run_and_counts_none_twice(server, tmp_path, kind):
    count = 100
    ledger = Ledger(server.url)
    ledger.clear()
    with Rabbit(tmp_path / "rabbit") as rabbit:
        celery = {"broker_url": rabbit.url, "result_backend": server.url, "task_default_queue": kind}
        celery |= {"task_default_queue_type": kind}
        with (
            connected(server, celery, prefix=f"restart-{kind}") as program,
            workers(PROGRAM, server.url, tmp_path, count=2, options=["-c", "4"], lease="4") as running,
        ):
            runs = [program.orchestrator.start("connected-work") for _ in range(count // 2)]
            wait_until(lambda: ledger.client.hlen("work") > count // 2, "the runs are at work")
            rabbit.kill()
            runs += start_meanwhile(program, rabbit, count // 2)
            rabbit.restart()
            assert [run.result(int, timeout=180) for run in runs] == [4] * count
            for run in runs:
                done = [event.node for event in run.history() if event.event == "succeeded"]
                assert sorted(done) == sorted(set(done)), "each node is stored once"
            assert all(worker.process.poll() is None for worker in running)
    assert sum(map(int, ledger.client.hgetall("work").values())) == 4 * count, "and done once"


def start_meanwhile(program, rabbit, count):
    """Start runs while the broker is away and coming back: they are stored, whatever becomes of their messages."""
    back = threading.Thread(target=rabbit.start)
    runs = [program.orchestrator.start("connected-work") for _ in range(2)]
    back.start()
    runs += [program.orchestrator.start("connected-work") for _ in range(count - 2)]
    back.join()
    return runs
