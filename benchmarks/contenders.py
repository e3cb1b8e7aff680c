"""Contenders with the same work: our flows, one task a node or fused, and raw canvas, plain or hardened.

Each contender is a Celery app on a database of its own of one server. A step takes about 200 bytes and returns them.
"""

from __future__ import annotations

import os
import time
import warnings
from dataclasses import replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, Protocol

from celery import Celery, chain, chord, current_task, group
from celery.result import GroupResult

from orchestrator import FlowBuilder, FlowDefinitionWarning, Node, Orchestrator, manual

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator import Flow, FlowState

URL = os.environ.get("BENCH_REDIS_URL", "redis://127.0.0.1:6379").rstrip("/")
PAYLOAD = "x" * 200
LENGTHS = (10, 100, 1000)
NESTED = (10, 30)
WIDTH = 10
ITEMS = 1000
BATCHES = (1, 10, 100)
TIMEOUT_S = 1200
REVOKED_S = 0.1


class Contender(Protocol):
    """Starts flows and waits for them."""

    def start(self, work: str) -> Any:
        """Start one flow of a kind: "chain-<n>", "fan", "revoked" or "map"."""

    def wait(self, started: Any) -> None:
        """Wait until it has succeeded."""


def app_on(database: int, name: str) -> Celery:
    """An app on a database of its own."""
    url = f"{URL}/{database}"
    made = Celery(name, broker=url, backend=url, set_as_current=False)
    made.conf.update(broker_connection_retry_on_startup=True, worker_prefetch_multiplier=4)
    return made


# --- ours --------------------------------------------------------------------------------------------
def step(given: str) -> str:
    """Return the output of the step before."""
    return given


def begin() -> str:
    """Return the payload."""
    return PAYLOAD


def count(given: list[str]) -> int:
    """Join the members' outputs."""
    return len(given)


def one_of(_item: int) -> str:
    """Return an item."""
    return PAYLOAD


def revoke_itself() -> str:
    """Have its own message revoked, and the process that works on it ended."""
    current_task.app.control.revoke(current_task.request.id, terminate=True)
    time.sleep(REVOKED_S)
    return PAYLOAD


def reader(key: str) -> Callable[[FlowState], str]:
    """Return an input function that reads the output of another node."""
    return lambda state: state.get(key, str)


def chain_flow(length: int, *, fused: bool) -> Flow:
    """Return nodes one after the other, each with the output of the one before."""
    builder = FlowBuilder(f"chain-{length}").triggered_by(manual("bench")).then(Node("n-0", begin))
    for number in range(1, length):
        builder.then(Node(f"n-{number}", step).with_input_func(reader(f"n-{number - 1}")))
    return (builder.fused() if fused else builder).build()


def fan_flow(name: str, *, fused: bool, local: bool) -> Flow:
    """Return one node, ten at once, and their join."""
    first = Node("first", begin)
    members = [Node(f"m-{number}", step).with_input_func(lambda state: state.get(first)) for number in range(WIDTH)]
    builder = FlowBuilder(name).triggered_by(manual("bench")).then(first)
    builder.then_parallel("all", *members, local=local)
    builder.then(
        Node("join", count).with_input_func(lambda state: [state.get(f"m-{number}", str) for number in range(WIDTH)])
    )
    return (builder.fused() if fused else builder).build()


def revoked_flow() -> Flow:
    """Return nodes at once, every second of which is revoked while it runs."""
    members = [Node(f"m-{number}", (begin, revoke_itself)[number % 2]) for number in range(WIDTH)]
    return FlowBuilder("revoked").triggered_by(manual("bench")).then_parallel("all", *members).build()


def map_flow(batch: int) -> Flow:
    """Return a map over as many items as the run's input says, and their join."""
    item = Node("item", one_of)
    return (
        FlowBuilder(f"map-{batch}")
        .takes(int)
        .triggered_by(manual("bench"))
        .then_map("all", item, over=lambda state: list(range(state.input(int))), batch_size=batch)
        .then(Node("join", count).with_input_func(lambda state: state.get("item", list[str])))
        .build()
    )


def all_flows(*, fused: bool) -> list[Flow]:
    """Return what is measured beside raw canvas."""
    return [
        *(chain_flow(length, fused=fused) for length in LENGTHS),
        *(fan_flow(name, fused=fused, local=name == "fan-local") for name in ("fan", "fan-local")),
        *map(map_flow, BATCHES),
    ]


