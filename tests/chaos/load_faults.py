"""The faults that a load is put under, each with its pace: the same for the short test and for the long measurement."""

from __future__ import annotations

import random
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.chaos.world import Power, World, watched_power
from tests.refusals import OPTIONS, REFUSALS, RefusingServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


REFUSES_S = 4.0


@dataclass
class Scene:
    """What a fault acts on, and the dice it throws."""

    world: World
    rng: random.Random
    power: Power


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Attributes:
        strike: Does it once and returns when it is over; what it hit may be down for longer.
        every_s: From the beginning of one strike to that of the next.
        times: Strikes at most.
        after_s: Before the first one.
        repeats: Starts that one strike may cause beyond one for each node; None where nobody can know.
        is_between: It acts between the server and everybody else.
        server_options: What the server needs for it.
    """

    strike: Callable[[Scene], None]
    every_s: float
    times: int
    after_s: float = 0.0
    repeats: int | None = 8
    is_between: bool = False
    server_options: Sequence[str] = ()


@dataclass
class Struck:
    """What happened: strikes, and how many of them found unfinished work."""

    strikes: int = 0
    in_progress: int = 0


def kill_child(scene: Scene) -> None:
    scene.world.kill_child(scene.rng)


def kill_worker(scene: Scene) -> None:
    scene.world.kill_worker(scene.rng)


def stop_server(scene: Scene) -> None:
    scene.world.server.stop()
    time.sleep(scene.rng.uniform(0.3, 1.5))
    scene.world.server.start()


def kill_server(scene: Scene) -> None:
    server = scene.world.server
    server.process.kill()
    server.process.wait(10)
    time.sleep(scene.rng.uniform(0.0, 1.0))
    server.restart()


def lose_power(scene: Scene) -> None:
    assert scene.power.lose() > 0, "nothing was lost"


def cut_connections(scene: Scene) -> None:
    assert scene.world.proxy.cut(2.0) > 0, "nobody was connected"


def fill_memory(scene: Scene) -> None:
    client = scene.world.client
    client.config_set("maxmemory", client.info("memory")["used_memory"] - 1000)
    time.sleep(3)
    client.config_set("maxmemory", 0)


def drop_clients(scene: Scene) -> None:
    """The server drops everybody, again while they come back."""
    dropped = 0
    for _ in range(5):
        dropped += sum(scene.world.client.client_kill_filter(_type=kind) for kind in ("normal", "pubsub"))
        time.sleep(scene.rng.random() / 2)
    assert dropped, "nobody was connected"


def drop_clients_while_full(scene: Scene) -> None:
    scene.world.client.config_set("maxmemory", 1)
    drop_clients(scene)
    scene.world.client.config_set("maxmemory", 0)


# Those of the measurement.
FAULTS = {
    "pool process killed": Fault(kill_child, every_s=1.0, times=14, repeats=1),
    "worker killed": Fault(kill_worker, every_s=4.0, times=4, repeats=4),
    "server restarted": Fault(stop_server, every_s=4.5, times=3),
    "server killed": Fault(kill_server, every_s=4.5, times=3),
    "connections cut": Fault(cut_connections, every_s=4.5, times=3, is_between=True),
    "memory full": Fault(fill_memory, every_s=7.0, times=2),
    # There must be a second to lose.
    "power lost": Fault(lose_power, every_s=6.0, times=2, after_s=2.5, repeats=None),
}

MORE_FAULTS = {
    "clients dropped": Fault(drop_clients, every_s=2.5, times=3),
    "clients dropped while memory is full": Fault(drop_clients_while_full, every_s=2.5, times=3),
}


def refuse(name: str) -> Callable[[Scene], None]:
    """Let the server refuse for longer than a lease."""

    def strike(scene: Scene) -> None:
        with REFUSALS[name].provoked(RefusingServer.of(scene.world)):
            time.sleep(REFUSES_S)

    return strike


REFUSED = {
    f"Redis refuses: {name}": Fault(
        refuse(name),
        every_s=7.0,
        times=2,
        repeats=0,
        is_between=name in {"CLUSTERDOWN", "TRYAGAIN"},
        server_options=OPTIONS if name == "LOADING" else (),
    )
    for name in REFUSALS
}


@contextmanager
def staged(world: World, seed: str) -> Iterator[Scene]:
    """What a fault needs besides its world."""
    with watched_power(world.server, world.folder / "server") as power:
        yield Scene(world, random.Random(seed), power)


def strike_for(seconds: float, fault: Fault, scene: Scene, is_busy: Callable[[], bool]) -> Struck:
    """Strike at the fault's pace until time, strikes or work run out; the first one comes in any case."""
    struck = Struck()
    began = time.monotonic() + fault.after_s
    for number in range(fault.times):
        at = number * fault.every_s
        time.sleep(max(0.0, began + at - time.monotonic()))
        if number and (at >= seconds or not is_busy()):
            break
        struck.in_progress += is_busy()
        fault.strike(scene)
        struck.strikes += 1
    return struck
