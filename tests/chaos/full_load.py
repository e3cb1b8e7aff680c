"""Load of a hundred chains and fifty fan-outs under each fault: ours, and plain Celery canvas beside it.

A program: `python -m tests.chaos.full_load --seed 1 --out load.jsonl` writes one line of JSON for each load and ends
with 1 if a run of ours was lost or counted twice. A seed gives the same strikes at the same victims again; what they
find there is up to the machine. `tests/chaos/load_report.py` makes the table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery import Celery, chain, chord

from orchestrator import OrchestratorError
from tests.chaos.load_faults import FAULTS, REFUSED, Fault, Struck, staged, strike_for
from tests.chaos.world import World, check_keys, check_run
from tests.harness import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator import FlowRun

FLOWS = 150  # every third is a fan-out
NODES = 100 * 5 + 50 * 9
WORK_S = 0.075
FAULTY_S = 14.0
SETTLING_S = 20.0  # after the last progress
LONGEST_S = 120.0  # after the last fault
OURS = {"ours": "", "fused": "-fused"}
"""Systems of ours, and what the names of their flows end with."""
TAILS = {True: "join", False: "link-4"}
RESULTS = {True: 37, False: 5}


@dataclass
class Load:
    """What one load under one fault came to.

    Attributes:
        fault: What struck.
        system: `ours` or `fused`, or canvas: `plain` or `hardened`.
        seed: Of the strikes.
        lost: Flows without their result when nothing went on any more.
        counted_twice: Nodes with two recorded results; only ours records them.
        tails_twice: Last nodes of a flow whose function ran to its end twice.
        extra: Starts of functions beyond one for each node.
        burnt: Attempts that were counted beyond one for each node; only ours counts them.
        kills: Processes killed.
        strikes: Of the fault.
        in_progress: Strikes that found unfinished flows.
        left: Nodes that had not run after the last strike.
        recovery_s: From the last strike to the end of all, or to the last progress.
        standstill_s: The longest time in it in which no function started or ended.
        deaths: Workers that ended although nobody killed them.
        broken: What else was not as promised.
    """

    fault: str
    system: str
    seed: int
    lost: int = 0
    counted_twice: int = 0
    tails_twice: int = 0
    extra: int = 0
    burnt: int = 0
    kills: int = 0
    strikes: int = 0
    in_progress: int = 0
    left: int = 0
    recovery_s: float = 0.0
    standstill_s: float = 0.0
    deaths: int = 0
    broken: list[str] = field(default_factory=list)


def is_fan(number: int) -> bool:
    return number % 3 == 0


class Ours:
    """The load as flows of this library."""

    def __init__(self, world: World, suffix: str) -> None:
        self.world = world
        self.suffix = suffix
        self.runs: list[FlowRun] = []

    def start(self) -> None:
        orchestrator = self.world.orchestrator()
        self.runs = [
            orchestrator.start(("fan" if is_fan(number) else "chain") + self.suffix, idempotency_key=str(number))
            for number in range(FLOWS)
        ]

    def names(self) -> list[str]:
        return [run.id for run in self.runs]

    def has_ended(self) -> bool:
        return not self.world.client.zcard("orchestrator:live")

    def judge(self, load: Load) -> None:
        for number, run in enumerate(self.runs):
            try:
                if not run.status.is_final or run.result(int) != RESULTS[is_fan(number)]:
                    load.lost += 1
                    load.broken.append(f"{run.id} {run.status} {run.explain()}")
                    continue
                events = run.history()
                done = Counter(event.node for event in events if event.event == "succeeded")
                load.burnt += sum(event.event == "started" and event.attempt > 1 for event in events)
                load.counted_twice += sum(count > 1 for count in done.values())
                check_run(run, "succeeded")
            except OrchestratorError as error:
                load.lost += 1
                load.broken.append(f"{run.id} {error!r}")
            except AssertionError as error:
                load.broken.append(f"{run.id} {error}"[:2000])
        try:
            check_keys(self.world.client)
        except AssertionError as error:
            load.broken.append(str(error)[:2000])


class Raw:
    """The load as chains and chords of plain tasks."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.results: list[str] = []

    def start(self) -> None:
        client = Celery("client", broker=self.world.url, backend=self.world.url, set_as_current=False)
        # An AsyncResult unsubscribes when it goes, and would wait for a server that is gone.
        client.backend.remove_pending_result = lambda result: result
        self.results = [self._send(client, number) for number in range(FLOWS)]

    def _send(self, client: Celery, number: int) -> str:
        name = str(number)
        if is_fan(number):
            members = [self._link(client, n, name, f"member-{n}") for n in range(8)]
            flow = chord(members, client.signature("raw.join", (name,), app=client), app=client)
        else:
            first = self._link(client, 0, name, "link-0")
            flow = chain(first, *[self._link(client, name, f"link-{n}") for n in range(1, 5)], app=client)
        return str(flow.apply_async().id)

    def _link(self, client: Celery, *arguments: Any) -> Any:
        return client.signature("raw.link", arguments, app=client)

    def names(self) -> list[str]:
        return [str(number) for number in range(FLOWS)]

    def _stored(self) -> list[bool]:
        texts = self.world.client.mget([f"celery-task-meta-{result}" for result in self.results])
        metas = [json.loads(text) if text else {} for text in texts]
        return [
            (meta.get("status"), meta.get("result")) == ("SUCCESS", RESULTS[is_fan(number)])
            for number, meta in enumerate(metas)
        ]

    def has_ended(self) -> bool:
        return all(self._stored())

    def judge(self, load: Load) -> None:
        load.lost = FLOWS - sum(self._stored())


