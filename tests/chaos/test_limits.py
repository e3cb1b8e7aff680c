"""Rate limits measured on real workers by Redis's clock: the whole rate is used, and no window has more than it allows.

The instant of a start is the one at which its script took the token; a node with a compensation keeps it in its record.
"""

from __future__ import annotations

import json
import random
import sys
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from tests.chaos.world import World, check_keys
from tests.harness import ROOT, WorkerProcess, environment_for, wait_until
from tests.processes import free_port, running

if TYPE_CHECKING:
    from orchestrator import FlowRun

LATE_S = 20.0
"""What a noisy machine may add to any figure."""


def tell(measured: str) -> None:
    """Show a figure to who runs the tests with -s."""
    sys.stdout.write(f"{measured}\n")


class LimitedWorld(World):
    """A world of the program with limits."""

    def start_worker(self, name: str, **environment: str) -> WorkerProcess:
        worker = WorkerProcess(
            "tests.programs.limited",
            name,
            self.folder / f"{name}.log",
            environment=environment_for(self.url, **self.settings) | self.environment | environment,
            options=["-c", str(self.size[1]), "--without-gossip"],
        )
        self.workers.append(worker)
        return worker


def starts_of(orchestrator: Any, run: FlowRun) -> list[int]:
    """Instants in ms at which the items of a run took their tokens, sorted."""
    records = orchestrator._engine.store.nodes(run.id)
    return sorted(record["started"] for name, record in records.items() if name.startswith("noted["))


def most_within(starts: list[int], window_ms: int) -> int:
    """Most starts in any half-open window."""
    return max(sum(first <= start < first + window_ms for start in starts) for first in starts)


def run_evenly(world: LimitedWorld, count: int, *, disturb: Any = None) -> tuple[list[int], float]:
    """Run so many items, with a disturbance in the middle; returns their starts and the seconds from first to last."""
    world.start_workers()
    orchestrator = world.orchestrator()
    run = orchestrator.start("evenly", count)
    if disturb is not None:
        wait_until(lambda: len(world.ledger.names("start")) >= count // 3, "it is at work", timeout=60)
        disturb()
        assert run.status == "running", "the disturbance hit work in progress"
    assert run.result(list[int], timeout=200) == list(range(count))
    starts = starts_of(orchestrator, run)
    assert len(starts) == count
    check_keys(world.client)
    return starts, (starts[-1] - starts[0]) / 1000


def test_a_limit_is_kept_and_used(tmp_path):
    with LimitedWorld(tmp_path, TEST_RATE="10") as world:
        starts, seconds = run_evenly(world, 40)
    tell(f"40 items at 10/s: {seconds:.2f} s, at most {most_within(starts, 1000)} in a second")
    assert most_within(starts, 1000) <= 11
    assert 3.9 - 0.01 <= seconds <= 3.9 * 3


def test_another_number_holds_for_those_who_wait(tmp_path):
    with LimitedWorld(tmp_path, workers=1, TEST_RATE="1", TEST_PER_S="600") as world:
        world.start_workers()
        run = world.orchestrator().start("evenly", 30)
        store = world.orchestrator()._engine.store
        line = store.keys.bucket("limited-even")[1]
        wait_until(lambda: store.client.zcard(line) == 29, "all but one wait")
        world.start_worker("newer", TEST_RATE="20", TEST_PER_S="1")
        assert run.result(list[int], timeout=60) == list(range(30))


@pytest.mark.chaos_long
@pytest.mark.timeout(300)
def test_two_hundred_items_at_five_a_second_take_forty_seconds(tmp_path):
    with LimitedWorld(tmp_path, TEST_RATE="5") as world:
        starts, seconds = run_evenly(world, 200)
    tell(f"200 items at 5/s: {seconds:.2f} s, at most {most_within(starts, 1000)} in a second")
    assert most_within(starts, 1000) <= 6
    assert 199 / 5 - 0.01 <= seconds <= 41 + LATE_S


@pytest.mark.chaos_long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["worker killed", "server stopped"])
def test_after_a_disturbance_there_is_no_burst(tmp_path, how):
    with LimitedWorld(tmp_path, TEST_RATE="10") as world:

        def stop_server() -> None:
            world.server.process.kill()
            world.server.process.wait(10)
            time.sleep(3)
            world.server.restart()

        disturb = (lambda: world.kill_worker(random.Random(1))) if how == "worker killed" else stop_server
        starts, seconds = run_evenly(world, 150, disturb=disturb)
        assert world.deaths == 0
    tell(f"150 items at 10/s, {how}: {seconds:.2f} s, at most {most_within(starts, 1000)} in a second")
    assert most_within(starts, 1000) <= 11
    assert seconds <= 14.9 + LATE_S


class Api:
    """The other side."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:
            return json.load(answer)

    def play(self, rate: int, seconds: float) -> list[tuple[float, int]]:
        """Allow a rate for some time; returns the answers of that time: seconds from its beginning, and status."""
        begun = self.get(f"limit/{rate}")
        time.sleep(seconds)
        return [(at - begun, status) for at, status in self.get("log") if begun <= at < begun + seconds]


def episodes(answers: list[tuple[float, int]], apart_s: float) -> list[int]:
    """How many refusals came together, each time that the other side refused."""
    found: list[int] = []
    last = float("-inf")
    for at, status in answers:
        if status == 429:
            if at - last > apart_s:
                found.append(0)
            found[-1] += 1
            last = at
    return found


@pytest.mark.chaos_long
@pytest.mark.timeout(400)
def test_an_adaptive_limiter_uses_what_the_other_side_allows(tmp_path):
    port = free_port()
    script = str(ROOT / "tests" / "programs" / "refusing_api.py")
    url = f"http://127.0.0.1:{port}/"
    with (
        running([script, str(port)], folder=tmp_path, log=tmp_path / "api.log", environment={}) as process,
        LimitedWorld(tmp_path / "world", TEST_API_URL=url) as world,
    ):
        process.wait_for("listening")
        world.start_workers()
        run = world.orchestrator().start("adaptively", 10_000)
        api = Api(url)
        for rate, settle_s in ((20, 20), (10, 15), (20, 35)):
            answers = api.play(rate, settle_s + 45)
            steady = [status for at, status in answers if at >= settle_s]
            used = steady.count(200) / 45 / rate
            together = episodes(answers, 0.15)
            told = f"{rate}/s: {used:.1%} used after {settle_s} s, refused together: {together}"
            tell(told)
            assert used > 0.9, told
            assert together, "it was never refused"
            assert max(together) <= 4, "no more than were in flight in four processes"
        run.cancel()
        assert run.wait(timeout=60) == "cancelled"
