"""A world to break: a server, a ledger that is never broken, supervised workers, and what must hold whatever broke."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import redis
from celery import Celery

from orchestrator import Orchestrator
from orchestrator.fault_points import FAULTS_VARIABLE, hits_file
from orchestrator.server import EmbeddedServer
from tests.chaos.proxy import Proxy
from tests.harness import Ledger, WorkerProcess, await_children, child_pids, environment_for, lasting_keys, wait_until
from tests.invariants import check_run as check_run_in
from tests.invariants import look_at
from tests.servers import ServerWith

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence
    from pathlib import Path

LEASE_S = 3.0
SWEEP_S = 0.5
MODULE = "tests.programs.chaos"


class World:
    """Everything chaos tests need; ends what it started.

    Starting workers costs more than most tests, so that tests share a world: `lent` hands it to one after the other.
    """

    def __init__(
        self,
        folder: Path,
        *,
        workers: int = 2,
        concurrency: int = 2,
        program: str = MODULE,
        proxied: bool = False,
        server_options: Sequence[str] = (),
        **environment: str,
    ) -> None:
        self.folder = folder
        self.stack = ExitStack()
        self.server = self.stack.enter_context(ServerWith(folder / "server", *server_options))
        self.ledger_server = self.stack.enter_context(EmbeddedServer(folder / "ledger"))
        self.ledger = Ledger(self.ledger_server.url)
        self.proxy = self.stack.enter_context(Proxy(self.server.port))
        self.url = self.proxy.url if proxied else self.server.url
        self.program = program
        self.settings = {"lease": str(LEASE_S), "reconcile_every": str(SWEEP_S)}
        self.faults = folder / "faults"
        self.environment = {"TEST_LEDGER_URL": self.ledger_server.url, FAULTS_VARIABLE: str(self.faults)} | environment
        self.size = (workers, concurrency)
        self.workers: list[WorkerProcess] = []
        self.deaths = 0  # workers that ended although nobody killed them
        self.kills = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._logs_begin: dict[Path, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopping.set()
        with self._lock:
            for worker in self.workers:
                if worker.process.poll() is None:
                    worker.kill()
        self.stack.close()

    def start_worker(self, name: str, **environment: str) -> WorkerProcess:
        worker = WorkerProcess(
            self.program,
            name,
            self.folder / f"{name}.log",
            environment=environment_for(self.url, **self.settings) | self.environment | environment,
            options=["-c", str(self.size[1]), "--without-gossip"],
        )
        self.workers.append(worker)
        return worker

    def start_workers(self, **environment: str) -> None:
        for number in range(self.size[0]):
            self.start_worker(f"w{number}", **environment)
        wait_until(lambda: all(worker.is_up() for worker in self.workers), "workers ready", timeout=60)
        threading.Thread(target=self._supervise, daemon=True).start()

    def _supervise(self) -> None:
        """Restart what ended, as systemd or a container engine does."""
        while not self._stopping.wait(0.2):
            with self._lock:
                for index, worker in enumerate(self.workers):
                    if worker.process.poll() is not None and not self._stopping.is_set():
                        if worker.process.returncode != -signal.SIGKILL:
                            self.deaths += 1
                        self.workers.pop(index)
                        self.start_worker(worker.name)
                        break

    @contextmanager
    def lent(self, **paces: float) -> Iterator[Self]:
        """Give a world that runs to one test: whole, with nothing to do, and told nothing but these paces.

        Args:
            paces: Seconds that nodes of the program take: `work_s`, `nap_s`.
        """
        wait_until(self.is_whole, "workers ready", timeout=60)
        self._logs_begin = {log: log.stat().st_size for log in self.folder.glob("*.log")}
        self.deaths = self.kills = 0
        self.ledger.clear()
        for name, seconds in paces.items():
            self.ledger.client.set(name, seconds)
        try:
            yield self
        finally:
            self.faults.unlink(missing_ok=True)
            self._end_runs()

    def is_whole(self) -> bool:
        """Every worker takes messages."""
        with self._lock:
            return all(worker.is_ready() for worker in self.workers)

    def _end_runs(self) -> None:
        """End what a test has left, so that it does not disturb the next one."""
        orchestrator = self.orchestrator(self.server.url)
        left = [orchestrator.get(str(run_id)) for run_id in self.client.zrange("orchestrator:live", 0, -1)]
        for run in left:
            run.cancel()
        for run in left:
            run.wait(timeout=60)

    def fail_at(self, order: str) -> None:
        """Let the workers fail at a point, from now on: `point[@node]:action[:nth]`."""
        hits_file(self.faults).unlink(missing_ok=True)
        written = self.faults.with_suffix(".new")
        written.write_text(order)
        written.rename(self.faults)

    @property
    def hits(self) -> int:
        """How often the point of the last order was passed."""
        hits = hits_file(self.faults)
        return hits.stat().st_size if hits.exists() else 0

    def told(self) -> str:
        """What the workers have written to their logs since the world was lent."""
        logs = self.folder.glob("*.log")
        return "".join(log.read_bytes()[self._logs_begin.get(log, 0) :].decode(errors="replace") for log in logs)

    def check_workers(self) -> None:
        """I9: no worker ended unless it was killed, and each takes fresh work."""
        assert self.deaths == 0, f"{self.deaths} workers ended by themselves; their logs are in {self.folder}"
        orchestrator = self.orchestrator()
        before = len(self.ledger.lines())

        def all_act() -> bool:
            orchestrator.start("fan").wait(timeout=60)
            acted = {pid for *_, pid in self.ledger.lines()[before:]}
            return all(acted & set(child_pids(worker.pid)) for worker in self.workers)

        wait_until(all_act, "every worker takes fresh work", timeout=90)

    def kill_worker(self, rng: random.Random) -> None:
        with self._lock:
            rng.choice(self.workers).kill()
        self.kills += 1

    def kill_child(self, rng: random.Random) -> None:
        with self._lock:
            worker = rng.choice(self.workers)
        children = child_pids(worker.pid)
        if children:
            os.kill(rng.choice(children), signal.SIGKILL)
            self.kills += 1

    @property
    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.server.url, decode_responses=True, socket_timeout=5)

    @cached_property
    def through(self) -> Orchestrator:
        """One client that keeps its connections from test to test."""
        return self.orchestrator()

    def orchestrator(self, url: str = "") -> Orchestrator:
        """A client without the flows' code, as one in another service is; it connects as the workers do."""
        url = url or self.url
        return Orchestrator(Celery("client", broker=url, backend=url, set_as_current=False))