def few_flows() -> list[Flow]:
    """Return as few as an app of raw canvas has tasks, about: a pool process that begins prepares each of its tasks."""
    return [chain_flow(LENGTHS[0], fused=False), fan_flow("fan", fused=False, local=False), revoked_flow()]


def nested_flows() -> list[Flow]:
    """Return chains of nodes of the parent, and the same chains as children between the same nodes."""
    made = []
    for length, fused in product(NESTED, (False, True)):
        end = f"{length}-fused" if fused else str(length)
        child = replace(chain_flow(length, fused=fused), name=f"child-{end}")
        flat = replace(chain_flow(length + 2, fused=fused), name=f"flat-{end}")
        builder = FlowBuilder(f"nested-{end}").triggered_by(manual("bench")).then(Node("first", begin))
        builder.then(Node("child", child)).then(Node("last", step).with_inputs(given="child"))
        made += [child, flat, (builder.fused() if fused else builder).build()]
    return made


FLOWS: dict[str, Callable[[], list[Flow]]] = {
    "ours": partial(all_flows, fused=False),
    "fused": partial(all_flows, fused=True),
    "few": few_flows,
    "nested": nested_flows,
}
"""What each of our contenders has registered."""


class Ours:
    """Flows on the engine."""

    def __init__(self, database: int, name: str) -> None:
        self.app = app_on(database, name)
        self.orchestrator = Orchestrator(self.app)
        with warnings.catch_warnings(category=FlowDefinitionWarning, action="ignore"):
            flows = FLOWS[name]()
        for flow in flows:
            self.orchestrator.register(flow)

    def start(self, work: str) -> Any:
        """Start a run."""
        return self.orchestrator.start(work, ITEMS if work.startswith("map") else None)

    def start_items(self, count: int, batch: int) -> Any:
        """Start a run over so many items."""
        return self.orchestrator.start(f"map-{batch}", count)

    def wait(self, started: Any) -> None:
        """Wait for the run."""
        started.result(timeout=TIMEOUT_S)


# --- raw canvas --------------------------------------------------------------------------------------
class Raw:
    """The same work on Celery canvas, results stored."""

    def __init__(self, database: int, name: str, **conf: Any) -> None:
        self.app = app_on(database, name)
        self.app.conf.update(conf)

        @self.app.task(name="begin", shared=False)  # type: ignore[untyped-decorator]
        def begin_task() -> str:
            return PAYLOAD

        @self.app.task(name="step", shared=False)  # type: ignore[untyped-decorator]
        def step_task(given: Any) -> str:
            return str(given)

        @self.app.task(name="join", shared=False)  # type: ignore[untyped-decorator]
        def join_task(given: Sequence[str]) -> int:
            return len(given)

        @self.app.task(name="revoke-itself", shared=False)  # type: ignore[untyped-decorator]
        def revoke_itself_task() -> str:
            return revoke_itself()

        self.begin, self.step, self.join, self.revoke_itself = begin_task, step_task, join_task, revoke_itself_task

    def start(self, work: str) -> Any:
        """Send a canvas."""
        kind, _, size = work.partition("-")
        if kind == "chain":
            return chain(self.begin.s(), *[self.step.s() for _ in range(int(size) - 1)]).apply_async()
        if kind == "fan":
            return chain(self.begin.s(), group(self.step.s() for _ in range(WIDTH)), self.join.s()).apply_async()
        if kind == "revoked":
            return group((self.begin, self.revoke_itself)[number % 2].s() for number in range(WIDTH)).apply_async()
        return self.start_items(ITEMS, 1)

    def start_items(self, count: int, _batch: int) -> Any:
        """Send a chord over so many items."""
        return chord([self.step.s(PAYLOAD) for _ in range(count)])(self.join.s())

    def wait(self, started: Any) -> None:
        """Wait for the last result; one that is revoked will have none."""
        started.get(timeout=TIMEOUT_S, propagate=not isinstance(started, GroupResult))


HARDENED = {
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "broker_transport_options": {"visibility_timeout": 60},
}
NAMES = ("raw", "hardened", *FLOWS)


def contender(name: str) -> Ours | Raw:
    """Return one of `NAMES`."""
    database = NAMES.index(name) + 1
    if name in {"raw", "hardened"}:
        return Raw(database, name, **(HARDENED if name == "hardened" else {}))
    return Ours(database, name)


app = contender(os.environ["BENCH_CONTENDER"]).app if "BENCH_CONTENDER" in os.environ else None
