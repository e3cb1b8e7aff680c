"""Refusals of Redis are weather: no worker ends, no attempt is spent, a commit waits, clients are told what to do."""

from __future__ import annotations

import time

import pytest
from celery import Celery

from orchestrator import Orchestrator
from tests.harness import Ledger, WorkerProcess, environment_for, wait_until
from tests.refusals import REFUSALS, RefusingServer

LEASE_S = 2.0
ALIKE = {"NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN"}
"""Refusals that differ from others in their first word alone: the table of refusals is what tells them."""
POOLS = {
    "prefork": (["-c", "2"], {}),
    "threads": (["-P", "threads", "-c", "4"], {}),
    "gevent": (["-P", "gevent", "-c", "8"], {}),
    "solo": (["-P", "solo"], {}),
    "spawn": (["-c", "2"], {"TEST_START_METHOD": "spawn"}),
    "forkserver": (["-c", "2"], {"TEST_START_METHOD": "forkserver"}),
    "recycled": (["-c", "2", "--max-tasks-per-child", "1", "--autoscale", "3,1"], {}),
}
BOTH_IN_ONE = {"threads", "gevent"}
"""Pools of which one worker is busy and still asks for messages, as an idle one does."""
USUAL = ["prefork", "gevent"]
OTHERS = [pool for pool in POOLS if pool not in USUAL]


class Fleet:
    """Busy and idle workers of some pools, and a client, behind one server that can be made to refuse."""

    def __init__(self, place, server, folder, pools):
        self.place, self.ledger, self.gates, self.pools = place, Ledger(server.url), folder, pools
        self.busy, self.idle = {}, {}
        for pool in pools:
            self.busy[pool] = self._worker(
                pool, f"busy-{pool}", server.url, more=f",idle-{pool}" if pool in BOTH_IN_ONE else ""
            )
            if pool not in BOTH_IN_ONE:
                self.idle[pool] = self._worker(pool, f"idle-{pool}", server.url)
        self.orchestrator = Orchestrator(Celery("client", broker=place.url, backend=place.url, set_as_current=False))

    def _worker(self, pool, queue, ledger, more=""):
        options, variables = POOLS[pool]
        environment = environment_for(self.place.url, lease=str(LEASE_S), reconcile_every="0.5", claim_patience="1")
        environment |= {"TEST_LEDGER_URL": ledger, "TEST_GATES": str(self.gates)} | variables
        options = [*options, "-Q", queue + more, "--without-gossip"]
        log = self.gates / f"{queue}.log"
        return WorkerProcess("tests.programs.refused", queue, log, environment=environment, options=options)

    @property
    def workers(self):
        return [*self.busy.values(), *self.idle.values()]

    def start_held(self):
        """A run for each busy worker, whose first node goes on until its gate is open."""
        runs = {pool: self.orchestrator.start(f"held-{pool}") for pool in self.pools}
        for run in runs.values():
            self.ledger.wait_for("start", run.id)
        return runs

    def open_gate(self, run):
        (self.gates / run.id).touch()


def opened(pools, server, folder):
    with RefusingServer(folder / "server") as place:
        made = Fleet(place, server, folder, pools)
        try:
            wait_until(lambda: all(worker.is_up() for worker in made.workers), "workers ready", timeout=60)
            yield made
        finally:
            for worker in made.workers:
                worker.kill()


@pytest.fixture(scope="module")
def fleet(server, tmp_path_factory):
    yield from opened(USUAL, server, tmp_path_factory.mktemp("usual"))


@pytest.fixture(scope="module")
def other_fleet(server, tmp_path_factory):
    yield from opened(OTHERS, server, tmp_path_factory.mktemp("others"))


def check_client(fleet, run, refusal):
    """A client is told what to do."""
    calls = [lambda: fleet.orchestrator.start("quick-prefork")]
    if not refusal.cancels:
        calls.append(run.cancel)
    if not refusal.reads:
        calls.append(lambda: run.wait(timeout=1))
    for call in calls:
        with pytest.raises(refusal.kind, match=refusal.says):
            call()
    if refusal.reads:
        with pytest.raises(TimeoutError):
            run.wait(timeout=0.1)


def check_weather(fleet, refusal):
    """Refuse while nodes are at work, for longer than a lease; then all goes on as if nothing had been."""
    runs = fleet.start_held()
    lengths = {worker: worker.log.stat().st_size for worker in fleet.workers}

    def told(worker):
        return worker.log.read_bytes()[lengths[worker] :].decode()

    with refusal.provoked(fleet.place):
        began = time.monotonic()
        check_client(fleet, next(iter(runs.values())), refusal)
        for run in runs.values():
            fleet.open_gate(run)
        wait_until(
            lambda: all("waits until Redis is back" in told(worker) for worker in fleet.busy.values()),
            "the commits wait",
        )
        wait_until(lambda: all(map(told, fleet.workers)), "all have noticed")
        wait_until(lambda: time.monotonic() > began + 2 * LEASE_S, "no lease is left")
    for pool, run in runs.items():
        assert run.wait(timeout=60) == "succeeded", (pool, run.error, run.history(), told(fleet.busy[pool])[-4000:])
        assert [event.attempt for event in run.history() if event.event == "started"] == [1, 1, 1, 1], run.history()
        assert fleet.ledger.names("start").count(run.id) == 1
    for pool in fleet.pools:
        assert fleet.orchestrator.start(f"quick-{pool}").result(int, timeout=60) == 1
    for worker in fleet.workers:
        assert worker.process.poll() is None, worker.log.read_text()[-4000:]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.chaos_long) if name in ALIKE else name for name in REFUSALS]
)
def test_a_refusal_is_weather(fleet, name):
    check_weather(fleet, REFUSALS[name])


@pytest.mark.chaos_long
@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_is_weather_in_the_other_pools(other_fleet, name):
    check_weather(other_fleet, REFUSALS[name])