def ends(world: World) -> Counter[tuple[str, str]]:
    """How often each node of each flow came to its end."""
    return Counter((flow, node) for flow, node, _ in (name.split("/") for name in world.ledger.names("end")))


def measure(name: str, fault: Fault, *, system: str, seed: int, folder: Path) -> Load:
    """Put one system under the load and one fault."""
    load = Load(name, system, seed)
    environment: Any = {"TEST_WORK_S": str(WORK_S), "RAW_SETTING": system}
    program = "tests.programs.chaos" if system in OURS else "tests.programs.raw_load"
    with (
        World(
            folder,
            program=program,
            proxied=fault.is_between,
            server_options=fault.server_options,
            **environment,
        ) as world,
        staged(world, f"{seed}/{name}") as scene,
    ):
        work = Ours(world, OURS[system]) if system in OURS else Raw(world)
        world.start_workers()
        work.start()
        tails = {(flow, TAILS[is_fan(number)]) for number, flow in enumerate(work.names())}
        wait_until(lambda: ends(world), "work is in progress", timeout=60)
        struck = strike_for(FAULTY_S, fault, scene, lambda: bool(tails - ends(world).keys()))
        world.ledger.note("struck", name)
        load.left = NODES - len(ends(world))
        load.recovery_s = settle(work, world)
        work.judge(load)
        count(load, struck, world, tails)
        if system in OURS:
            check_workers(load, world)
            repeats = max(load.extra, load.burnt)
            if fault.repeats is not None and repeats > fault.repeats * load.strikes:
                load.broken.append(f"{repeats} extra attempts, more than {fault.repeats} for each strike")
    return load


def check_workers(load: Load, world: World) -> None:
    """Every worker takes fresh work."""
    try:
        world.check_workers()
    except AssertionError as error:
        load.broken.append(str(error)[:2000])


def settle(work: Ours | Raw, world: World) -> float:
    """Wait for the end of all, or of all progress; returns the seconds to the last progress."""
    began = last = time.monotonic()
    progress = -1
    while time.monotonic() < min(last + SETTLING_S, began + LONGEST_S):
        if work.has_ended():
            return round(time.monotonic() - began, 2)
        if (now := world.ledger.client.llen("ledger")) != progress:
            progress, last = now, time.monotonic()
        time.sleep(0.05)
    return round(last - began, 2)


def count(load: Load, struck: Struck, world: World, tails: set[tuple[str, str]]) -> None:
    """Fill in what the ledger and the world say."""
    starts = Counter(name.rsplit("/", 1)[0] for name in world.ledger.names("start"))
    load.extra = sum(count - 1 for count in starts.values())
    load.tails_twice = sum(count > 1 for node, count in ends(world).items() if node in tails)
    load.standstill_s = standstill(world)
    load.kills, load.deaths = world.kills, world.deaths
    load.strikes, load.in_progress = struck.strikes, struck.in_progress


def standstill(world: World) -> float:
    """The longest time after the last strike in which no function started or ended."""
    lines = world.ledger.lines()
    struck = next(at for kind, _, at, _ in lines if kind == "struck")
    times = sorted(at for _, _, at, _ in lines if at >= struck)
    return round(max((later - earlier for earlier, later in itertools.pairwise(times)), default=0.0), 2)


def is_right(load: Load) -> bool:
    """Whether a load of ours kept its promise."""
    return load.system not in OURS or not (load.lost or load.counted_twice or load.deaths or load.broken)


def run(names: Sequence[str], systems: Sequence[str], seeds: Sequence[int], out: Path | None) -> bool:
    """Every fault with every system and seed; what a load left behind is kept if it broke a promise."""
    is_good = True
    for seed, name, system in itertools.product(seeds, names, systems):
        folder = Path(tempfile.mkdtemp(prefix="load-"))
        load = measure(name, (FAULTS | REFUSED)[name], system=system, seed=seed, folder=folder)
        line = json.dumps(asdict(load))
        print(line, flush=True)  # noqa: T201 - the program's output
        if out is not None:
            with out.open("a") as lines:
                lines.write(line + "\n")
        if is_right(load):
            shutil.rmtree(folder)
        else:
            is_good = False
            print(f"Not as promised; logs and data are in {folder}", flush=True)  # noqa: T201 - the program's output
    return is_good


def main() -> int:
    """Read the command line; a signal to end leaves no worker behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, nargs="+", default=[random.randrange(10**6)])
    parser.add_argument("--fault", nargs="+", choices=[*FAULTS, *REFUSED], default=[*FAULTS, *REFUSED])
    parser.add_argument("--refused", action="store_true", help="every refusal of Redis, and no other fault")
    parser.add_argument("--system", nargs="+", choices=[*OURS, "plain", "hardened"], default=["ours"])
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    print(f"SEED={' '.join(map(str, chosen.seed))}", flush=True)  # noqa: T201 - the program's output
    return 0 if run([*REFUSED] if chosen.refused else chosen.fault, chosen.system, chosen.seed, chosen.out) else 1


if __name__ == "__main__":
    sys.exit(main())