class Power:
    """A power loss: what the server's disk holds of the last second is gone."""

    def __init__(self, server: EmbeddedServer, directory: Path) -> None:
        self.server = server
        self.directory = directory
        self._sizes: list[tuple[float, dict[Path, int]]] = []
        self._stop = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            sizes = {path: path.stat().st_size for path in self.directory.rglob("*.aof")}
            self._sizes = [*self._sizes[-100:], (time.monotonic(), sizes)]

    def lose(self, *, seconds: float = 1.0) -> int:
        """Kill the server, cut its append-only file back, and start it; returns the bytes that were lost."""
        self.server.process.kill()
        self.server.process.wait(10)
        now = time.monotonic()
        older = [sizes for at, sizes in self._sizes if at <= now - seconds]
        lost = 0
        for path, size in (older[-1] if older else {}).items():
            if path.exists() and path.stat().st_size > size:
                lost += path.stat().st_size - size
                os.truncate(path, size + min(7, path.stat().st_size - size))  # and a torn record
        self.server.restart()
        return lost

    def close(self) -> None:
        self._stop.set()


@contextmanager
def watched_power(server: EmbeddedServer, directory: Path):
    power = Power(server, directory)
    try:
        yield power
    finally:
        power.close()


def check_run(run: Any, expected: str) -> dict[str, int]:
    """The invariants of one ended run; returns how often each node was started."""
    assert run.status == expected, (run.id, run.status, run.error, run.history())
    events = run.history()
    done = Counter(event.node for event in events if event.event == "succeeded")
    assert all(count == 1 for count in done.values()), (run.id, done)  # I2: one recorded result
    final = [
        index for index, event in enumerate(events) if event.event.startswith("run-") and event.event != "run-started"
    ]
    ended = [event.event for event in events if event.event == f"run-{expected}"]
    assert len(ended) == 1, (run.id, ended)
    assert not [event for event in events[final[-1] + 1 :] if event.event == "started"], run.id  # I4
    starts = Counter(event.node for event in events if event.event == "started")
    for node, count in starts.items():  # I2: every start but the last was recorded as an attempt that ended
        ends = sum(
            event.node == node and event.event in {"lost", "timed-out", "retrying", "failed", "unknown", "succeeded"}
            for event in events
        )
        assert count <= ends, (run.id, node, count, ends, events)
    store = run._engine.store
    plan = store.plan(store.run(run.id).plan)
    if not plan.maps and not any(node.paged for node in plan.nodes.values()):
        # Items and pages are too many for the history: of them it does not tell every start.
        view = look_at(store, {run.id: plan})
        check_run_in(view, view.runs[run.id])
    return dict(starts)


def check_keys(client: redis.Redis) -> None:
    """I7: every key of an ended run has a TTL, and nothing of it is indexed as live."""
    wait_until(lambda: not client.zcard("orchestrator:live"), "no run is live")
    await_children(client)
    assert lasting_keys(client, "orchestrator:run:*") == {}
    assert client.zcard("orchestrator:timers") == 0
    wait_until(lambda: not list(client.scan_iter("orchestrator:holders:*")), "no claims are left")
